"""What can be measured of a clip: when something sounds, how loud, how high, how fast.

Neighbours: `grounding` compares statements with it where a question has no truth. librosa does the signal processing; it is
imported on first use, without numba's compiler: compiling takes longer than a scoring process may live, and costs memory.
Invariants: pure (waveform in, numbers out), the same waveform gives the same numbers; silence gives no events, never an error.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from typing import Any

from rewards.errors import RewardError

RATE = 16_000  # Hz, of the waveforms measured here
HOP = 160  # samples: levels and events on a grid of 10 ms
WINDOW = 320  # samples of one level
FLOOR_SHARE = 0.1  # the quietest tenth of a clip is taken for its background
ABOVE_FLOOR_DB = 9.0  # an event rises this far above the background
BELOW_PEAK_DB = 32.0  # and is no quieter than this against the loudest moment
SILENCE_DB = -80.0  # full scale is 0; a clip that stays below has no events
JOIN_S = 0.09  # a shorter dip is the closure inside a word, not a gap between events
SHORTEST_S = 0.03  # a shorter burst is a click of the recording
REATTACK_DB = 12.0  # a sound that has sunk by this much and rises as much within REATTACK_S starts again
REATTACK_S = 0.04
ONSET_DELTA = 0.12  # of the strongest onset, above its surroundings, for one more onset inside an event
ONSET_APART_S = 0.08
FLATTEST_DB = 3.0  # less dynamics than this: one event that fills the clip, or nothing
PITCH_HOP = 512  # samples; 32 ms
PITCH_FRAME = 1024  # samples; two periods of PITCH_LOW_HZ
PITCH_LOW_HZ, PITCH_HIGH_HZ = 62.5, 1250.0
PITCH_STEP = 0.25  # semitones; at librosa's 0.1 the search takes five times as long
VOICED_SHARE = 0.35  # of an event's frames, below it has no pitch
GLIDE_SEMITONES = 1.5  # from the first to the last third of an event, below it is steady
REGULAR = 0.15  # spread of the intervals against their median, above there is no beat


@dataclass(frozen=True, slots=True)
class MeasuredEvent:
    """start_s, end_s: in the clip; level_db: RMS against the loudest event; pitch_hz: median, None for noise; glide: semitones
    from its first to its last third (positive: rising), None without a pitch."""

    start_s: float
    end_s: float
    level_db: float
    pitch_hz: float | None
    glide: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """seconds: length of the clip; beat_s: interval of regular events, None where they are fewer than three or irregular.

    onsets_s: starts of the events and further attacks inside them (syllables, a bell struck again); fewest: events that silence
    parts. How many events a person counts lies between `fewest` and the number of onsets.
    """

    seconds: float
    events: tuple[MeasuredEvent, ...]
    onsets_s: tuple[float, ...] = ()
    fewest: int = 0
    beat_s: float | None = None


def prepare() -> None:
    """Imports what measuring needs and runs it once: about 2 s of CPU time and 450 MB of address space."""
    import numpy as np

    measure(np.sin(np.arange(RATE // 4, dtype=np.float32)))


def measure(wave_L: Any) -> Measurement:
    """Events, pitches, levels and beat of a waveform: float [L], mono at RATE, finite. Raises ValueError for another form."""
    import numpy as np

    wave_L = np.asarray(wave_L, dtype=np.float32)
    if wave_L.ndim != 1 or not np.isfinite(wave_L).all():
        raise ValueError(f"a waveform is one finite channel, not an array of shape {wave_L.shape}")
    seconds = len(wave_L) / RATE
    levels_T = levels_of(wave_L)
    apart = find_spans(levels_T)
    if not apart:
        return Measurement(seconds, ())
    spans = [
        (start * HOP / RATE, min(end * HOP, len(wave_L)) / RATE)
        for span in apart
        for start, end in reattacks(levels_T, *span)
    ]
    pitch_T = track_pitch(wave_L)
    levels = [_rms_db(wave_L[round(start * RATE) : round(end * RATE)]) for start, end in spans]
    loudest = max(levels)
    events = tuple(
        MeasuredEvent(start, end, level - loudest, *_pitch_of(pitch_T, start, end))
        for (start, end), level in zip(spans, levels, strict=True)
    )
    onsets = find_onsets(wave_L, spans)
    beat_s = beat_of([start for start, _ in spans]) or beat_of(onsets)
    return Measurement(seconds, events, tuple(onsets), len(apart), beat_s)


def find_spans(levels_T: Any) -> list[tuple[int, int]]:
    """(first, past the last) frame of everything that stands out from the background, in order."""
    import numpy as np

    if not len(levels_T) or levels_T.max() < SILENCE_DB:
        return []
    floor, peak = float(np.quantile(levels_T, FLOOR_SHARE)), float(levels_T.max())
    if peak - floor < FLATTEST_DB:
        return [(0, len(levels_T))]
    threshold = min(max(floor + ABOVE_FLOOR_DB, peak - BELOW_PEAK_DB), peak - FLATTEST_DB)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (levels_T >= threshold).astype(np.int8), [0]))))
    joined: list[tuple[int, int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if joined and (start - joined[-1][1]) * HOP < JOIN_S * RATE:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return [(start, end) for start, end in joined if (end - start) * HOP >= SHORTEST_S * RATE]


def find_onsets(wave_L: Any, spans: list[tuple[float, float]]) -> list[float]:
    """Starts of the spans and further attacks inside them, seconds, in order."""
    librosa = _librosa()
    strength_T = librosa.onset.onset_strength(y=wave_L, sr=RATE, hop_length=HOP, n_fft=512, n_mels=64)
    found = librosa.onset.onset_detect(
        onset_envelope=strength_T,
        sr=RATE,
        hop_length=HOP,
        units="time",
        delta=ONSET_DELTA,
        wait=ONSET_APART_S * RATE // HOP,
    )
    onsets = [start for start, _ in spans]
    for onset in found.tolist():
        inside = any(start <= onset <= end for start, end in spans)
        if inside and all(abs(onset - other) >= ONSET_APART_S for other in onsets):
            onsets.append(onset)
    return sorted(onsets)


def levels_of(wave_L: Any) -> Any:
    """Level in dB (full scale 0) every HOP samples, float [L // HOP + 1]."""
    import numpy as np

    librosa = _librosa()
    if len(wave_L) < WINDOW:
        return np.zeros(0)
    rms_T = librosa.feature.rms(y=wave_L, frame_length=WINDOW, hop_length=HOP)[0]
    return 20.0 * np.log10(np.maximum(rms_T, 1e-6))


def track_pitch(wave_L: Any) -> Any:
    """Fundamental in Hz every PITCH_HOP samples, NaN where there is none, by pYIN."""
    import numpy as np

    if len(wave_L) < PITCH_FRAME:
        return np.full(1, math.nan)
    pitch_T, _, _ = _librosa().pyin(
        wave_L,
        fmin=PITCH_LOW_HZ,
        fmax=PITCH_HIGH_HZ,
        sr=RATE,
        frame_length=PITCH_FRAME,
        hop_length=PITCH_HOP,
        resolution=PITCH_STEP,
    )
    return pitch_T


def beat_of(onsets_s: list[float]) -> float | None:
    """The interval of at least three onsets that follow each other regularly."""
    import numpy as np

    intervals = np.diff(onsets_s)
    if len(intervals) < 2:
        return None
    middle = float(np.median(intervals))
    spread = float(np.median(np.abs(intervals - middle)))
    return middle if middle > 0 and spread <= REGULAR * middle and _is_even(intervals, middle) else None


def _is_even(intervals: Any, middle: float) -> bool:
    """Most intervals are the beat, or a whole number of it where one was missed."""
    import numpy as np

    ratios = intervals / middle
    return bool(np.mean(np.abs(ratios - np.maximum(1, np.round(ratios))) <= 2 * REGULAR) >= 0.7)


def reattacks(levels_T: Any, start: int, end: int) -> list[tuple[int, int]]:
    """The span, cut where its level has sunk and jumps up again; a consonant before its vowel only jumps."""
    back, apart = round(REATTACK_S * RATE / HOP), round(JOIN_S * RATE / HOP)
    bounds = [start]
    for at in range(start + apart, end - back):
        sunk = levels_T[bounds[-1] : at].max() - levels_T[at - 1]
        if at - bounds[-1] >= apart and min(sunk, levels_T[at + back - 1] - levels_T[at - 1]) >= REATTACK_DB:
            bounds.append(at)
    bounds.append(end)
    return list(itertools.pairwise(bounds))


def _rms_db(piece_L: Any) -> float:
    import numpy as np

    return 20.0 * math.log10(max(1e-6, float(np.sqrt(np.mean(np.square(piece_L, dtype=np.float64))))))


def _pitch_of(pitch_T: Any, start_s: float, end_s: float) -> tuple[float | None, float | None]:
    """Median pitch and glide of one event."""
    import numpy as np

    first, last = round(start_s * RATE / PITCH_HOP), round(end_s * RATE / PITCH_HOP) + 1
    inside = pitch_T[first:last]
    voiced = inside[np.isfinite(inside)]
    if len(voiced) < max(2.0, VOICED_SHARE * len(inside)):
        return None, None
    third = max(1, len(voiced) // 3)
    glide = 12.0 * math.log2(float(np.median(voiced[-third:]) / np.median(voiced[:third])))
    return float(np.median(voiced)), glide


def _librosa() -> Any:
    """librosa, imported with numba's compiler off; the environment is left as it was."""
    before = os.environ.get("NUMBA_DISABLE_JIT")
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    try:
        import librosa

        librosa.pyin, librosa.feature.rms  # noqa: B018  # the import proper: librosa loads its parts when they are asked for
    except AttributeError as error:
        raise RewardError(
            "librosa has parts that numba must compile once: run `python -c 'import librosa.core.audio, librosa.util.utils'` in the "
            "environment, by a user who may write to its site-packages"
        ) from error
    finally:
        if before is None:
            del os.environ["NUMBA_DISABLE_JIT"]
        else:
            os.environ["NUMBA_DISABLE_JIT"] = before
    return librosa
