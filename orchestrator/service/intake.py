"""What users submit → a checked configuration, what it needs, and the text that reruns it; or a refusal that names the field.

Neighbours: `api` stores what comes out; `override_rules` and `allowed_paths` say what is not taken, `demand` counts. Invariants: nothing
is started or written; keys that the service sets itself are never taken from users; any thread may call, one at a time composes
(Hydra's state is global).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.compose import CONF_DIR, checked, from_text, refuse_unknown, root_message
from orchestrator.config.layouts import trainer_ranks
from orchestrator.config.named import split_named
from orchestrator.config.resume import FIXED, apply_overrides, lasting
from orchestrator.config.schema import ExperimentConfig
from orchestrator.demand import Demand, demand_of
from orchestrator.errors import ConfigError
from orchestrator.service.allowed_paths import outside
from orchestrator.service.override_rules import IntakeRefused, check_overrides, is_group

COMPOSED = 512  # compositions kept: a load of equal submits composes once
MAX_PROCESSES = 10_000  # every one is a line of the demand that the store keeps
CLONE_FIXED = {key: reason for key, reason in FIXED.items() if key != "run.seed"}
_composing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Taken:
    """yaml: the resolved configuration, as the store keeps it; demand: what it holds while it runs; name: run.name."""

    yaml: str
    demand: Demand
    name: str


def take(overrides: Sequence[str], roots: Sequence[Path], *, code: bool = False, field: str = "overrides") -> Taken:
    """roots: folders that the configuration may name files in; code: user code travels with it, relative to which it may name files;
    field: of the request, for messages. Raises IntakeRefused."""
    check_overrides(overrides, field)
    for override in split_named(overrides)[0]:
        with _refusing(f"{field}[{overrides.index(override)}]"):
            refuse_unknown([override])
    with _refusing(field):
        config, yaml = _composed(tuple(overrides))
    return _taken(config, yaml, roots, code=code, field=field)


def take_changed(
    stored_yaml: str, overrides: Sequence[str], roots: Sequence[Path], *, code: bool = False, clone: bool = False
) -> Taken:
    """A stored configuration with single keys changed: of an experiment that goes on, or of its clone. Raises IntakeRefused."""
    check_overrides(overrides)
    with _refusing("overrides"):
        stored = lasting(config_of(stored_yaml))
        composed = OmegaConf.structured(stored)
        apply_overrides(composed, overrides, CLONE_FIXED if clone else FIXED)
        config = _checked(composed)
    return _taken(config, OmegaConf.to_yaml(composed), roots, code=code, field="overrides")


def config_of(yaml: str) -> ExperimentConfig:
    """Raises ConfigError for text that is none of ours."""
    return from_text(yaml, "the stored configuration")


def _taken(config: ExperimentConfig, yaml: str, roots: Sequence[Path], *, code: bool, field: str) -> Taken:
    found = outside(config, roots, code=code)
    if found:
        key, why = found
        raise IntakeRefused(
            field, f"{key}: {why}", "put the file there, or ask who runs the service for another folder"
        )
    processes = trainer_ranks(config.actor) + config.rollout.workers
    if processes > MAX_PROCESSES:
        raise IntakeRefused(
            field,
            f"actor.world_size and rollout.workers ask for {processes} processes, the limit is {MAX_PROCESSES}",
            "lower one of them",
        )
    return Taken(yaml, demand_of(config), config.run.name)


@lru_cache(maxsize=COMPOSED)
def _composed(overrides: tuple[str, ...]) -> tuple[ExperimentConfig, str]:
    """What `compose_config` gives, and its YAML; not to be changed by whoever gets it. Groups are composed once, single keys are set
    on a copy, which is several times faster."""
    groups = tuple(override for override in overrides if is_group(override))
    with _composing:
        composed = copy.deepcopy(_base(groups))
    apply_overrides(composed, [override for override in overrides if override not in groups], {})
    return _checked(composed), OmegaConf.to_yaml(composed)


@lru_cache(maxsize=64)
def _base(groups: tuple[str, ...]) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=ExperimentConfig)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose("config", overrides=list(groups))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"configuration refused: {root_message(error)}") from error


def _checked(composed: DictConfig) -> ExperimentConfig:
    try:
        return checked(cast(ExperimentConfig, OmegaConf.to_object(composed)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration refused: {root_message(error)}") from error


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    """What the configuration's own rules refuse, with the field of the request."""
    try:
        yield
    except IntakeRefused:
        raise
    except ConfigError as error:
        raise IntakeRefused(field, str(error)) from error
