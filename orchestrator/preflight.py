"""What must hold before a run starts anything: memory, devices, data, rewards.

Neighbours: `controller` calls it first, `--dry-run` prints its plan. Invariants: every check names what is wrong and what to do; no
process of the run is started, nothing is written but the run directory itself (a pinned reward is looked up in the registry).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.demand import demand_of
from orchestrator.errors import NotNow, PreflightError
from orchestrator.rewards_store import open_store
from orchestrator.specs import examiner_spec, judge_filter_spec, reward_spec
from rewards import ResolvedReward, RewardError, RewardSpec, resolve_reward

GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class ResourcePlan:
    """ranks, engines: processes that hold weights; *_gib: estimates for one of them; gpus: devices the plan takes."""

    ranks: int
    engines: int
    parameters: int
    engine_gib: float
    rank_gib: float
    gpus: int


def resource_plan(config: ExperimentConfig, parameters: int) -> ResourcePlan:
    """Arithmetic from the decoder's and adaptor's parameter count (fp32 master weights, Adam, gradients; actor and critic)."""
    weight = BYTES[config.model.dtype]
    shard = parameters / config.actor.tensor_parallel
    one_model = shard * (weight + 4 + 12 / (config.actor.world_size // config.actor.tensor_parallel))
    engine = parameters * weight / config.rollout.tensor_parallel + config.rollout.kv_cache_gib * GIB
    cuda = config.actor.device == "cuda"
    return ResourcePlan(
        ranks=config.actor.world_size,
        engines=config.rollout.workers,
        parameters=parameters,
        engine_gib=engine / GIB,
        rank_gib=2 * one_model / GIB,
        gpus=config.actor.world_size + config.rollout.workers * config.rollout.tensor_parallel if cuda else 0,
    )


def model_parameters(config: ExperimentConfig) -> int:
    """Adaptor and decoder parameters, of the folder in model.path or of the preset."""
    from rollout import load_config, preset_config, trainable_parameters

    folder = Path(config.model.path) if config.model.path else None
    return trainable_parameters(load_config(folder) if folder and folder.is_dir() else preset_config(config.model.name))


def check_machine(config: ExperimentConfig) -> None:
    """Raises PreflightError for too little memory, and for too few cores or GPUs on a run that starts its own Ray."""
    free = psutil.virtual_memory().available / GIB
    if free < config.run.min_free_memory_gib:
        raise NotNow(
            f"only {free:.1f} GiB of memory are free, the run needs {config.run.min_free_memory_gib:.1f} GiB; free some, or lower "
            "run.min_free_memory_gib if you know it fits"
        )
    wanted = demand_of(config).cpus
    if 0 < config.cluster.num_cpus < wanted and not config.cluster.ray_address:
        raise PreflightError(
            f"the run reserves {wanted:g} cores (one a trainer rank, rollout.threads an engine), cluster.num_cpus allows "
            f"{config.cluster.num_cpus}; raise it, or leave it at 0"
        )
    if config.actor.device == "cuda" and not config.cluster.ray_address:
        import torch

        plan = resource_plan(config, 0)
        if torch.cuda.device_count() < plan.gpus:
            raise PreflightError(
                f"the plan takes {plan.gpus} GPUs ({plan.ranks} trainer ranks and {plan.engines} engines), this machine has "
                f"{torch.cuda.device_count()}; lower actor.world_size or rollout.workers, set cluster.ray_address, or use actor.device=cpu"
            )


def resolve_rewards(config: ExperimentConfig, pinned: Mapping[str, str]) -> ResolvedReward:
    """The run's reward with every function pinned; pinned: content hashes it began with, empty on a first start.

    Raises PreflightError for a function, version or parameter that can't be used, also one of the judge that filters chains, and
    for a resumed run that would score with other functions than it began with.
    """
    reward = _resolved("reward", reward_spec(config), config.reward.store, resumed=bool(pinned))
    resolve_judge(config, resumed=bool(pinned))
    changed = [name for name in pinned if name in reward.versions and reward.versions[name] != pinned[name]]
    if changed and not config.reward.accept_changes:
        lines = "; ".join(f"{name} was {pinned[name]}, is {reward.versions[name]}" for name in changed)
        raise PreflightError(
            f"the run's reward functions have changed: {lines}. Restore their source, pin reward.terms.NAME.version, or go on "
            "with the new ones by reward.accept_changes=true"
        )
    return reward


def resolve_judge(config: ExperimentConfig, *, costs_file: str = "", resumed: bool = True) -> ResolvedReward | None:
    """The last filter of distillation, pinned; None when there is none. resumed: a retired version may be used.

    Raises PreflightError for a function, version or parameter that can't be used.
    """
    spec = judge_filter_spec(config, costs_file)
    if spec is None:
        return None
    return _resolved("pipeline.distil.judge", spec, config.reward.store, resumed=resumed)


def examiner_versions(config: ExperimentConfig) -> dict[str, str]:
    """Content hash of every function that filters chains and measures models (`Parts.examiner`); nothing is started."""
    return resolve_reward(examiner_spec(config)).versions


def judge_versions(config: ExperimentConfig) -> dict[str, str]:
    """Content hash of the judge that filters chains, {} when there is none; nothing is started. Raises PreflightError."""
    judge = resolve_judge(config)
    return judge.versions if judge else {}


def _resolved(key: str, spec: RewardSpec, store_url: str, *, resumed: bool) -> ResolvedReward:
    """key: of the configuration, for messages."""
    try:
        if not any(term.version for term in spec.terms):
            return resolve_reward(spec)
        with open_store(store_url) as store:
            return resolve_reward(spec, store, resumed=resumed)
    except RewardError as error:
        raise PreflightError(f"{key}: {error}") from error


def check_data_paths(config: ExperimentConfig) -> None:
    """Raises PreflightError for a data file that is named but absent, when no builder would make it."""
    for key, named, path in (
        ("data.train", config.data.train, paths.train_file(config)),
        ("data.held_out", config.data.held_out, paths.held_out_file(config)),
    ):
        if path.is_file() or (config.data.build and not named):
            continue
        hint = "set it to a JSONL file of questions, or build one with `mgrd data build acoustic_qa`"
        raise PreflightError(f"{key}: {path} does not exist; {hint}")


def check_run_directory(path: Path) -> None:
    """Raises PreflightError when `path` is a file or can't be created."""
    if path.exists() and not path.is_dir():
        raise PreflightError(f"run.dir: {path} is a file; choose a directory")
