"""The first token of a service that no supervisor starts: kept from the environment, before the API listens to others.

    python -m orchestrator.service.root_token          # keeps $MGRD_ROOT_TOKEN as an admin's, in the Redis of $MGRD_REDIS_URL
    python -m orchestrator.service.root_token --new    # prints a fresh one, for a secret

Neighbours: `tokens` keeps it; `deploy/kuberay` runs this before the API. Invariants: doing it again changes nothing; one that was revoked
stays revoked.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import closing

from orchestrator.errors import ConfigError, MgrdError
from orchestrator.service.settings import ServiceSettings, read_settings
from orchestrator.service.tokens import TokenStore, new_token

VARIABLE = "MGRD_ROOT_TOKEN"
PATIENCE_S = 60.0  # a Redis that is deployed at the same time

log = logging.getLogger(__name__)


def keep_root_token(settings: ServiceSettings, plain: str) -> None:
    """Raises ConfigError without a Redis or a token, TokenError for a malformed one, StoreError."""
    if not settings.redis_url:
        raise ConfigError("no Redis is known: set MGRD_REDIS_URL")
    if not plain:
        raise ConfigError(
            f"{VARIABLE} is empty: `python -m orchestrator.service.root_token --new` prints a fresh token"
        )
    with closing(TokenStore.from_url(settings.redis_url, settings.redis_prefix, patience_s=PATIENCE_S)) as tokens:
        tokens.keep(plain, name="root", user="root", scope="admin")


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if arguments == ["--new"]:
        sys.stdout.write(new_token() + "\n")
        return 0
    try:
        keep_root_token(read_settings(), os.environ.get(VARIABLE, ""))
    except MgrdError as error:
        log.error("%s", error)
        return 2
    log.info("the root token is kept")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
