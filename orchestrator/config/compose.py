"""Overrides → checked configuration.

Neighbours: `schema.py` (keys and defaults), `conf/` (Hydra groups), `orchestrator.cli`.
Invariants: an unknown key or group option is refused with the nearest name; every value problem is reported at once, before
anything starts; the result is a plain `ExperimentConfig`.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config.checks import problems
from orchestrator.config.named import ENTRIES, apply_named, split_named
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import ConfigError

CONF_DIR = Path(__file__).parent / "conf"


def compose_config(overrides: list[str]) -> ExperimentConfig:
    """Hydra overrides (`experiment=demo`, `actor.actor_optim.lr=1e-5`) → checked config. Raises ConfigError."""
    overrides, named = split_named(overrides)
    refuse_unknown(overrides)
    ConfigStore.instance().store(name="schema", node=ExperimentConfig)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            composed = compose("config", overrides=overrides)
        apply_named(composed, named)
        config = cast(ExperimentConfig, OmegaConf.to_object(composed))
    except (HydraException, ConfigCompositionException, MissingConfigException, OmegaConfBaseException) as error:
        raise ConfigError(f"configuration refused: {root_message(error)}") from error
    return checked(config)


def from_yaml(path: Path) -> ExperimentConfig:
    """The config a run stored. Raises ConfigError for a file that is missing, malformed or of another schema."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a stored experiment configuration: {error}") from error
    return from_text(text, str(path))


def from_text(text: str, where: str) -> ExperimentConfig:
    """As `to_yaml` wrote it; where: for messages. Raises ConfigError for text that is malformed or of another schema."""
    try:
        stored, schema = OmegaConf.create(text), OmegaConf.structured(ExperimentConfig)
        if OmegaConf.select(stored, "reward.terms") is not None:
            schema.reward.terms = {}  # the stored terms are all there are; a default that was removed stays removed
        merged = OmegaConf.merge(schema, stored)
        return checked(cast(ExperimentConfig, OmegaConf.to_object(merged)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{where}: not a stored experiment configuration: {error}") from error


def checked(config: ExperimentConfig) -> ExperimentConfig:
    found = problems(config)
    if found:
        raise ConfigError("configuration refused:\n" + "\n".join(f"  - {line}" for line in found))
    return config


def to_yaml(config: ExperimentConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flat(config: ExperimentConfig) -> dict[str, str]:
    """`{"actor.ppo.clip_low": "0.2", …}`: every leaf, as text."""

    def walk(prefix: str, value: Any) -> dict[str, str]:
        if isinstance(value, dict) and value:
            return {
                k: v
                for name, item in value.items()
                for k, v in walk(f"{prefix}.{name}" if prefix else name, item).items()
            }
        return {prefix: str(value)}

    return walk("", dataclasses.asdict(config))


def known_keys() -> list[str]:
    """Every key an override may name, groups of conf/ included."""

    def walk(prefix: str, value: Any) -> list[str]:
        if not dataclasses.is_dataclass(value):
            return [prefix]
        keys = [prefix] if prefix else []
        for item in dataclasses.fields(value):
            keys += walk(f"{prefix}.{item.name}" if prefix else item.name, getattr(value, item.name))
        return keys

    return walk("", ExperimentConfig()) + sorted(p.name for p in CONF_DIR.iterdir() if p.is_dir())


def refuse_unknown(overrides: list[str]) -> None:
    """Raises ConfigError for a key that the schema lacks, with the nearest names."""
    keys = known_keys()
    for override in overrides:
        name, sign, _ = override.partition("=")
        key = name.lstrip("+~")
        if not sign and not name.startswith("~"):
            raise ConfigError(f"{override!r} is no override; write key=value, for example run.seed=7")
        if key in keys or key.startswith(tuple(ENTRIES)):
            continue
        close = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
        leaf = key.rsplit(".", 1)[-1]
        close += [k for k in keys if k.rsplit(".", 1)[-1] == leaf and k not in close][:3]
        hint = f"; did you mean {' or '.join(close)}?" if close else "; `mgrd config` lists all keys"
        raise ConfigError(f"unknown configuration key {key!r}{hint}")
    for override in overrides:
        group, _, option = override.partition("=")
        folder = CONF_DIR / group
        if folder.is_dir() and not (folder / f"{option}.yaml").is_file():
            options = sorted(p.stem for p in folder.glob("*.yaml"))
            close = difflib.get_close_matches(option, options, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"there is no {group} named {option!r}; {hint}{group} is one of: {', '.join(options)}")


def root_message(error: BaseException) -> str:
    """The innermost cause in one line, with the key that it names."""
    key = ""
    while True:
        key = getattr(error, "full_key", None) or key
        if error.__cause__ is None:
            break
        error = error.__cause__
    message = str(error).strip().split("\n    full_key")[0]
    return f"{key}: {message}" if key and key not in message else message
