"""A reward function that lightly uses every library that shipped or users' functions are made of. For the sandbox tests."""

import asyncio
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

from rewards import Sample, reward


def with_sympy(_: Sample) -> float:
    import sympy

    x = sympy.Symbol("x")
    return float(sympy.integrate(2 * x, (x, 0, 1)))


def with_math_verify(_: Sample) -> float:
    from math_verify import parse, verify

    return float(verify(parse("$\\frac{1}{2}$"), parse("$0.5$")))


def with_jiwer(_: Sample) -> float:
    import jiwer

    return 1.0 - float(jiwer.wer("a dog barks", "a dog barks"))


def with_rapidfuzz(_: Sample) -> float:
    from rapidfuzz import fuzz

    return fuzz.ratio("violin", "violin") / 100


def with_langid(_: Sample) -> float:
    import py3langid

    return float(py3langid.classify("I hear a dog, and then somebody plays the violin.")[0] == "en")


def with_soundfile(sample: Sample) -> float:
    import soundfile

    wave, rate = soundfile.read(sample.question["audio"][0]["path"])
    return float(rate == 16_000 and len(wave) == 16_000)


def with_clip(sample: Sample) -> float:
    (clip,) = sample.clips
    return float(len(clip.waveform(8_000)) == 8_000)


def with_numba(_: Sample) -> float:
    import numba

    @numba.njit(cache=True)
    def total(n: int) -> float:
        found = 0.0
        for i in range(n):
            found += i
        return found

    return total(3) / 3


def with_librosa(sample: Sample) -> float:
    import librosa
    import numpy as np

    wave = sample.clips[0].waveform()
    level = float(librosa.feature.rms(y=wave).mean())
    onsets = librosa.onset.onset_detect(y=wave, sr=16_000)
    return float(0.6 < level < 0.8 and isinstance(onsets, np.ndarray))


def with_pyin(sample: Sample) -> float:
    import librosa
    import numpy as np

    pitch, _, _ = librosa.pyin(sample.clips[0].waveform(), fmin=200, fmax=800, sr=16_000)
    return float(abs(np.nanmedian(pitch) - 440) < 5)


def with_standard_library(_: Sample) -> float:
    logging.getLogger(__name__).warning("nobody reads this")
    here = Path(__file__).read_text()
    with tempfile.SpooledTemporaryFile(max_size=10) as spooled, tempfile.TemporaryFile("w+") as text:
        spooled.write(b"more than ten bytes")
        text.write("text")

    async def soon() -> float:
        await asyncio.sleep(0)
        return 1.0

    return asyncio.run(soon()) if re.search("with_standard_library", here) else 0.0


USES = {name.removeprefix("with_"): use for name, use in list(globals().items()) if name.startswith("with_")}


@reward("using")
def using(sample: Sample) -> Any:
    return USES[sample.question["prompt"]](sample)
