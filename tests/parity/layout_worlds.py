"""What the layout parity tests run, in processes of their own: the same training in every layout.

Neighbours: `test_megatron_layouts` starts four processes with `rank_main` and compares; one rank does the same in the test's own.
Invariants: two layouts of two ranks run side by side, then layouts of four; every number comes from a real trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actor.layout import Layout
from actor.messages import Experience
from actor.publishing import payload_tensors
from actor.specs import DpoSpec, TrainerSpec
from actor.testing import Case, optim, ppo, preference_pairs, sft_examples, trainer_spec
from actor.trainer import Trainer

UPDATES = 3
DPO = DpoSpec(beta=0.2, sft_coef=0.1)


@dataclass(frozen=True, slots=True)
class World:
    """A layout to try. model: "tied" (adaptor trained, too), "untied" (adaptor frozen) or "lora" (as
    tied, low-rank updates of the decoder); critic: its own layout; after: name of
    the world whose checkpoint this one goes on from (empty: none); changes: other fields of the spec, as pairs."""

    layout: Layout
    model: str = "tied"
    critic: Layout | None = None
    after: str = ""
    changes: tuple[tuple[str, Any], ...] = ()


SP = Layout(tensor=2, sequence=True)
PAIRS: tuple[dict[str, World], dict[str, World]] = (
    {
        "tp2": World(Layout(tensor=2)),
        "pp2": World(Layout(pipeline=2), after="tp2"),
        "dp2": World(Layout(data=2), "untied", critic=Layout(pipeline=2), changes=(("offload_optimizer", True),)),
        "pp2 untied": World(Layout(pipeline=2), "untied", critic=SP, after="dp2"),
        "tp2 lora": World(Layout(tensor=2), "lora", changes=(("recompute", "full"),)),
    },
    {
        "tp2sp": World(SP),
        "cp2": World(Layout(context=2), after="tp2sp"),
        "cp2 untied": World(Layout(context=2), "untied"),
        "tp2sp untied": World(SP, "untied", after="cp2 untied", changes=(("recompute", "full"),)),
    },
)
FOURS: dict[str, World] = {
    "tp2sp x pp2": World(Layout(tensor=2, pipeline=2, sequence=True), after="cp2"),
    "tp2sp x cp2": World(Layout(tensor=2, context=2, sequence=True), "untied", after="pp2 untied"),
    "pp2 x cp2": World(Layout(pipeline=2, context=2), after="tp2sp x pp2"),
    "tp2 x dp2": World(Layout(tensor=2, data=2), critic=Layout(pipeline=2, context=2)),
    "pp2 x dp2": World(Layout(pipeline=2, data=2), "untied", after="pp2 untied"),
    "tp2sp x pp2 lora": World(Layout(tensor=2, pipeline=2, sequence=True), "lora", after="tp2 lora"),
    "pp4": World(Layout(pipeline=4), "untied", changes=(("recompute", "selective"),)),
}
ALL: dict[str, World] = {**PAIRS[0], **PAIRS[1], **FOURS}


def spec_of(world: World, cases: dict[str, Case]) -> TrainerSpec:
    return trainer_spec(
        cases[world.model],
        layout=world.layout,
        critic_layout=world.critic,
        freeze=("adapter.",) if world.model == "untied" else (),
        lora_rank=4 if world.model == "lora" else 0,
        ppo=ppo(entropy_coef=0.01, kl_coef=0.05, minibatches=2),
        actor_optim=optim(eps=1e-6),
        critic_optim=optim(eps=1e-6),
        sft_optim=optim(eps=1e-6),
        micro_batch_tokens=128,
        head_chunk_rows=20,
        head_chunk_vocab=96,
        **dict(world.changes),
    )


def train(trainer: Trainer, batch: list[Experience], folder: Path) -> dict[str, Any]:
    """Log-probs, then three updates of every kind; a checkpoint in the middle of PPO, and one update more to compare with."""
    out: dict[str, Any] = {"log_probs": trainer.log_probs(batch), "reports": [], "weights": {}}
    examples = sft_examples(batch)
    out["reports"] += [trainer.sft_step(examples).metrics for _ in range(UPDATES)]
    out["reports"].append(trainer.sft_step(examples[:1]).metrics)  # less than one sequence a data-parallel share
    out["weights"]["sft"] = exported(trainer)
    trainer.reset_optimizer("ppo")
    out["reports"] += [trainer.ppo_update(batch, seed).metrics for seed in range(UPDATES)]
    out["values"] = trainer.values(batch)
    trainer.save(str(folder))
    out["weights"]["saved"] = exported(trainer)
    out["next"] = one_more(trainer, batch)
    trainer.reset_optimizer("dpo", dpo=DPO)
    pairs = preference_pairs(batch)
    out["reports"] += [trainer.dpo_step(pairs).metrics for _ in range(UPDATES)]
    out["weights"]["dpo"] = exported(trainer)
    return out


def one_more(trainer: Trainer, batch: list[Experience]) -> dict[str, Any]:
    """The update after a checkpoint."""
    metrics = trainer.ppo_update(batch, 7).metrics
    return {"metrics": metrics, "weights": exported(trainer), "values": trainer.values(batch)}


def exported(trainer: Trainer) -> dict[str, torch.Tensor]:
    update = trainer.weights(1)
    return payload_tensors(update) if update is not None else {}


def rank_main(rank: int, folder: str, cases: dict[str, Case], batches: dict[str, list[Experience]]) -> None:
    """One of four processes: first a world of two, with its neighbour, then worlds of four."""
    torch.set_num_threads(1)
    pair, member = divmod(rank, 2)
    for name, world in PAIRS[pair].items():
        _run(name, world, member, Path(folder), cases, batches)
    for name, world in FOURS.items():
        _run(name, world, rank, Path(folder), cases, batches)


def _run(
    name: str,
    world: World,
    rank: int,
    folder: Path,
    cases: dict[str, Case],
    batches: dict[str, list[Experience]],
) -> None:
    from actor.megatron.parallel import opened

    spec, batch = spec_of(world, cases), batches[world.model]
    meeting = folder / f"meet {name}"
    with opened(world.layout, rank, f"file://{meeting}", seed=spec.seed) as joined:
        trainer = Trainer(spec, joined)
        result = train(trainer, batch, checkpoint_of(folder, name))
        if world.after:
            trainer.load(str(checkpoint_of(folder, world.after)))
            result["resumed"] = one_more(trainer, batch)
        if world.model != "lora":
            trainer.load_weights_only(str(imported_of(folder, world.model)))
            result["imported"] = exported(trainer)
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")


def imported_of(folder: Path, model: str) -> Path:
    """The checkpoint made of a model's folder."""
    return folder / f"imported {model}"


def checkpoint_of(folder: Path, name: str) -> Path:
    return folder / f"checkpoint {name}"
