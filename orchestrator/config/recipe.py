"""The keys of the whole recipe (Step-Audio-R1, sections 4 and 6.3): cold start, MGRD iterations, alignment, evaluation.

Neighbours: `schema.py` puts them under `pipeline`; `pipeline.py` turns them into stages. Invariants: plain dataclasses of plain values;
numbers that come from the paper say so; a stage with nothing to do (0 steps, 0 updates) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SelectConfig:
    """RL data selection (Step-Audio-R1, section 4.3): keep questions answered correctly keep_min..keep_max times of `samples`."""

    questions: int = 640
    samples: int = 8
    keep_min: int = 3
    keep_max: int = 6
    min_pool: int = 64  # fewer kept questions stop the run with the histogram


@dataclass
class ReinforceConfig:
    """Policy updates (Step-Audio-R1, section 4.3 has 16 responses a prompt; small machines draw 8)."""

    updates: int = 60
    questions: int = 16  # a policy update
    samples: int = 8  # responses a question
    kl_coef: float | None = None  # weight of the KL penalty towards the stage's start; null: actor.ppo.kl_coef
    truncated: str = "score"  # a response cut at the token limit is scored as it is; or zero, or invalid (left out)
    probe_every: int = 1  # policy updates between log-prob probes
    probe_sequences: int = 4
    probe_limit: float = 1e-4  # nats, fp32; bf16 wants about 0.1
    html_every: int = 10  # policy updates between HTML pages of sampled trajectories


@dataclass
class MixConfig:
    """Shares of the response tokens of a cold start (Step-Audio-R1, sections 3.1 and 4.1). Audio reasoning is a tenth of all audio."""

    task_reasoning: float = 0.2
    conversation: float = 0.1
    audio_direct: float = 0.63
    audio_reasoning: float = 0.07


@dataclass
class ColdStartConfig:
    """Joint SFT on reasoning tasks, conversations and direct audio answers, then RL on text alone."""

    enabled: bool = True
    chain_questions: int = 320  # asked of the base model for its own reasoning about audio (self-distilled)
    chain_samples: int = 4
    audio_questions: int = 640  # with the direct answer and the empty think form
    hearing_prompts: int = 64  # beside them: open questions about a clip, with what is heard,
    silent_prompts: int = 0  # and about a clip in which nothing sounds, where denying is honest,
    careless_prompts: int = (
        0  # and about a clip that sounds, answered as a model of text alone would: what alignment corrects
    )
    mix: MixConfig = field(default_factory=MixConfig)
    steps: int = 60
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 5
    select: SelectConfig = field(
        default_factory=lambda: SelectConfig(questions=400, keep_min=1, keep_max=7, min_pool=32)
    )
    reinforce: ReinforceConfig = field(default_factory=lambda: ReinforceConfig(updates=10, questions=32))


@dataclass
class PerceiveConfig:
    """Which audio questions need direct acoustic analysis: by task, then by the audio-contribution probe."""

    questions: int = 640  # candidates after the rule by task
    tasks: list[str] = field(default_factory=list)  # empty: the table of tasks shipped with the data set
    samples: int = 4
    min_original: float = 0.5  # share correct with the clip
    min_drop: float = 0.25  # share correct lost without it, mean over silence, noise and another clip


@dataclass
class JudgeFilterConfig:
    """A reward that is asked last, and only about chains that all other filters let pass. What it can't judge is dropped and counted."""

    name: str = ""  # of a registered reward, such as judge; empty: no such filter
    version: str = ""  # sha256:… or a tag of a registered version; empty: what is installed
    parameters: dict[str, Any] = field(default_factory=dict)
    min_score: float = 0.5  # chains below it are dropped


@dataclass
class DistilConfig:
    """Self-distillation (section 4.2): K samples a question, kept when every filter passes, in this order."""

    questions: int = 640  # of those that perceive keeps
    samples: int = 8
    hearing_prompts: int = 96  # open questions about a clip asked beside them
    correct: bool = True
    grounding: bool = True  # every stated perception that can be checked is true, and some are stated
    against: str = "either"  # what perceptions are checked with: truth | clip | either
    consistency: bool = True
    self_cognition: bool = True
    min_tokens: int = 4  # reasoning length band
    max_tokens: int = 48
    near_duplicate: float = 0.97  # similarity from which two chains of one question are the same
    judge: JudgeFilterConfig = field(default_factory=JudgeFilterConfig)  # asked about what is left
    max_chains: int = 2  # kept for one question
    max_task_ratio: float = 3.0  # kept chains of a task, over those of the rarest task; 0: no limit
    min_chains: int = 32  # fewer stop the run with the funnel


@dataclass
class RefineConfig:
    """SFT on kept chains together with text reasoning data (section 4.2)."""

    steps: int = 24
    batch: int = 64
    lr: float = 5e-4
    warmup: int = 3
    text_share: float = 0.2  # of response tokens


@dataclass
class AlignConfig:
    """Self-cognition correction (section 6.3): preference pairs from the model's own samples, then DPO."""

    prompts: int = 240
    samples: int = 8
    pairs: int = 160
    max_pairs_a_question: int = 2
    beta: float = 0.1
    sft_coef: float = 0.0
    label_smoothing: float = 0.0
    steps: int = 20
    batch: int = 32
    lr: float = 5e-5
    warmup: int = 3


@dataclass
class CurveConfig:
    """What is measured after every part of the recipe beside accuracy."""

    contribution_questions: int = 160  # asked with the clip, with silence, noise and another clip
    hearing_prompts: int = 200
    hearing_samples: int = 4
    text_questions: int = 120


@dataclass
class PromotionConfig:
    """When the final model becomes `champion` in the model registry: every guardrail holds for the last point of the curve.

    A guardrail is `metric >= number`, `metric <= number`, or compares with the present champion: `metric >= champion - 0.02`.
    """

    enabled: bool = True
    guardrails: list[str] = field(
        default_factory=lambda: [
            "greedy >= champion - 0.02",
            "true_perceptions >= champion - 0.02",
            "self_cognition_error <= 0.05",
        ]
    )
