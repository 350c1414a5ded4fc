"""Experiments, events and samples as the JSON texts that Redis holds.

Neighbours: `store` and its parts. Invariant: what is encoded here decodes to an equal message.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from orchestrator.service.messages import Event, Experiment, PastRun, SampledTrajectory

EXPERIMENT = msgspec.json.Decoder(Experiment)
EXPERIMENTS = msgspec.json.Decoder(list[Experiment])
PAST_RUN = msgspec.json.Decoder(PastRun)
SAMPLE = msgspec.json.Decoder(SampledTrajectory)


def text(value: object) -> str:
    """JSON of any message or plain value."""
    return msgspec.json.encode(value).decode()


def proved(value: object) -> str:
    """As `text`, when it can be read back; else one unreadable experiment would hide all others. Raises ValueError."""
    encoded = text(value)
    try:
        msgspec.json.decode(encoded, type=type(value))
    except msgspec.MsgspecError as error:
        raise ValueError(f"{value!r} can't be kept: {error}") from error
    return encoded


def fields(experiment: Experiment) -> list[str]:
    """Name, JSON text, name, JSON text, …"""
    return [part for name in Experiment.__slots__ for part in (name, text(getattr(experiment, name)))]


def event(id: str, held: dict[str, str]) -> Event:
    data: dict[str, Any] = msgspec.json.decode(held["data"])
    return Event(id, held["experiment"], held["kind"], float(held["at"]), data)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def index(kind: str, *names: str) -> str:
    """Key (without prefix) of the experiments of a user, a tag or a parent; names are the users' and may hold anything."""
    return f"{kind}:" + ":".join(name.replace("%", "%25").replace(":", "%3A") for name in names)
