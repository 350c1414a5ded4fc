"""Rules a configuration must obey, pure: config → list of problems in words.

Neighbours: `compose.py` calls it before anything starts. Invariant: every problem is found in one go, each with the allowed range.
"""

from __future__ import annotations

from orchestrator.config.layouts import layout_problems, trainer_ranks
from orchestrator.config.memory_checks import memory_problems
from orchestrator.config.recipe_checks import recipe_problems
from orchestrator.config.schema import ExperimentConfig, TermConfig
from orchestrator.stages.scoring import CORRECTNESS

MODELS = ("tiny", "small", "step_audio_2_mini", "step_audio_r1")
TRANSPORTS = ("auto", "shared_memory", "object_store", "gloo", "nccl", "cuda_ipc")
STYLES = ("acoustic", "surrogate")
MODALITIES = ("audio", "text")
RESERVED = frozenset({"mean", "std", "mixed_questions"})  # reward/… of a policy update that no single function has


def problems(config: ExperimentConfig) -> list[str]:
    """All rule violations, each as `key = value: rule`; empty when the config can run."""
    out: list[str] = []

    def need(ok: bool, key: str, rule: str) -> None:
        if not ok:
            value: object = config
            for part in key.split("."):
                value = getattr(value, part)
            out.append(f"{key} = {value!r}: {rule}")

    pipeline, actor, rollout = config.pipeline, config.actor, config.rollout
    need(config.run.seed >= 0, "run.seed", "must be 0 or more")
    need(config.run.checkpoint_every >= 1, "run.checkpoint_every", "must be at least 1 policy update")
    need(config.run.keep_checkpoints >= 1, "run.keep_checkpoints", "must keep at least 1")
    need(config.run.keep_best >= 0, "run.keep_best", "must be 0 (none) or more")
    need(
        bool(config.run.best_metric.removeprefix("-")) or not config.run.keep_best,
        "run.best_metric",
        "must name a figure of policy updates when run.keep_best is above 0",
    )
    url = config.run.checkpoint_url
    need(not url or "://" in url, "run.checkpoint_url", "must be empty or a URL such as s3://bucket/folder")
    need(config.model.name in MODELS, "model.name", f"must be one of {', '.join(MODELS)}")
    need(config.model.dtype in ("float32", "bfloat16"), "model.dtype", "must be float32 or bfloat16")
    need(config.model.max_model_len >= 128, "model.max_model_len", "must be at least 128 tokens")
    need(config.data.build in ("", "acoustic_qa"), "data.build", "must be acoustic_qa or empty")

    need(pipeline.sft.steps >= 0, "pipeline.sft.steps", "must be 0 or more")
    need(pipeline.sft.batch >= 1, "pipeline.sft.batch", "must be at least 1")
    need(pipeline.sft.questions >= 1, "pipeline.sft.questions", "must be at least 1")
    need(pipeline.sft.style in STYLES, "pipeline.sft.style", f"must be one of {', '.join(STYLES)}")
    need(pipeline.sft.lengths >= 1, "pipeline.sft.lengths", "must be at least 1")
    out += recipe_problems(pipeline)
    need(pipeline.evaluate.samples >= 1, "pipeline.evaluate.samples", "must be at least 1")
    need(pipeline.evaluate.questions >= 0, "pipeline.evaluate.questions", "must be 0 (all) or more")

    sentinels = pipeline.sentinels
    need(sentinels.window >= 1, "pipeline.sentinels.window", "must be at least 1 policy update")
    need(sentinels.warmup >= 0, "pipeline.sentinels.warmup", "must be 0 or more policy updates")
    for name in ("mismatch_max", "mismatch_kl", "mismatch_probe", "reward_rise"):
        need((getattr(sentinels, name) or 0) >= 0, f"pipeline.sentinels.{name}", "must be 0 or more")
    for name in ("invalid", "truncated", "think_length", "entropy", "accuracy_fall", "repeated", "copied"):
        need(
            0 <= (getattr(sentinels, name) or 0) < 1, f"pipeline.sentinels.{name}", "must be at least 0 (off), below 1"
        )

    need(bool(config.reward.terms), "reward.terms", "must name at least one reward function")
    need(config.reward.timeout_s > 0, "reward.timeout_s", "must be above 0 seconds")
    need(config.reward.workers >= 1, "reward.workers", "must be at least 1")
    need(0 <= config.reward.max_invalid_share <= 1, "reward.max_invalid_share", "must be between 0 and 1")
    for name, term in config.reward.terms.items():
        if term.weight is None and term.audio is None and term.text is None and not term.datasets:
            out.append(
                f"reward.terms.{name}: has no weight; give weight, audio, text or datasets.NAME (0 reports it only)"
            )
    out += [
        f"reward.terms: none of {' and '.join(CORRECTNESS)} has a weight for {modality} questions, so none of their answers could count "
        f"as right; add reward.terms.answer.{modality}=0 (0 only measures it)"
        for modality in unjudged_modalities(config)
    ]
    for name, joint in config.reward.joint.items():
        if joint.weight is None and joint.audio is None and joint.text is None:
            out.append(f"reward.joint.{name}: has no weight; give weight, audio or text")
    for group, names in (("terms", config.reward.terms), ("joint", config.reward.joint)):
        for name in sorted(RESERVED & names.keys()):
            out.append(f"reward.{group}.{name}: reward/{name} is a figure of the whole reward; choose another name")
    need(rollout.workers >= 1, "rollout.workers", "must be at least 1")
    need(rollout.temperature > 0, "rollout.temperature", "must be above 0 (evaluation adds a greedy pass by itself)")
    need(rollout.max_new_tokens >= 1, "rollout.max_new_tokens", "must be at least 1")
    need(
        rollout.max_new_tokens < config.model.max_model_len,
        "rollout.max_new_tokens",
        f"must be below model.max_model_len ({config.model.max_model_len})",
    )
    publish = config.publish
    need(publish.transport in TRANSPORTS, "publish.transport", f"must be one of {', '.join(TRANSPORTS)}")
    devices = {"gloo": "cpu", "nccl": "cuda", "cuda_ipc": "cuda"}
    device = devices.get(publish.transport, actor.device)
    need(device == actor.device, "publish.transport", f"needs actor.device={device}")
    need(
        not publish.only_changed or publish.transport not in devices,
        "publish.only_changed",
        f"works with auto, shared_memory and object_store, not with {publish.transport}, which passes every tensor",
    )
    need(publish.transport != "cuda_ipc" or rollout.colocated, "publish.transport", "needs rollout.colocated=true")
    need(
        publish.transport != "nccl" or not rollout.colocated,
        "publish.transport",
        "needs GPUs of their own for trainer and engines; with rollout.colocated=true take cuda_ipc",
    )
    ranks = trainer_ranks(actor)
    need(
        not rollout.colocated
        or (rollout.workers == ranks and rollout.tensor_parallel == 1 and actor.critic.placement != "apart"),
        "rollout.colocated",
        f"needs an engine of one GPU a trainer rank: rollout.workers={ranks} rollout.tensor_parallel=1, and no critic apart",
    )
    need(0 <= publish.bucket_mib <= 4096, "publish.bucket_mib", "must be between 1 and 4096 MiB, or 0")
    need(publish.timeout_s > 0, "publish.timeout_s", "must be above 0 seconds")
    need(actor.device in ("cpu", "cuda"), "actor.device", "must be cpu or cuda")
    need(actor.world_size >= 1, "actor.world_size", "must be at least 1 rank")
    for name in ("start_timeout_s", "step_timeout_s", "heartbeat_s", "teardown_s"):
        need(getattr(actor, name) > 0, f"actor.{name}", "must be above 0 seconds")
    need(
        actor.hang_s >= 2 * actor.heartbeat_s,
        "actor.hang_s",
        f"must be at least twice actor.heartbeat_s ({actor.heartbeat_s:g} s)",
    )
    need(actor.restarts >= 0, "actor.restarts", "must be 0 (none) or more")
    out += layout_problems(actor) + memory_problems(config)
    need(
        actor.micro_batch_tokens >= config.model.max_model_len,
        "actor.micro_batch_tokens",
        "must hold one whole sequence (model.max_model_len)",
    )
    for name in ("actor_optim", "critic_optim", "sft_optim"):
        need(0 < getattr(actor, name).lr < 1, f"actor.{name}.lr", "must be between 0 and 1")
        optim = getattr(actor, name)
        need(
            0 <= optim.warmup_updates < optim.decay_updates,
            f"actor.{name}.warmup_updates",
            f"must be at least 0 and below actor.{name}.decay_updates ({optim.decay_updates})",
        )
        need(
            getattr(actor, name).decay_style in ("constant", "linear", "cosine"),
            f"actor.{name}.decay_style",
            "must be constant, linear or cosine",
        )
    ppo = actor.ppo
    need(0 < ppo.clip_low < 1, "actor.ppo.clip_low", "must be between 0 and 1")
    need(ppo.clip_high > 0, "actor.ppo.clip_high", "must be above 0")
    need(0 < ppo.gamma <= 1, "actor.ppo.gamma", "must be above 0 and at most 1")
    need(0 <= ppo.lam <= 1, "actor.ppo.lam", "must be between 0 and 1")
    need(ppo.epochs >= 1, "actor.ppo.epochs", "must be at least 1")
    need(ppo.minibatches >= 1, "actor.ppo.minibatches", "must be at least 1")
    loops = {"pipeline.reinforce": pipeline.reinforce}
    if pipeline.recipe == "mgrd" and pipeline.cold_start.enabled:
        loops["pipeline.cold_start.reinforce"] = pipeline.cold_start.reinforce
    for key, loop in loops.items():
        samples = loop.questions * loop.samples
        if loop.updates and ppo.minibatches > samples:
            out.append(
                f"actor.ppo.minibatches = {ppo.minibatches}: must be at most the samples of a policy update ({key}: {samples})"
            )
    return out


def unjudged_modalities(config: ExperimentConfig) -> list[str]:
    """Modalities in use that no term tells right answers of: there every answer would count as wrong.

    In use: audio with the data set that is built here, both in the recipe `mgrd`, and whatever has a weight in the reward. A
    correctness that counts for single data sets is believed to cover those of the run.
    """
    terms = config.reward.terms
    judging = [terms[name] for name in CORRECTNESS if name in terms]
    if any(term.datasets for term in judging):
        return []
    used = {
        modality for modality in MODALITIES for term in terms.values() if _weight(term, modality) not in (None, 0.0)
    }
    if config.pipeline.recipe == "mgrd":
        used |= set(MODALITIES)
    elif config.data.build and not config.data.train:
        used.add("audio")
    return [m for m in MODALITIES if m in used and all(_weight(term, m) is None for term in judging)]


def _weight(term: TermConfig, modality: str) -> float | None:
    own: float | None = getattr(term, modality)
    return term.weight if own is None else own
