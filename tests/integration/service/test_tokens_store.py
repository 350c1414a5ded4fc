"""Tokens: shown once, checked, expiring, revoked; and the audit log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_room import StoreRoom

from orchestrator.service import tokens as tokens_module
from orchestrator.service.messages import User
from orchestrator.service.store_errors import StoreError
from orchestrator.service.tokens import Refusal, TokenError, TokenStore, new_token


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("tokens"))
    yield room
    room.close()


@pytest.fixture
def tokens(room: StoreRoom) -> TokenStore:
    return TokenStore(room.fresh().link)


@pytest.mark.parametrize(
    ("scope", "held"),
    [("read", ("read",)), ("submit", ("read", "submit")), ("admin", ("read", "submit", "admin"))],
)
def test_a_token_opens_its_scope_and_those_below(tokens: TokenStore, scope: str, held: tuple[str, ...]) -> None:
    token, plain = tokens.create("laptop", "ann", scope)
    assert tokens.check(plain) == User("ann", held, token.id)
    assert tokens.list() == [token] or tokens.list()[0].used_at > 0


def test_what_is_not_exactly_the_token_is_unknown(tokens: TokenStore) -> None:
    token, plain = tokens.create("laptop", "ann", "read")
    flipped = plain[:-2] + ("A" if plain[-2] != "A" else "B") + plain[-1]
    other_id = plain.replace(token.id, "0" * 12)
    for wrong in (
        "",
        "mgrd_",
        plain[:-1],
        plain + "x",
        plain + "\n",
        plain.upper(),
        flipped,
        other_id,
        new_token(),
        "ü" * 61,
    ):
        assert tokens.check(wrong) is Refusal.UNKNOWN, wrong


def test_a_token_expires_and_can_be_revoked_for_good(tokens: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    short, short_plain = tokens.create("short", "ann", "read", expires_s=100)
    long, long_plain = tokens.create("long", "bob", "read")
    now = short.created_at
    monkeypatch.setattr(tokens_module.time, "time", lambda: now + 99)
    assert isinstance(tokens.check(short_plain), User)
    monkeypatch.setattr(tokens_module.time, "time", lambda: now + 101)
    assert tokens.check(short_plain) is Refusal.EXPIRED
    assert isinstance(tokens.check(long_plain), User)
    revoked = tokens.revoke(long.id)
    assert revoked.revoked_at > 0 and tokens.revoke(long.id) == revoked
    assert tokens.check(long_plain) is Refusal.REVOKED
    tokens.keep(long_plain, name="long", user="bob", scope="admin")
    assert tokens.check(long_plain) is Refusal.REVOKED
    assert [token.id for token in tokens.list(user="ann")] == [short.id]
    with pytest.raises(TokenError, match="no token 'zzz'"):
        tokens.revoke("zzz")


def test_the_secret_is_nowhere_in_redis(tokens: TokenStore) -> None:
    assert not tokens.configured()
    _, plain = tokens.create("laptop", "ann", "admin")
    tokens.check(plain)
    assert tokens.configured()
    client = tokens.link.client
    held = [client.hgetall(key) for key in client.scan_iter(tokens.link.base + "*")]
    assert held and plain.split("_", 2)[2] not in str(held)


def test_the_last_use_is_noted_once_a_minute(tokens: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    token, plain = tokens.create("laptop", "ann", "read")
    for after, used in ((0, 0), (30, 0), (61, 61)):
        monkeypatch.setattr(tokens_module.time, "time", lambda after=after: token.created_at + after)
        tokens.check(plain)
        assert tokens.list()[0].used_at == pytest.approx(token.created_at + used)


def test_a_given_token_is_kept_and_bad_wishes_are_refused(tokens: TokenStore) -> None:
    plain = new_token()
    for _ in range(2):
        tokens.keep(plain, name="root", user="ann", scope="admin")
    assert isinstance(tokens.check(plain), User) and len(tokens.list()) == 1
    for wish, message in (
        ({"scope": "root"}, "choose one of read, submit, admin"),
        ({"user": ""}, "name one"),
        ({"expires_s": -1}, "time to come"),
    ):
        with pytest.raises(TokenError, match=message):
            tokens.create(**{"name": "n", "user": "ann", "scope": "read"} | wish)
    with pytest.raises(TokenError, match="not a token of this service"):
        tokens.keep("secret", name="n", user="ann", scope="read")


def test_the_audit_log_is_read_newest_first_in_pages(tokens: TokenStore) -> None:
    for number in range(5):
        tokens.audit("ann", "cancel", f"demo-{number}", "done", address="10.0.0.1")
    first = tokens.audited(limit=3)
    rest = tokens.audited(limit=3, before=first[-1].id)
    assert [line.target for line in (*first, *rest)] == [f"demo-{number}" for number in reversed(range(5))]
    assert (first[0].by, first[0].deed, first[0].outcome, first[0].address) == ("ann", "cancel", "done", "10.0.0.1")
    with pytest.raises(StoreError, match="audit log"):
        tokens.audited(before="x")
