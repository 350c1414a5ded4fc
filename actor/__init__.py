"""Verdicts in, weights out: advantages, losses, packing, and the actor and critic on Megatron-core.

Neighbours: `orchestrator` drives it through `TrainerGroup`; it reads messages of `rollout` only.
Invariants: public names are handed on lazily, so that `import actor` loads neither torch nor Megatron nor Ray.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "messages": ["Experience", "PreferencePair", "SftExample", "UpdateReport"],
        "specs": ["DpoSpec", "OptimSpec", "PPOSpec", "StageSettings", "TrainerSpec"],
        "group": ["TrainerDied", "TrainerGroup"],
        "publish": ["weights_payload"],
    },
)
