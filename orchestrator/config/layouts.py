"""Layouts of actor and critic as the configuration names them (pure).

Neighbours: `checks` refuses what cannot be laid out, `specs` hands the layouts to the trainer, `demand` counts the ranks.
Invariant: whatever `layout_problems` lets through, `layout_of` can build.
"""

from __future__ import annotations

from actor import Layout, LayoutError
from orchestrator.config.schema import ActorConfig, CriticConfig

PLACEMENTS = ("shared", "colocated", "apart")


def layout_of(config: ActorConfig | CriticConfig, world_size: int) -> Layout:
    """Raises LayoutError when the parallel sizes do not fill `world_size`."""
    return Layout.of_world(
        world_size,
        config.tensor_parallel,
        config.pipeline_parallel,
        config.context_parallel,
        config.sequence_parallel,
    )


def critic_layout(actor: ActorConfig) -> Layout | None:
    """None: as the actor's."""
    return None if actor.critic.placement == "shared" else layout_of(actor.critic, _critic_ranks(actor))


def trainer_ranks(actor: ActorConfig) -> int:
    """Processes of actor and critic together."""
    return actor.world_size + (actor.critic.world_size if actor.critic.placement == "apart" else 0)


def layout_problems(actor: ActorConfig) -> list[str]:
    """Every rule that the parallel sizes break, as `key = value: rule`."""
    if actor.critic.placement not in PLACEMENTS:
        return [f"actor.critic.placement = {actor.critic.placement!r}: must be one of {', '.join(PLACEMENTS)}"]
    parts: list[tuple[str, ActorConfig | CriticConfig, int]] = [("actor", actor, actor.world_size)]
    if actor.critic.placement == "shared":
        unused = [name for name, value in vars(actor.critic).items() if value != getattr(CriticConfig(), name)]
        if unused:
            return [
                f"actor.critic.{unused[0]} = {getattr(actor.critic, unused[0])!r}: has no effect while "
                "actor.critic.placement=shared; choose colocated or apart"
            ]
    else:
        parts.append(("actor.critic", actor.critic, _critic_ranks(actor)))
    out = []
    for key, part, ranks in parts:
        try:
            layout_of(part, ranks)
        except LayoutError as error:
            out.append(f"{key}.tensor_parallel = {part.tensor_parallel}: {error}")
    return out


def _critic_ranks(actor: ActorConfig) -> int:
    return actor.critic.world_size if actor.critic.placement == "apart" else actor.world_size
