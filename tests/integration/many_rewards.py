"""Reward functions of every form (async, batch, returning more than a number), well-behaved or not. For the sandbox tests."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from rewards import Sample, Verdict, reward

left: list[Any] = []


class Slippery(str):
    def __getitem__(self, key: object) -> str:
        raise RuntimeError("not for you")


RETURNS = {
    "float": 0.25,
    "int": 1,
    "bool": True,
    "numpy": np.float32(0.5),
    "numpy flag": np.bool_(True),
    "array": np.array([1.0, 2.0]),
    "verdict": Verdict(True, 0.5, {"detail": 0.75}, "", {"rationale": "sounds right"}),
    "invalid verdict": Verdict.invalid("the judge said nothing"),
    "dict": {"score": 0.5, "pitch": 1, "tempo": np.float64(0.25)},
    "dict without": {"pitch": 1.0},
    "dict of text": {"score": 1.0, "pitch": "high"},
    "dict of nan": {"score": 1.0, "pitch": float("nan")},
    "dict of none": {"score": None},
    "many parts": {"score": 1.0} | {str(i): 1.0 for i in range(100)},
    "none": None,
    "text": "1.0",
    "slippery": Verdict(False, None, {}, Slippery("x" * 10_000)),
    "complex": 1j,
    "huge": 10**400,
}


@reward("returning")
def returning(sample: Sample) -> Any:
    return RETURNS[sample.question["prompt"]]


async def obstinate() -> float:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            left.append(1)


async def side_task() -> float:
    left.append(asyncio.create_task(asyncio.sleep(0)))
    asyncio.get_running_loop().call_soon(time.sleep, 60)
    await asyncio.sleep(30)
    return 1.0


async def caught() -> float:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise ValueError("cancelled") from None
    return 1.0


@reward("awaiting")
async def awaiting(sample: Sample, *, pause_s: float = 0.2) -> Any:
    deed = sample.question["prompt"]
    await asyncio.sleep(pause_s)
    match deed:
        case "hang":
            await asyncio.sleep(60)
        case "block":
            time.sleep(60)
        case "raise":
            raise ValueError("no such option")
        case "exit":
            raise SystemExit(3)
        case "bomb":
            return float(len(b"x" * (1 << 40)))
        case "die":
            os._exit(5)
        case "obstinate":
            return await obstinate()
        case "side task":
            return await side_task()
        case "caught":
            return await caught()
        case "dict":
            return {"score": 0.5, "detail": 0.25}
    return 1.0


@reward("counting", batch=8)
def counting(samples: list[Sample]) -> Any:
    """Scores how many were in the call."""
    deeds = [sample.question["prompt"] for sample in samples]
    for sample in samples:
        sample.question["prompt"] = "spoilt"
    if "raise" in deeds:
        raise ValueError("no such option")
    if "hang" in deeds:
        time.sleep(60)
    if "die" in deeds:
        os._exit(5)
    if "bomb" in deeds:
        return [float(len(b"x" * (1 << 40)))]
    if "short" in deeds:
        return [1.0] * (len(deeds) - 1)
    if "number" in deeds:
        return 1.0
    return [float("nan") if deed == "nan" else float(len(deeds)) for deed in deeds]


@reward("plain")
def plain(sample: Sample) -> float:
    return float(sample.question["prompt"] != "spoilt")


@reward("listing")
def listing(sample: Sample, *, words: list[str]) -> float:
    words.append(sample.reply)
    return float(len(words))


@reward("noting")
def noting(sample: Sample) -> float:
    with Path("/dev/null").open("w") as nowhere:
        nowhere.write(sample.reply)
    return 1.0
