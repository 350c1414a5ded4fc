"""Bearer tokens and the audit log, in Redis.

Neighbours: `access` of the API checks tokens with it, the CLI and `POST /v1/tokens` make them, `up` keeps the root token. Invariants:
a secret is shown once and stored only as its SHA-256 (256 random bits need no slow hash); revoking holds from the next request on;
the audit log is only appended to, and keeps about the last 100,000 lines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from orchestrator.errors import MgrdError
from orchestrator.service.messages import AuditLine, Token, User
from orchestrator.service.store_errors import StoreError
from orchestrator.service.store_events import EVENT_ID
from orchestrator.service.store_link import PATIENCE_S, Link

SCOPES = ("read", "submit", "admin")  # each contains those before it
TOKEN = re.compile(r"mgrd_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
USED_EVERY_S = 60.0  # how exactly the time of the last use is noted: one write a minute, not one a request
AUDIT_KEPT = 100_000


class Refusal(StrEnum):
    """Why a token opens nothing; the value is fit for people."""

    UNKNOWN = "the token is unknown"
    EXPIRED = "the token has expired"
    REVOKED = "the token was revoked"


class TokenError(MgrdError):
    """A token that can't be made or found."""


class TokenStore:
    """Thread-safe. Every method raises StoreError when Redis does not answer within the patience."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._tokens, self._revoked, self._used = (link.key("tokens", part) for part in ("kept", "revoked", "used"))
        self._audit = link.key("audit")

    @classmethod
    def from_url(cls, url: str, prefix: str = "mgrd:", *, patience_s: float = PATIENCE_S) -> TokenStore:
        return cls(Link.from_url(url, prefix, patience_s=patience_s))

    def close(self) -> None:
        self.link.close()

    def create(self, name: str, user: str, scope: str, *, expires_s: float = 0.0) -> tuple[Token, str]:
        """Returns what is kept and the token itself, which can't be shown again. expires_s: seconds from now, 0: never.

        Raises TokenError for an unknown scope, an empty user or a negative time.
        """
        plain = new_token()
        return self.keep(plain, name=name, user=user, scope=scope, expires_s=expires_s), plain

    def keep(self, plain: str, *, name: str, user: str, scope: str, expires_s: float = 0.0) -> Token:
        """Let a token of `new_token` be valid; doing it again changes nothing but name, user, scope and expiry."""
        parts = TOKEN.fullmatch(plain)
        if parts is None:
            raise TokenError("that is not a token of this service: leave it away, and one is made")
        if scope not in SCOPES:
            raise TokenError(f"there is no scope {scope!r}: choose one of {', '.join(SCOPES)}")
        if not user:
            raise TokenError("a token belongs to a user: name one")
        if expires_s < 0:
            raise TokenError("a token can't have expired before it is made: give a time to come, or 0 for never")
        now = time.time()
        token = Token(parts[1], name, user, scope, now, now + expires_s if expires_s else 0.0)
        kept = msgspec.json.encode({"token": token, "sha256": _digest(parts[2])})
        self.link.call(lambda client: client.hset(self._tokens, token.id, kept))
        return token

    def check(self, plain: str) -> User | Refusal:
        """Whose it is, with every scope it holds, or why it opens nothing."""
        parts = TOKEN.fullmatch(plain)
        if parts is None:
            return Refusal.UNKNOWN
        id, secret = parts[1], parts[2]
        kept, revoked, used = self.link.call(lambda client: self._row(client, id))
        held = msgspec.json.decode(kept, type=_Kept) if kept else None
        if not hmac.compare_digest(_digest(secret), held.sha256 if held else "0" * 64) or held is None:
            return Refusal.UNKNOWN
        now = time.time()
        if revoked:
            return Refusal.REVOKED
        if held.token.expires_at and held.token.expires_at <= now:
            return Refusal.EXPIRED
        if now - float(used or 0) > USED_EVERY_S:
            self.link.call(lambda client: client.hset(self._used, id, now))
        return User(held.token.user, SCOPES[: SCOPES.index(held.token.scope) + 1], id)

    def list(self, *, user: str = "") -> list[Token]:
        """Newest first; user: only that one's."""
        kept, revoked, used = self.link.call(self._everything)
        rows = (msgspec.json.decode(text, type=_Kept).token for text in kept.values())
        tokens = [
            dataclasses.replace(row, revoked_at=float(revoked.get(row.id, 0)), used_at=float(used.get(row.id, 0)))
            for row in rows
            if user in ("", row.user)
        ]
        return sorted(tokens, key=lambda token: -token.created_at)

    def configured(self) -> bool:
        """Whether a token was ever made: a service without one is open to its own machine only."""
        return bool(self.link.call(lambda client: client.hlen(self._tokens)))

    def revoke(self, id: str) -> Token:
        """From now on it opens nothing. Doing it again changes nothing. Raises TokenError for an unknown id."""
        if not self.link.call(lambda client: client.hexists(self._tokens, id)):
            raise TokenError(f"there is no token {id!r}: list the tokens to see the ids")
        self.link.call(lambda client: client.hsetnx(self._revoked, id, time.time()))
        return next(token for token in self.list() if token.id == id)

    def audit(self, by: str, deed: str, target: str, outcome: str, *, address: str = "") -> None:
        """Write one line; after a lost connection it may be written twice rather than not at all."""
        line: dict[Any, Any] = {"by": by, "deed": deed, "target": target, "outcome": outcome, "address": address}
        line["at"] = time.time()
        self.link.call(lambda client: client.xadd(self._audit, line, maxlen=AUDIT_KEPT, approximate=True))

    def audited(self, *, limit: int = 100, before: str = "") -> Sequence[AuditLine]:
        """Newest first; before: id of the last line of the page before. Raises StoreError for one that is no line's id."""
        if before and not EVENT_ID.fullmatch(before):
            raise StoreError(f"{before!r} is not the id of a line of the audit log")
        end = f"({before}" if before else "+"
        rows = self.link.call(lambda client: client.xrevrange(self._audit, max=end, count=limit))
        return [
            AuditLine(id, held["by"], held["deed"], held["target"], held["outcome"], float(held["at"]), held["address"])
            for id, held in rows
        ]

    def _row(self, client: Any, id: str) -> Any:
        pipeline = client.pipeline(transaction=True)
        return pipeline.hget(self._tokens, id).hget(self._revoked, id).hget(self._used, id).execute()

    def _everything(self, client: Any) -> Any:
        pipeline = client.pipeline(transaction=True)
        return pipeline.hgetall(self._tokens).hgetall(self._revoked).hgetall(self._used).execute()


@dataclass(frozen=True, slots=True)
class _Kept:
    token: Token
    sha256: str


def new_token() -> str:
    return f"mgrd_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
