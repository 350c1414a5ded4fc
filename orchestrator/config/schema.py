"""The configuration of an experiment: every key, its default, its meaning. The only place for defaults.

Neighbours: `conf/` (Hydra groups that override these), `compose.py` (overrides → checked config), the stages that read it.
Invariants: plain dataclasses of plain values; a resolved config written as YAML reruns the experiment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.recipe import (
    AlignConfig,
    ColdStartConfig,
    CurveConfig,
    DistilConfig,
    PerceiveConfig,
    PromotionConfig,
    RefineConfig,
    ReinforceConfig,
    SelectConfig,
)


@dataclass
class RunConfig:
    """One run: where it writes, what seeds it, when it checkpoints."""

    name: str = "experiment"
    dir: str = ""  # empty: runs/<name>-seed<seed>
    seed: int = 11
    resume: bool = False
    redo: bool = False  # a resumed run: make finished stages again whose settings have changed, and all after them
    checkpoint_every: int = 20  # policy updates
    checkpoint_async: bool | None = None  # written while training goes on; null: with GPUs (actor.device=cuda)
    checkpoint_url: str = ""  # also copied there, into a folder named as the run directory: s3://…, gs://…, file://…
    keep_checkpoints: int = 2  # the newest, of policy updates and of supervised steps each
    keep_best: int = 0  # beside them, the best of policy updates by
    best_metric: str = "reward/mean"  # this figure of updates.jsonl; -NAME: smaller is better
    min_free_memory_gib: float = 6.0
    progress: bool = True


@dataclass
class ModelConfig:
    """Which model: a preset name or a Hugging Face folder."""

    name: str = "tiny"  # tiny | small | step_audio_2_mini | step_audio_r1
    path: str = ""  # a folder or hub id overrides the preset's own weights
    dtype: str = "float32"  # float32 | bfloat16
    max_model_len: int = 512  # tokens, prompt and response together
    max_audio_chunks: int = 4  # audio placeholders a prompt may carry


@dataclass
class DataConfig:
    """Which questions. With `build` set and files missing, the data set is built first."""

    build: str = "acoustic_qa"  # a builder's name, or empty
    build_seed: int = 7
    dir: str = ""  # empty: <cache>/data/<build>-seed<build_seed>
    train: str = ""  # JSONL; empty: <dir>/train.jsonl
    held_out: str = ""  # JSONL; empty: <dir>/held_out.jsonl
    text_train: str = ""  # JSONL of text questions; empty: generated (recipe mgrd)
    text_held_out: str = ""
    text_questions: int = 2000  # generated ones: for training,
    text_held_out_questions: int = 200  # and held out
    text_largest: int = 49  # no number in them or their answer is above it
    text_factor: int = 9  # largest factor of a product
    conversations: str = ""  # JSONL of demonstrations; empty: generated
    feature_dir: str = ""  # encoder features by content hash; empty: <cache>/features


@dataclass
class SftConfig:
    """Cold start: supervised fine-tuning on reasoning chains written from the truth of a small seed set."""

    enabled: bool = True
    questions: int = 320  # drawn from the training set, balanced over tasks
    style: str = "acoustic"  # acoustic | surrogate (about a caption in place of the sound)
    lengths: int = 1  # chains a question, from the shortest to the whole one
    steps: int = 40
    batch: int = 32


@dataclass
class EvaluateConfig:
    """Held-out evaluation: `samples` responses a question at temperature 1, and one greedy."""

    questions: int = 480  # 0: all
    samples: int = 4


@dataclass
class SentinelConfig:
    """Alarms that pause policy updates; 0 or null turns one off. Means are over `window` policy updates. See docs/SENTINELS.md."""

    window: int = 5  # policy updates in a mean
    warmup: int = 10  # policy updates without alarms, at the start of a stage and after a pause
    mismatch_max: float | None = 0.01  # nats, largest token difference, engine to trainer; bf16 wants about 1
    mismatch_kl: float | None = 0.01  # nats a token, KL of the engine's policy from the trainer's
    mismatch_probe: float | None = 5e-5  # nats, largest difference in the probe; bf16 wants about 0.05
    invalid: float | None = 0.05  # share of verdicts
    truncated: float | None = 0.3  # share of responses, when it does not fall
    think_length: float | None = 0.6  # of the longest mean reasoning so far
    entropy: float | None = 0.1  # of the highest mean entropy so far
    accuracy_fall: float | None = 0.1  # below the best so far, while the reward rose by
    reward_rise: float = 0.02
    repeated: float | None = 0.5  # share of responses (or questions) that say the same, of those that did not at best
    copied: float | None = 0.5  # share of reasonings that only copy the question or the clip's transcript, likewise


@dataclass
class PipelineConfig:
    """recipe: `rl` is cold start on written chains, selection and RL; `mgrd` is the whole loop with `iterations` rounds of it."""

    recipe: str = "rl"  # rl | mgrd
    iterations: int = 2  # T of Step-Audio-R1, section 4.2; 0: cold start and RL only
    sft: SftConfig = field(default_factory=SftConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    perceive: PerceiveConfig = field(default_factory=PerceiveConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    curve: CurveConfig = field(default_factory=CurveConfig)
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    sentinels: SentinelConfig = field(default_factory=SentinelConfig)


@dataclass
class TermConfig:
    """One reward function in the sum. A modality without a weight is not scored by it; a weight of 0 is scored and reported, and
    left out of the sum."""

    weight: float | None = None  # both modalities, where `audio` or `text` does not say otherwise
    audio: float | None = None
    text: float | None = None
    datasets: dict[str, float] = field(
        default_factory=dict
    )  # weight for questions of a data set, in place of the above
    version: str = ""  # sha256:… or a tag of a registered version; empty: what is installed
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class JointConfig:
    """A term made of other terms' components: their product, least or mean."""

    of: list[str] = field(default_factory=list)
    how: str = "product"  # product | least | mean
    weight: float | None = None
    audio: float | None = None
    text: float | None = None


