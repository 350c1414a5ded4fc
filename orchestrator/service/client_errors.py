"""What a request to the service can end in, as exceptions: one type a reason, each with the server's message and hint.

Neighbours: `answers` makes them of responses, `client` and `async_client` raise them. Invariant: whatever the server says is kept;
the text of each ends in what to do.
"""

from __future__ import annotations

from orchestrator.errors import MgrdError


class ServiceError(MgrdError):
    """The service did not do what was asked. status: of HTTP, 0 without an answer; field: of the request that is to blame, or "";
    retry_after_s: when the server asks to come again, None if it does not say."""

    def __init__(
        self, message: str, *, status: int = 0, field: str = "", hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.field = field
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RequestRefused(ServiceError):
    """400, 422: the request can't be used as it is; `field` says where."""


class NotSignedIn(ServiceError):
    """401: no token, or one that is unknown, expired or revoked."""


class NotAllowed(ServiceError):
    """403: the token's scopes, or somebody else's experiment."""


class NotFound(ServiceError):
    """404: no such experiment, token, reward, code."""


class NotPossible(ServiceError):
    """409: not in this state, or the idempotency key was used for another request."""


class TooLarge(ServiceError):
    """413: the body is over the server's limit."""


class TooManyRequests(ServiceError):
    """429: over the rate limit or the quota; nothing was done."""


class NotReady(ServiceError):
    """503: the service runs, but something behind it (Redis, the registry) does not answer."""


class ServiceFailed(ServiceError):
    """Any other 5xx: an error of the service itself."""


class ServiceUnreachable(ServiceError):
    """No answer came. sent: whether the request may have arrived and been done."""

    def __init__(self, message: str, *, sent: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class UnreadableAnswer(ServiceError):
    """An answer came that this client does not understand: something else listens there, or the versions differ."""


class AmbiguousReference(ServiceError):
    """The beginning of an id that several experiments share."""


class StillRunning(ServiceError, TimeoutError):
    """`wait` ended by its time limit; the experiment goes on."""


BY_STATUS: dict[int, type[ServiceError]] = {
    400: RequestRefused,
    401: NotSignedIn,
    403: NotAllowed,
    404: NotFound,
    409: NotPossible,
    413: TooLarge,
    422: RequestRefused,
    429: TooManyRequests,
    503: NotReady,
}
HINTS = {
    401: "set MGRD_TOKEN to a token of this service (`mgrd token create` makes one)",
    403: "ask an administrator for a token with the scope it needs",
}
