"""The configuration a stopped run goes on with: what it stored, and the overrides given now.

Neighbours: `compose.py` refuses overrides by the same rules, `cli` offers `mgrd resume`. Invariants: reads only; without overrides the
result is the stored configuration, but for `run.resume` (and `run.dir`, where the directory was moved).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orchestrator import paths
from orchestrator.config.compose import CONF_DIR, checked, from_yaml, refuse_unknown, root_message
from orchestrator.config.named import apply_named, split_named
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import ConfigError

CONFIG_FILE = "config.yaml"
FIXED = {  # keys that a run can't change on its way
    "run": "give its keys one by one",
    "run.dir": "the run goes on in the directory given",
    "run.resume": "`mgrd resume` sets it",
    "run.seed": "the run has drawn from its seed already; start another run",
}


def resumed_config(directory: Path, overrides: Sequence[str]) -> ExperimentConfig:
    """Raises ConfigError when the directory holds no run, or for an override that `compose_config` would refuse too; a group
    (`experiment=`, `reward=`) and the keys of `FIXED` are refused as well."""
    path = directory.absolute() / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"nothing to resume in {directory}: it holds no {CONFIG_FILE}; give the run.dir of a run")
    stored = from_yaml(path)
    config = changed_config(stored, overrides)
    moved = paths.run_dir(stored) != directory.absolute()
    run = dataclasses.replace(config.run, resume=True, dir=str(directory.absolute()) if moved else stored.run.dir)
    return checked(dataclasses.replace(config, run=run))


def changed_config(
    stored: ExperimentConfig, overrides: Sequence[str], fixed: Mapping[str, str] = FIXED
) -> ExperimentConfig:
    """`stored` with single keys changed; fixed: keys that stay, with the reason. Raises ConfigError as `resumed_config` does."""
    composed = OmegaConf.structured(stored)
    apply_overrides(composed, overrides, fixed)
    return checked(cast(ExperimentConfig, OmegaConf.to_object(composed)))


def apply_overrides(composed: DictConfig, overrides: Sequence[str], fixed: Mapping[str, str]) -> None:
    """Set or delete single keys in place, as `compose_config` would; values are not checked yet. Raises ConfigError."""
    plain, named = split_named(overrides)
    refuse_unknown(plain)
    for override in plain:
        _apply(composed, override, fixed)
    try:
        apply_named(composed, named)
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration refused: {root_message(error)}") from error


def lasting(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration as it is stored: without what holds for one start only."""
    run = dataclasses.replace(config.run, resume=False, redo=False)
    return dataclasses.replace(config, run=run, reward=dataclasses.replace(config.reward, accept_changes=False))


def refuse_another_run(stored: ExperimentConfig, config: ExperimentConfig) -> None:
    """Raises ConfigError when the directory holds a run of another seed, recipe or model: going on would throw its stages away."""
    pairs = (
        ("run.seed", stored.run.seed, config.run.seed),
        ("pipeline.recipe", stored.pipeline.recipe, config.pipeline.recipe),
        ("model.name", stored.model.name, config.model.name),
        ("model.path", stored.model.path, config.model.path),
    )
    found = [f"{key} was {before!r}, is {now!r}" for key, before, now in pairs if before != now]
    if found:
        raise ConfigError(
            f"the run to resume is another one: {'; '.join(found)}. Go on with `mgrd resume RUN_DIR`, which takes the stored "
            "configuration, or choose another run.dir"
        )


def _apply(composed: DictConfig, override: str, fixed: Mapping[str, str]) -> None:
    """Set or delete one key in place."""
    key = override.partition("=")[0].lstrip("+~")
    if key in fixed:
        raise ConfigError(f"{override!r} can't be given to a run that goes on: {fixed[key]}")
    if (CONF_DIR / key).is_dir():
        raise ConfigError(f"{override!r} names a group of keys; a run that goes on takes single keys, as in run.name=x")
    try:
        parsed = OverridesParser.create().parse_override(override)
        if parsed.is_sweep_override():
            raise ConfigError(f"{override!r} has several values; give one")
        if parsed.is_delete():
            _delete(composed, key)
        else:
            OmegaConf.update(composed, key, parsed.value(), merge=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"configuration refused: {override!r}: {root_message(error)}") from error


def _delete(composed: DictConfig, key: str) -> None:
    """An entry below a name that users choose; keys of the schema stay."""
    parent, _, name = key.rpartition(".")
    entries = OmegaConf.select(composed, parent) if parent else None
    if not isinstance(entries, DictConfig) or OmegaConf.get_type(entries) is not dict or name not in entries:
        raise ConfigError(f"~{key} deletes nothing: only entries such as reward.terms.NAME can be deleted")
    with open_dict(entries):
        del entries[name]
