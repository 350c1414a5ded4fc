"""Builds the tiny base model from nothing: bank, clips, features, decoder, adaptor, scores, manifest.

Neighbours: `orchestrator.cli` calls `build_base`; `rollout.model.base` holds the result that ships.
Invariants: nothing of a run with other inputs is reused but by content; imported lazily, torch only where it is needed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"build": ["FULL", "MICRO", "BaseError", "BuildSizes", "build_base"]},
)
