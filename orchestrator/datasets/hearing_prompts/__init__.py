"""Prompts that ask a model about its own hearing, on clips it does hear.

Neighbours: `wordings` has the texts, `prompts` makes questions and demonstrations. Invariant: names are handed on lazily.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "prompts": ["hearing_demonstrations", "hearing_prompts", "reply_of", "denying_demonstrations"],
        "wordings": ["DENIALS", "WORDINGS"],
    },
)
