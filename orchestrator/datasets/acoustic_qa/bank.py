"""The bank: every recording at one level and rate, with a catalogue.

Neighbours: `sources` fetched the packages, `cuts` cut the sounds, `scenes` draws from the catalogue, `render` mixes the waves.
Invariants: the same packages give the same bytes; a recording's RMS is REFERENCE_RMS, so that gains in a scene are levels; a kind
that lacks a side of the split is left out and named; a bank is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.datasets.acoustic_qa import archives, cuts, library, patches, recipe, voices
from orchestrator.datasets.acoustic_qa.cuts import Cut, Cutter
from orchestrator.datasets.acoustic_qa.library import RATE, Library
from orchestrator.datasets.acoustic_qa.scenes import Recording
from orchestrator.datasets.acoustic_qa.sources import PACKAGES, Fetched
from orchestrator.datasets.schema import DataError
from orchestrator.paths import cache_dir

REFERENCE_RMS = 0.1
STORED_RMS = 2048  # of a wave as int16: crests up to 16 times the RMS fit
FORMAT = 1  # of the bank's files; a bank of another format is built anew


class BankError(DataError):
    """The bank cannot be built or read; the message says why and what to do."""


@dataclass(frozen=True)
class Bank:
    """Recordings and their sound.

    waves: float32 [L] at 16 kHz, RMS REFERENCE_RMS, by recording id; digest: SHA-256 of catalogue and waves; thinner: what could not
    be had, a line for each, the domain first.
    """

    recordings: tuple[Recording, ...]
    waves: dict[str, np.ndarray]
    digest: str
    thinner: tuple[str, ...]


def bank_for(fetched: Fetched, cache: Path | None = None) -> Bank:
    """The bank of these packages: the cached one if nothing it is made from has changed, else a new one, which is kept.

    Raises BankError when no kind of sound is left, OSError when the cache cannot be written.
    """
    folder = (cache or cache_dir()) / "banks" / _key(fetched)
    if not (folder / "catalogue.jsonl").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".bank-") as staging:
            build_bank(fetched, Path(staging) / "bank")
            if folder.exists():  # unfinished, or finished by another process meanwhile
                shutil.rmtree(folder)
            (Path(staging) / "bank").rename(folder)
    return load_bank(folder)


def build_bank(fetched: Fetched, folder: Path) -> Bank:
    """Cuts every recording and writes the bank into `folder` (catalogue.jsonl, waves.npy). Raises as `bank_for`."""
    cutter = Cutter(Library(fetched.sources))
    kept, lost = _with_both_sides(cutter.all())
    thinner = _missing_lines(fetched.missing)
    thinner += cutter.problems + lost
    if not kept:
        raise BankError("no kind of sound has recordings for both splits:\n  " + "\n  ".join(thinner))
    recordings, waves = [], []
    for cut in sorted(kept, key=_identity):
        rms = float(np.sqrt(np.mean(np.square(cut.wave_L, dtype=np.float64))))
        waves.append(np.clip(np.round(cut.wave_L * (STORED_RMS / max(rms, 1e-9))), -32768, 32767).astype("<i2"))
        seconds = len(cut.wave_L) / RATE
        recordings.append(Recording(_identity(cut), cut.kind, cut.domain, cut.split, cut.midi, seconds, cut.source))
    if len({r.id for r in recordings}) != len(recordings):
        raise BankError("two recordings of the recipe have the same name")
    folder.mkdir(parents=True, exist_ok=True)
    head = {"bank_format": FORMAT, "thinner": thinner}
    lines = [json.dumps(head), *(json.dumps(dataclasses.asdict(r), sort_keys=True) for r in recordings)]
    np.save(folder / "waves.npy", np.concatenate(waves))
    (folder / "catalogue.jsonl").write_text("\n".join(lines) + "\n")
    return load_bank(folder)


def load_bank(folder: Path) -> Bank:
    """Reads a bank. Raises BankError when it is missing, damaged or of another format."""
    try:
        head, *lines = (folder / "catalogue.jsonl").read_text().splitlines()
        stored = np.load(folder / "waves.npy", mmap_mode="r")
        about = json.loads(head)
        recordings = tuple(Recording(**json.loads(line)) for line in lines)
        digest = hashlib.sha256((folder / "catalogue.jsonl").read_bytes() + (folder / "waves.npy").read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise BankError(f"no bank can be read in {folder}: {error}; remove the folder and build again") from error
    if about.get("bank_format") != FORMAT:
        raise BankError(f"the bank in {folder} has another format; remove the folder and build again")
    waves, at = {}, 0
    for recording in recordings:
        length = round(recording.seconds * RATE)
        waves[recording.id] = stored[at : at + length].astype(np.float32) * np.float32(REFERENCE_RMS / STORED_RMS)
        at += length
    if at != len(stored):
        raise BankError(
            f"the bank in {folder} is damaged: {len(stored)} samples, {at} catalogued; remove it and build again"
        )
    return Bank(recordings, waves, digest.hexdigest(), tuple(about["thinner"]))


def _key(fetched: Fetched) -> str:
    """Changes when a package, the recipe or the code that cuts changes."""
    digest = hashlib.sha256()
    for source in fetched.sources.values():
        digest.update(f"{source.name} {source.version} {source.sha256}\n".encode())
    digest.update("\n".join(fetched.missing).encode())
    for module in (archives, cuts, library, patches, recipe, voices):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(Path(__file__).with_name("espeak.py").read_bytes())
    return digest.hexdigest()[:20]


def _identity(cut: Cut) -> str:
    note = "" if cut.midi is None else f"/{cut.midi}"
    return f"{cut.kind}/{cut.name}{note}"


def _with_both_sides(found: list[Cut]) -> tuple[list[Cut], list[str]]:
    """Cuts of kinds that can be trained and held out, and a line for each (domain, side) that others lack."""
    sides: dict[tuple[str, str], set[str]] = {}
    for cut in found:
        sides.setdefault((cut.domain, cut.kind), set()).add(cut.split)
    lacking: dict[tuple[str, str], list[str]] = {}
    for (domain, kind), have in sorted(sides.items()):
        for side in sorted({"train", "held_out"} - have):
            lacking.setdefault((domain, side), []).append(kind)
    lost = [
        f"{domain}: no {side} recording of {', '.join(kinds)}; left out" for (domain, side), kinds in lacking.items()
    ]
    return [c for c in found if len(sides[c.domain, c.kind]) == 2], lost


def _missing_lines(missing: dict[str, str]) -> list[str]:
    """A line for each group of packages that thin the same domains for the same reason."""
    domains_of = {package.name: ", ".join(package.domains) for package in PACKAGES}
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in missing.items():
        groups.setdefault((domains_of.get(name, "?"), reason), []).append(name)
    return [f"{domains}: no {', '.join(names)} ({reason})" for (domains, reason), names in groups.items()]