def paper_terms() -> dict[str, TermConfig]:
    """Text 1.0·correct, audio 0.8·correct + 0.2·think present (Step-Audio-R1, section 4.2)."""
    return {
        "answer": TermConfig(audio=0.8, text=1.0),
        "think_present": TermConfig(audio=0.2, text=0.0),
    }


@dataclass
class RewardConfig:
    """What a trajectory earns. A run keeps the content hash of every function; see docs/REWARDS.md."""

    terms: dict[str, TermConfig] = field(default_factory=paper_terms)
    joint: dict[str, JointConfig] = field(default_factory=dict)
    timeout_s: float = 2.0  # limit of one sample in one function
    cpu_s: float = 0.0  # CPU time of one sample in one function; 0: as timeout_s
    memory_mb: int = 1024  # limits of a scoring process: address space,
    open_files: int = 256  # descriptors,
    threads: int = 64  # threads
    workers: int = 1
    cache: bool = True  # verdicts of slow functions by content, in Redis
    store: str = ""  # Redis URL of registered versions; empty: this machine's own store
    max_invalid_share: float = 0.1  # a function that fails on more of a batch pauses the run
    accept_changes: bool = False  # let a resumed run go on with reward functions that have changed


@dataclass
class RolloutConfig:
    """The engines. temperature 1 keeps log-probs of engine and trainer comparable."""

    workers: int = 1
    threads: int = 1  # CPU threads an engine
    temperature: float = 1.0
    max_new_tokens: int = 48
    max_num_seqs: int = 256
    kv_cache_gib: int = 1  # CPU engines
    gpu_memory_utilization: float = 0.4
    tensor_parallel: int = 1
    colocated: bool = False  # each engine on the GPU of a trainer rank, asleep while it trains
    start_timeout_s: float = 300.0
    request_timeout_s: float = 600.0


@dataclass
class OptimConfig:
    """Adam with warm-up. Updates count policy updates (or SFT steps)."""

    lr: float = 1e-4
    min_lr: float = 0.0
    warmup_updates: int = 5
    decay_updates: int = 1000
    decay_style: str = "constant"  # constant | linear | cosine
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0


