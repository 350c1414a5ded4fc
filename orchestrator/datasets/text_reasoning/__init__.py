"""Math and logic questions with verified answers, for the text side of cold start and reinforcement.

Neighbours: `problems` draws, `reasoning` works them out, `verify` answers them again, `build` writes the data set.
Invariant: names are handed on lazily.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "build": ["SOURCES", "VERSION", "build_text_reasoning", "text_demonstrations", "text_questions"],
        "difficulty": ["EASY", "Difficulty"],
        "problems": ["FAMILIES"],
        "reasoning": ["has_reasoning", "reasoning_of"],
        "verify": ["verified"],
    },
)
