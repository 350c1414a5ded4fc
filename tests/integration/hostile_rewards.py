"""Reward functions that do what reward functions must not do; the question's prompt says what. For the sandbox tests."""

import ctypes
import os
import re
import signal
import sys
import time

from rewards import Sample, reward

kept: list[bytes] = []


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def loop() -> float:
    while True:
        pass


def flood() -> float:
    while True:
        sys.stdout.write("x" * 65536)


def bomb() -> float:
    held = []
    while True:
        held.append(bytes(1 << 24))  # never touched, so it takes addresses, not time


def leak() -> float:
    kept.append(bytes(48 << 20))
    return 1.0


def child_keeps_pipes() -> float:
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os._exit(7)


def fork_and_return() -> float:
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return 1.0


def raises(error: BaseException) -> float:
    raise error


def print_a_lot() -> float:
    for _ in range(400):
        print("x" * 65536)
    return 1.0


DEEDS = {
    "good": lambda: 1.0,
    "loop": loop,
    "regex": lambda: float(re.match(r"(a+)+$", "a" * 60 + "b") is None),
    "power": lambda: float(7 ** (10**8) > 0),
    "sleep": lambda: time.sleep(60) or 1.0,
    "flood": flood,
    "print": print_a_lot,
    "raise": lambda: raises(ValueError("no such option")),
    "unreadable": lambda: raises(Unreadable()),
    "long": lambda: raises(ValueError("x" * 50_000_000)),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: raises(KeyboardInterrupt()),
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "none": lambda: None,
    "text": lambda: "1.0",
    "list": lambda: [1.0],
    "bool": lambda: True,
    "bomb": bomb,
    "huge": lambda: float(len(b"x" * (1 << 40))),
    "leak": leak,
    "_exit": lambda: os._exit(5),
    "segfault": lambda: ctypes.string_at(0) and 1.0,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL) or 1.0,
    "close": lambda: os.closerange(3, 1 << 16) or 1.0,
    "garbage": lambda: [os.write(fd, b"[[0, 1e9\n{]]\n") for fd in range(3, 1 << 12) if _is_pipe(fd)] and 1.0,
    "child": child_keeps_pipes,
    "fork": fork_and_return,
    "environment": lambda: float("SECRET_OF_THE_PARENT" not in os.environ),
    "deep": lambda: float(DEEDS["deep"]()),
}


def _is_pipe(descriptor: int) -> bool:
    try:
        return os.fstat(descriptor).st_mode & 0o170000 == 0o010000
    except OSError:
        return False


@reward("hostile")
def hostile(sample: Sample) -> float:
    return DEEDS[sample.question["prompt"]]()


@reward("vandal")
def vandal(sample: Sample) -> float:
    sample.question["choices"].clear()
    sample.question["answer"] = "mine"
    return 1.0


@reward("harmless")
def harmless(sample: Sample) -> float:
    return float(sample.question["answer"] == "violin" and len(sample.question["choices"]) == 2)