@dataclass
class PPOConfig:
    """Step-Audio-R1, section 4.3: on-policy, clip 0.2, discount 1, GAE lambda 1, no KL term."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    gamma: float = 1.0
    lam: float = 1.0
    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    value_clip: float = 0.0  # 0: unclipped
    epochs: int = 1
    minibatches: int = 1
    whiten_advantages: bool = True
    advantage_estimator: str = "gae"  # gae (ours), or one of verl's by name
    policy_loss: str = "ppo"  # ppo (ours), or one of verl's by name
    loss_agg: str = "token-mean"


@dataclass
class CriticConfig:
    """Where the value model lives. shared: layout and ranks of the actor; colocated: the actor's ranks, a layout of its own;
    apart: ranks of its own, then both are updated at the same time."""

    placement: str = "shared"  # shared | colocated | apart
    world_size: int = 1  # of its own ranks (apart)
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    sequence_parallel: bool = False


@dataclass
class LoraConfig:
    """Low-rank updates of the decoder's linear layers in place of the layers themselves."""

    rank: int = 0  # 0: every weight of the decoder is trained
    alpha: float = 32.0  # an update counts alpha / rank


@dataclass
class ActorConfig:
    """Actor and critic on Megatron. world_size = tensor x pipeline x context x data parallel ranks."""

    world_size: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    sequence_parallel: bool = False  # norms and residuals split over the tensor-parallel ranks, too
    critic: CriticConfig = field(default_factory=CriticConfig)
    device: str = "cpu"  # cpu | cuda
    threads: int = 1  # CPU threads a rank
    micro_batch_tokens: int = 8192
    recompute: str = "none"  # none | selective | full: what the backward pass computes again instead of keeping it
    kernels: str = (
        "auto"  # auto | transformer_engine | torch: what layers run on; auto takes Transformer Engine where it can
    )
    offload_optimizer: bool = (
        False  # Adam's moments and float32 masters in the machine's memory: a slower step, a smaller rank
    )
    head_chunk_rows: int = 1024  # rows and
    head_chunk_vocab: int = 16384  # columns of the logits that exist at a time, float32
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: list[str] = field(default_factory=lambda: ["adapter."])  # checkpoint-name prefixes
    actor_optim: OptimConfig = field(default_factory=OptimConfig)
    critic_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4))
    sft_optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=4e-4, warmup_updates=10))
    ppo: PPOConfig = field(default_factory=PPOConfig)
    start_timeout_s: float = 300.0
    step_timeout_s: float = 600.0  # of a call in which no rank gets further: no micro-batch, no step, no file
    heartbeat_s: float = 5.0  # of a rank at work: from one sign of life to the next question
    hang_s: float = 60.0  # of silence after which it counts as hung
    teardown_s: float = 60.0  # from a rank's end until every rank has ended, or the run fails
    restarts: int = (
        3  # of a trainer that was lost, within the run, without a checkpoint between them; 0: it ends the run
    )


@dataclass
class PublishConfig:
    """Weights from trainer to engines, see docs/PUBLISH.md."""

    transport: str = "auto"  # auto | shared_memory | object_store | gloo | nccl | cuda_ipc
    bucket_mib: int = 0  # sent, checked and loaded at a time, a larger tensor by itself; 0: 4 in shared memory, else 64
    only_changed: bool = False  # leave out what engines hold already, by digest
    keep_memory: bool = True  # reuse the memory of a version no longer needed (two copies stay), else give it back
    timeout_s: float = 600.0  # until every engine has confirmed


@dataclass
class ClusterConfig:
    """Addresses of services that run already; empty: started here, stopped with the run."""

    ray_address: str = ""
    redis_url: str = ""
    mlflow_uri: str = ""
    mlflow_root: str = ""  # empty: <cache>/mlflow (one store for all runs of this machine)
    num_cpus: int = 0  # 0: what the machine has
    object_store_mb: int = 256
    nodes: int = 0  # machines and
    gpus_per_node: int = 0  # GPUs of each that the run may take; 0: not said, then no plan is checked against them
    gpu_memory_gib: float = 80.0  # of one GPU


@dataclass
class ExperimentConfig:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
