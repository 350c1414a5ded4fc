"""A request that is not served, as an exception: what the caller is told.

Neighbours: `access` and the routers raise it, `api.problems` makes the answer of it.
"""

from __future__ import annotations


class Refused(Exception):
    """A request that is answered with a status and a message. field: where in the request; retry_s: for 429 and 503."""

    def __init__(self, status: int, message: str, *, field: str = "", hint: str = "", retry_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.field, self.hint, self.retry_s = status, field, hint, retry_s
