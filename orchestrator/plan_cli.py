"""`mgrd plan`: what a configuration needs of every GPU it takes, and whether that fits.

Neighbours: `orchestrator.plan` does the arithmetic, `orchestrator.cli` lends the command, `--dry-run` prints the same table.
Invariants: a plan that cannot fit exits 2 with the reason and, where there is one, a change that was found to fit; nothing is started.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.config.compose import compose_config
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import MgrdError
from orchestrator.plan.advice import Advice, advise, refusal
from orchestrator.plan.assess import Assessment, assess
from orchestrator.plan.memory import COMPONENTS, GIB, MIB
from orchestrator.plan.sizes import ModelSizes, model_sizes

CANNOT = 2
HEADINGS = {"gradients": "grads", "activations": "activ.", "optimizer": "optim.", "kv_cache": "KV"}

console = Console()
errors = Console(stderr=True)


def plan_command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, as for mgrd run: model=step_audio_r1 cluster=gpus_16x8", show_default=False),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Bytes, as one JSON object.")] = False,
) -> None:
    """Print the memory of every kind of process, by component, and say whether the plan fits. Starts nothing.

    [bold]mgrd plan model=step_audio_r1 cluster=gpus_16x8[/bold] shows the shipped plan for 128 GPUs; any key may be changed.
    Exit status 2: it cannot fit; the reason and a change that helps are printed. See docs/PLANS.md.
    """
    try:
        config = compose_config(list(overrides or []))
        sizes = model_sizes(config)
    except (MgrdError, OSError, ValueError) as error:
        errors.print(f"[red]refused:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(CANNOT) from None
    assessment = assess(config, sizes)
    advice = None if assessment.fits else advise(config, sizes)
    if as_json:
        print(json.dumps(as_plain(config, sizes, assessment, advice)))
    else:
        print_assessment(console, config, sizes, assessment)
        if assessment.problems:
            errors.print(refusal(assessment, advice), highlight=False, soft_wrap=True, markup=False)
    if not assessment.fits:
        raise typer.Exit(CANNOT)


def print_assessment(out: Console, config: ExperimentConfig, sizes: ModelSizes, found: Assessment) -> None:
    """One row a kind of process; empty when the layouts do not divide the model."""
    actor, rollout = config.actor, config.rollout
    what = f"LoRA of rank {actor.lora.rank}" if actor.lora.rank else "all weights"
    out.print(
        f"{config.model.name}: {sizes.trainable / 1e9:.3f} B parameters in adaptor and decoder, {config.model.dtype}, {what}; "
        f"recompute {actor.recompute}, optimizer {'offloaded' if actor.offload_optimizer else 'on the device'}, "
        f"critic {actor.critic.placement}",
        highlight=False,
        soft_wrap=True,
    )
    if not found.kinds:
        return
    small = found.worst.memory.total < GIB
    unit, word = (MIB, "MiB") if small else (GIB, "GiB")
    shown = [name for name in COMPONENTS if any(getattr(kind.memory, name) for kind in found.kinds)]
    table = Table("process", "number", title=f"Memory of one process, {word}", title_justify="left", padding=(0, 0))
    for name in (*shown, "total"):
        table.add_column(HEADINGS.get(name, name), justify="right", no_wrap=True)
    for kind in found.kinds:
        total = f"{kind.memory.total / unit:.1f}"
        row = [f"{getattr(kind.memory, name) / unit:.1f}" for name in shown]
        table.add_row(kind.name, str(kind.count), *row, f"[red]{total}[/red]" if kind.problem else total)
    out.print(table)
    host = sum(kind.count * kind.memory.host for kind in found.kinds)
    lines = [
        f"activations: {found.tokens} tokens in a micro-batch; KV cache: {found.kv_bytes_per_token / 1024:.0f} KiB a token and rank, "
        f"{found.sequences:.1f} sequences of {config.model.max_model_len} tokens an engine ({rollout.workers} engines of "
        f"{rollout.tensor_parallel})"
    ]
    if host:
        lines.append(
            f"in the machines' own memory: {host / GIB:.{1 if small else 0}f} GiB of optimizer, all ranks together, page-locked; at most "
            f"{_host_of_a_machine(config, found) / GIB:.1f} GiB on one machine"
        )
    if found.limit:
        of = f" of {found.available}" if found.available else ""
        lines.append(f"GPUs: {found.gpus}{of}, {found.limit / GIB:g} GiB each" + ("; fits" if found.fits else ""))
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)


def _host_of_a_machine(config: ExperimentConfig, found: Assessment) -> int:
    """Bytes, when a machine's GPUs hold the ranks that need most of it."""
    places = config.cluster.gpus_per_node or sum(kind.count for kind in found.kinds)
    total = 0
    for kind in sorted(found.kinds, key=lambda kind: -kind.memory.host):
        here = min(places, kind.count)
        total, places = total + here * kind.memory.host, places - here
    return total


def as_plain(config: ExperimentConfig, sizes: ModelSizes, found: Assessment, advice: Advice | None) -> dict[str, Any]:
    """All figures in bytes, for other programs."""
    return {
        "model": config.model.name,
        "trainable_parameters": sizes.trainable,
        "gpus": found.gpus,
        "gpus_available": found.available,
        "limit_bytes": found.limit,
        "tokens": found.tokens,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "sequences_per_engine": found.sequences,
        "kinds": [
            {"name": kind.name, "count": kind.count, "total": kind.memory.total, **asdict(kind.memory)}
            for kind in found.kinds
        ],
        "fits": found.fits,
        "problems": list(found.problems),
        "try": list(advice.overrides) if advice else [],
    }
