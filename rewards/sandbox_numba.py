"""Where numba looks for compiled functions in a scoring process: beside their source, for reading only.

Neighbours: `sandbox_process` names this in the process's environment (NUMBA_CACHE_LOCATOR_CLASSES); numba imports it.
Invariant: nothing is written, since a scoring process can't and shared compiled code could be forged. Functions that were compiled
and kept before (by running them once outside) are taken from there; others are compiled in every process.
"""

from __future__ import annotations

from typing import Any

from numba.core import caching


class BesideSource(caching.InTreeCacheLocator):
    """A folder that need not be there and is never made."""

    def ensure_cache_path(self) -> None:
        return


def _save(_self: Any, _key: Any, _data: Any) -> None:
    """Instead of writing an index and a file."""


caching.IndexDataCacheFile.save = _save
