"""Overrides below names that users choose: `reward.terms.pitch_named.weight=0.1`, `reward.joint.both.of=[answer,grounding]`.

Hydra knows the keys of a schema, not of entries that do not exist yet. Neighbours: `compose.py` hands these overrides over.
Invariants: an entry is made by its first override; a misspelt field is refused with the nearest name; values are read as Hydra reads
them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.schema import JointConfig, TermConfig
from orchestrator.errors import ConfigError

ENTRIES: dict[str, type] = {"reward.terms.": TermConfig, "reward.joint.": JointConfig}
FREE = ("parameters", "datasets")  # fields whose own keys are free


def split_named(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(for Hydra, below users' names). Deletions (`~reward.terms.x`) are Hydra's."""
    named = [o for o in overrides if not o.startswith("~") and o.lstrip("+").startswith(tuple(ENTRIES))]
    return [o for o in overrides if o not in named], named


def apply_named(config: DictConfig, overrides: Sequence[str]) -> None:
    """Set them in place. Raises ConfigError for an unknown field or a value of another type."""
    for override in overrides:
        try:
            parsed = OverridesParser.create().parse_override(override)
            value = parsed.value()
        except HydraException as error:
            raise ConfigError(f"{override!r} can't be read: {error}") from error
        _apply(config, parsed.key_or_group, value, override)


def _apply(config: DictConfig, key: str, value: Any, override: str) -> None:
    prefix = next(p for p in ENTRIES if key.startswith(p))
    name, _, path = key.removeprefix(prefix).partition(".")
    fields = [item.name for item in dataclasses.fields(ENTRIES[prefix])]
    field, _, rest = path.partition(".")
    if not name or field not in fields or (rest and field not in FREE):
        close = difflib.get_close_matches(field, fields, n=1)
        hint = f"did you mean {prefix}{name}.{close[0]}?" if close else f"fields: {', '.join(fields)}"
        raise ConfigError(f"unknown configuration key {key!r}; {hint}")
    entries = OmegaConf.select(config, prefix.rstrip("."))
    try:
        if name not in entries:
            with open_dict(entries):
                entries[name] = OmegaConf.structured(ENTRIES[prefix])
        with open_dict(entries[name]):
            OmegaConf.update(entries[name], path, value, merge=False, force_add=bool(rest))
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration refused: {override!r}: {str(error).splitlines()[0]}") from error
