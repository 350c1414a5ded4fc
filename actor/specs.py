"""What a trainer is told before it starts and as a stage begins: model, layout, optimizers, PPO and DPO settings.

Neighbours: `orchestrator` fills these from its config, `actor.group` hands them to every rank, `actor.trainer` obeys them.
Invariants: frozen, picklable, no torch import; a spec that cannot work raises ValueError where it is made, naming the field.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from actor.kernels import KERNEL_CHOICES
from actor.layout import Layout

RECOMPUTE = ("none", "selective", "full")
DECAY_STYLES = ("constant", "linear", "cosine")
OWN_ESTIMATOR = "gae"
OWN_POLICY_LOSS = "ppo"
Stage = Literal["sft", "ppo", "dpo"]
# Parameters that our Adam steps at once: 128 MiB of temporaries. One slice takes a GPU about a millisecond, so launches hardly count.
STEP_SLICE_NUMBERS = 1 << 25
STAGES: tuple[str, ...] = get_args(Stage)


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
class DpoSpec:
    """Preference training.

    beta: strength of the pull towards the reference policy; label_smoothing: assumed share of pairs whose labels are swapped;
    sft_coef: weight of the chosen response's mean negative log-prob (0: none).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    sft_coef: float = 0.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if self.sft_coef < 0:
            raise ValueError(f"sft_coef must be at least 0, got {self.sft_coef}")


@dataclass(frozen=True, slots=True)
class TrainerSpec:
    """One trainer world.

    model_path: Hugging Face folder with Step-Audio 2 names; dtype: "float32" | "bfloat16"; layout: of the actor; device: "cpu"
    (gloo) | "cuda" (nccl); threads: CPU threads a rank; feature_dir: folder of the encoder-feature cache; micro_batch_tokens:
    most tokens in one forward pass of one rank (context-parallel ranks share them); freeze: prefixes of checkpoint names that
    are not trained; critic: keep a value model in the "ppo" stage; critic_layout: its own layout (None: the actor's), on the
    actor's ranks or, with critic_apart, on ranks of its own. recompute: "none", "selective" (attention's inside) or "full"
    (whole layers), what the backward pass computes again; kernels: "auto", "transformer_engine" or "torch", see `actor.kernels`;
    offload_optimizer: moments and float32 masters in the machine's memory, masters on the device for the length of a step;
    head_chunk_rows, head_chunk_vocab: rows and columns of the logits that exist at a time; lora_rank: of low-rank updates trained in
    place of the decoder's linear layers (0: none), each counting lora_alpha / lora_rank;
    colocated: an engine shares each rank's GPU. What a stage uses instead is said to
    `Trainer.reset_optimizer`; "dpo" takes actor_optim where it is told no other.
    """

    model_path: str
    dtype: str
    layout: Layout
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
    dpo: DpoSpec = DpoSpec()
    critic_layout: Layout | None = None
    critic_apart: bool = False
    recompute: str = "none"
    kernels: str = "auto"
    offload_optimizer: bool = False
    head_chunk_rows: int = 1024
    head_chunk_vocab: int = 16384
    lora_rank: int = 0
    lora_alpha: float = 32.0
    colocated: bool = False

    def __post_init__(self) -> None:
        _check_memory(self)
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")
        if not self.critic and (self.critic_layout is not None or self.critic_apart):
            raise ValueError("critic_layout and critic_apart are for a trainer with critic=True")
        if not self.critic_apart and self.of_critic.world_size != self.layout.world_size:
            raise ValueError(
                f"actor ({self.layout}, {self.layout.world_size} ranks) and critic ({self.of_critic}, "
                f"{self.of_critic.world_size} ranks) share ranks, so both must fill them; set critic_apart for ranks of its own"
            )
        _check_critic(self.ppo, self.critic)

    @property
    def of_critic(self) -> Layout:
        """The critic's layout."""
        return self.critic_layout or self.layout

    @property
    def world_size(self) -> int:
        """Ranks of actor and critic together."""
        return self.layout.world_size + (self.of_critic.world_size if self.critic_apart else 0)


def _check_memory(spec: TrainerSpec) -> None:
    if spec.recompute not in RECOMPUTE:
        raise ValueError(f"recompute must be one of {', '.join(RECOMPUTE)}, got {spec.recompute!r}")
    if spec.kernels not in KERNEL_CHOICES:
        raise ValueError(f"kernels must be one of {', '.join(KERNEL_CHOICES)}, got {spec.kernels!r}")
    for name in ("head_chunk_rows", "head_chunk_vocab"):
        if getattr(spec, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(spec, name)}")
    if spec.lora_rank < 0 or spec.lora_alpha <= 0:
        raise ValueError(
            f"lora_rank must be at least 0 (0: none) and lora_alpha above 0, got {spec.lora_rank} and {spec.lora_alpha}"
        )


def _check_critic(ppo: PPOSpec, critic: bool) -> None:
    if ppo.advantage_estimator == OWN_ESTIMATOR and not critic:
        raise ValueError(
            'advantage_estimator "gae" needs critic=True; without a critic take one of verl\'s, e.g. "grpo"'
        )


@dataclass(frozen=True, slots=True)
class StageSettings:
    """A stage and what it uses instead of the trainer's own settings (None: the trainer's).

    optim: of the actor; critic_optim, ppo: stage "ppo" alone; dpo: stage "dpo" alone. Raises ValueError for a stage there is
    not and for settings that the stage does not use.
    """

    stage: Stage
    optim: OptimSpec | None = None
    critic_optim: OptimSpec | None = None
    ppo: PPOSpec | None = None
    dpo: DpoSpec | None = None

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"there is no stage {self.stage!r}; stages are {', '.join(STAGES)}")
        for name, stage in (("critic_optim", "ppo"), ("ppo", "ppo"), ("dpo", "dpo")):
            if getattr(self, name) is not None and self.stage != stage:
                raise ValueError(f'{name} is for stage "{stage}", not for stage "{self.stage}"')

    def actor_optim(self, spec: TrainerSpec) -> OptimSpec:
        return self.optim or (spec.sft_optim if self.stage == "sft" else spec.actor_optim)

    def ppo_spec(self, spec: TrainerSpec) -> PPOSpec:
        """Raises ValueError when the estimator needs a critic that the trainer does not keep."""
        chosen = self.ppo or spec.ppo
        _check_critic(chosen, spec.critic)
        return chosen

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        kinds = {"optim": OptimSpec, "critic_optim": OptimSpec, "ppo": PPOSpec, "dpo": DpoSpec}
        settings = {name: kind(**data[name]) for name, kind in kinds.items() if name in data}
        return cls(data["stage"], **settings)
