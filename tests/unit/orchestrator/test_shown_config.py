"""What of a configuration others may see: everything but passwords."""

from __future__ import annotations

import pytest

from orchestrator.config.compose import compose_config, to_yaml
from orchestrator.config.shown import hidden, shown


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        ("", ""),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:hush@127.0.0.1:6379/0", "redis://…@127.0.0.1:6379/0"),
        ("rediss://ann:hu@sh/:#?@host", "rediss://…@host"),
        ("redis://[:hush@host", "redis://…@host"),
        ("unix:///run/redis.sock?db=1&password=hush&protocol=3", "unix:///run/redis.sock?db=1&password=…&protocol=3"),
    ],
)
def test_of_an_address_all_but_the_password_is_shown(address: str, bare: str) -> None:
    assert hidden(address) == bare


def test_no_address_of_a_configuration_shows_its_password() -> None:
    url = "redis://:hush@host:1/0"
    given = [f"cluster.redis_url='{url}'", f"reward.store='{url}'", "cluster.mlflow_uri='https://ann:hush@host'"]
    config = compose_config(["experiment=micro", *given])
    assert to_yaml(config).count("hush") == 3
    assert "hush" not in to_yaml(shown(config)) and to_yaml(shown(config)).count("//…@host") == 3
    plain = compose_config(["experiment=micro"])
    assert shown(plain) == plain
