"""What must hold before a run starts anything: memory, devices, data, rewards.

Neighbours: `controller` calls it first, `--dry-run` prints its plan. Invariants: every check names what is wrong and what to do; no
process of the run is started, nothing is written but the run directory itself (a pinned reward is looked up in the registry).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from actor import KernelsError, kernel_facts, resolve_kernels
from orchestrator import paths
from orchestrator.checkpoint_mirror import mirror_of
from orchestrator.config.layouts import trainer_ranks
from orchestrator.config.schema import ExperimentConfig
from orchestrator.demand import demand_of
from orchestrator.errors import NotNow, PreflightError
from orchestrator.rewards_store import open_store
from orchestrator.specs import examiner_spec, judge_filter_spec, reward_spec, trainer_spec
from rewards import ResolvedReward, RewardError, RewardSpec, resolve_reward

GIB = 1 << 30


def check_plan(config: ExperimentConfig) -> None:
    """Raises PreflightError for a plan on GPUs that cannot fit, with the figures and a change that helps; on CPUs nothing is checked."""
    if config.actor.device != "cuda":
        return
    from orchestrator.plan.advice import advise, refusal
    from orchestrator.plan.assess import assess
    from orchestrator.plan.sizes import model_sizes

    try:
        sizes = model_sizes(config)
    except (OSError, ValueError) as error:
        raise PreflightError(f"model.path: {error}") from error
    found = assess(config, sizes)
    if not found.fits:
        raise PreflightError(refusal(found, advise(config, sizes)))


def _check_trainer(config: ExperimentConfig) -> None:
    from orchestrator.plan.sizes import model_sizes

    try:
        spec, sizes = trainer_spec(config, Path(config.model.path)), model_sizes(config)
        for layout in {spec.layout, spec.of_critic}:
            layout.check_model(heads=sizes.heads, key_value_heads=sizes.kv_heads, ffn=sizes.ffn, layers=sizes.layers)
    except (OSError, ValueError) as error:
        raise PreflightError(f"actor: {error}") from error


def check_kernels(config: ExperimentConfig) -> None:
    """Raises PreflightError for kernels that were asked for by name and cannot run. The machines of another Ray are not asked: their
    ranks refuse when they start."""
    actor = config.actor
    if actor.device == "cuda" and config.cluster.ray_address:
        return
    try:
        resolve_kernels(actor.kernels, actor.device, kernel_facts(actor.device))
    except KernelsError as error:
        raise PreflightError(f"actor.{error}") from error


def check_machine(config: ExperimentConfig) -> None:
    """Raises PreflightError for a trainer that can't be built, for too little memory, and for too few cores or GPUs on a run that
    starts its own Ray."""
    _check_trainer(config)
    check_kernels(config)
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

        gpus, ranks = int(demand_of(config).gpus), trainer_ranks(config.actor)
        if torch.cuda.device_count() < gpus:
            raise PreflightError(
                f"the plan takes {gpus} GPUs ({ranks} trainer ranks and {config.rollout.workers} engines of "
                f"{config.rollout.tensor_parallel}), this machine has {torch.cuda.device_count()}; lower actor.world_size or "
                "rollout.workers, set cluster.ray_address, or use actor.device=cpu"
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


def check_checkpoint_url(config: ExperimentConfig) -> None:
    """Raises ConfigError when checkpoints are to be copied to a URL that cannot be opened or written."""
    mirror = mirror_of(config.run.checkpoint_url, paths.run_dir(config))
    if mirror is not None:
        mirror.probe()
