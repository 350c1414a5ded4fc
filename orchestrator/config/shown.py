"""A configuration as others may see it: addresses without the passwords in them (pure).

Neighbours: what is kept in MLflow goes through here, and every message that names a server. Invariant: an address that holds no password
is left as it is; of one that does, nothing of the password is left, however malformed it is.
"""

from __future__ import annotations

import dataclasses
import re

from orchestrator.config.schema import ExperimentConfig


def hidden(address: str) -> str:
    """All up to the last @ is left out, since a password that is not encoded may hold any of the signs that end it."""
    bare = re.sub(r"//.*@", "//…@", address, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&#]*", r"\1…", bare)


def shown(config: ExperimentConfig) -> ExperimentConfig:
    """The same without passwords: for people, not for going on with."""
    cluster = config.cluster
    return dataclasses.replace(
        config,
        cluster=dataclasses.replace(
            cluster, redis_url=hidden(cluster.redis_url), mlflow_uri=hidden(cluster.mlflow_uri)
        ),
        reward=dataclasses.replace(config.reward, store=hidden(config.reward.store)),
    )
