"""Short conversations, some of which ask about a sound where no clip is attached.

Neighbours: `templates` has the texts, `build` draws and writes them. Invariant: names are handed on lazily.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"build": ["DEMONSTRATIONS", "SOURCES", "build_conversations", "conversations"]},
)
