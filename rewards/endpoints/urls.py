"""Which URLs an endpoint may have.

Neighbours: the rewards' parameter checks, and `client` before it connects. Invariant: pure and light, since parameters are checked
in processes that never connect.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

TELLTALES = ("key", "token", "secret", "password", "signature")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_url(url: str) -> str:
    """The URL. Raises ValueError for one that is not http(s), has no host, or carries what looks like a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in url):
        raise ValueError("the URL can't be asked; it must start with http:// or https:// and name a host")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"the URL of {parts.hostname!r} has an impossible port: {error}") from error
    if parts.username or parts.password or parts.fragment:
        raise ValueError(f"the URL of {parts.hostname!r} carries a user, password or fragment; name a secret instead")
    telling = [name for name, _ in parse_qsl(parts.query) if any(word in name.lower() for word in TELLTALES)]
    if telling:
        raise ValueError(f"the URL of {parts.hostname!r} carries {telling[0]!r}; name a secret instead")
    return url


def sends_in_the_clear(url: str) -> bool:
    """Whether a token sent there could be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK
