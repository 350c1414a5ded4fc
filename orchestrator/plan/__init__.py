"""What a configuration needs of every GPU it takes, by arithmetic, before anything starts.

Neighbours: `orchestrator.plan_cli` prints a plan, `orchestrator.preflight` refuses one that cannot fit; sizes come from `rollout`'s
configuration of the model, layouts from `actor`. Invariants: pure but for reading a model folder's config.json; no torch module is
built, no GPU is asked; a figure for a trainer rank counts the tensors that the trainer really keeps (tests compare with them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "assess": ["Assessment", "assess", "plan_of"],
        "memory": ["GIB", "Memory"],
        "sizes": ["ModelSizes", "sizes_of"],
    },
)
