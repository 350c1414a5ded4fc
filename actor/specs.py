"""What a trainer is told before it starts: model, layout, optimizers, PPO settings.

Neighbours: `orchestrator` fills these from its config, `actor.group` hands them to every rank, `actor.trainer` obeys them.
Invariants: frozen, picklable, no torch import; a spec that cannot work raises ValueError where it is made, naming the field.
"""

from __future__ import annotations

from dataclasses import dataclass

DECAY_STYLES = ("constant", "linear", "cosine")
OWN_ESTIMATOR = "gae"
OWN_POLICY_LOSS = "ppo"


@dataclass(frozen=True, slots=True)
class OptimSpec:
    """Adam (decoupled weight decay) with a linear warm-up from 0.

    lr: peak; min_lr: end of the decay; warmup_updates, decay_updates: counted in optimizer steps, the decay includes the
    warm-up; clip_grad: global gradient norm (0: no clipping).
    """

    lr: float
    min_lr: float
    warmup_updates: int
    decay_updates: int
    decay_style: str
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    clip_grad: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr must lie between 0 and lr={self.lr}, got {self.min_lr}")
        if self.decay_style not in DECAY_STYLES:
            raise ValueError(f"decay_style must be one of {', '.join(DECAY_STYLES)}, got {self.decay_style!r}")
        if not 0 <= self.warmup_updates < self.decay_updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) must be at least 0 and below decay_updates ({self.decay_updates})"
            )


@dataclass(frozen=True, slots=True)
class PPOSpec:
    """One policy update.

    clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]; value_clip: 0 leaves the value loss unclipped;
    kl_coef: weight of the KL penalty towards the policy at the start of the stage (0: no reference model is kept);
    epochs, minibatches: passes over the batch, optimizer steps a pass; advantage_estimator: "gae" is ours, any other name is
    looked up in verl; policy_loss: "ppo" is ours, any other name is looked up in verl; loss_agg: "token-mean".
    """

    clip_low: float
    clip_high: float
    gamma: float
    lam: float
    entropy_coef: float
    kl_coef: float
    value_clip: float
    epochs: int
    minibatches: int
    whiten_advantages: bool
    advantage_estimator: str
    policy_loss: str
    loss_agg: str

    def __post_init__(self) -> None:
        if self.loss_agg != "token-mean":
            raise ValueError(f"loss_agg must be token-mean, got {self.loss_agg!r}")
        if self.epochs < 1 or self.minibatches < 1:
            raise ValueError(f"epochs ({self.epochs}) and minibatches ({self.minibatches}) must be at least 1")

    @property
    def on_policy(self) -> bool:
        """One optimizer step a policy update: the weights of the update are those that give old log-probs and values."""
        return self.epochs == 1 and self.minibatches == 1


@dataclass(frozen=True, slots=True)
class TrainerSpec:
    """One trainer world.

    model_path: Hugging Face folder with Step-Audio 2 names; dtype: "float32" | "bfloat16"; world_size: ranks, of which groups
    of tensor_parallel share one model copy; device: "cpu" (gloo) | "cuda" (nccl); threads: CPU threads a rank; feature_dir:
    folder of the encoder-feature cache; micro_batch_tokens: most tokens in one forward pass of one rank; freeze: prefixes of
    checkpoint names that are not trained; critic: keep a value model in the "ppo" stage.
    """

    model_path: str
    dtype: str
    world_size: int
    tensor_parallel: int
    device: str
    threads: int
    seed: int
    feature_dir: str
    micro_batch_tokens: int
    freeze: tuple[str, ...]
    actor_optim: OptimSpec
    critic_optim: OptimSpec
    sft_optim: OptimSpec
    ppo: PPOSpec
    critic: bool

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if self.tensor_parallel < 1 or self.world_size < 1 or self.world_size % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel ({self.tensor_parallel}) must divide world_size ({self.world_size}), both at least 1"
            )
        if self.ppo.advantage_estimator == OWN_ESTIMATOR and not self.critic:
            raise ValueError(
                'advantage_estimator "gae" needs critic=True; without a critic take one of verl\'s, e.g. "grpo"'
            )

    @property
    def data_parallel(self) -> int:
        return self.world_size // self.tensor_parallel
