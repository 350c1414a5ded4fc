"""Which way weights go: what a configuration may ask for, and what it gets when it leaves the choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from actor import Transport
from orchestrator.config.compose import compose_config
from orchestrator.demand import demand_of
from orchestrator.errors import ConfigError
from orchestrator.specs import publish_spec

CUDA = ["actor.device=cuda"]
SHARED_GPU = [*CUDA, "rollout.colocated=true", "rollout.workers=2", "actor.world_size=2"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["publish.transport=rdma"], "must be one of auto, shared_memory"),
        (["publish.transport=nccl"], "needs actor.device=cuda"),
        (["publish.transport=gloo", *CUDA], "needs actor.device=cpu"),
        (["publish.transport=cuda_ipc", *CUDA], "needs rollout.colocated=true"),
        (["publish.transport=nccl", *SHARED_GPU], "with rollout.colocated=true take cuda_ipc"),
        (["publish.transport=gloo", "publish.only_changed=true"], "which passes every tensor"),
        (["rollout.colocated=true", "rollout.workers=3"], "rollout.workers=1 rollout.tensor_parallel=1"),
        (["publish.bucket_mib=-1"], "between 1 and 4096 MiB"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose_config(["experiment=micro", *overrides])


@pytest.mark.parametrize(
    ("overrides", "transport"),
    [
        ([], Transport.OBJECT_STORE),  # until the run knows whether all see the same memory
        (["publish.transport=shared_memory"], Transport.SHARED_MEMORY),
        (CUDA, Transport.NCCL),
        (SHARED_GPU, Transport.CUDA_IPC),
        ([*CUDA, "publish.only_changed=true"], Transport.OBJECT_STORE),
    ],
)
def test_the_nearest_way_is_taken(overrides: list[str], transport: Transport) -> None:
    config = compose_config(["experiment=micro", *overrides])
    assert publish_spec(config, Path("/runs/one")).transport is transport


def test_runs_of_one_name_in_different_folders_do_not_share_memory() -> None:
    config = compose_config(["experiment=micro"])
    assert publish_spec(config, Path("/a/run")).name != publish_spec(config, Path("/b/run")).name


def test_an_engine_that_shares_a_gpu_shares_the_bundle() -> None:
    bundles = demand_of(compose_config(["experiment=micro", *SHARED_GPU])).bundles
    assert [(bundle.cpus, bundle.gpus) for bundle in bundles] == [(2.0, 1.0)] * 2
