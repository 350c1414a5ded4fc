"""Where things lie when the configuration leaves a path empty.

Neighbours: `controller`, `cli`. Invariant: everything downloaded or computed once for all runs is under one cache directory
(`MGRD_CACHE`, else ~/.cache/mgrd); everything of one run is under its run directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.config.schema import ExperimentConfig


def cache_dir() -> Path:
    return Path(os.environ.get("MGRD_CACHE") or Path.home() / ".cache" / "mgrd")


def state_dir() -> Path:
    """What is kept between runs and can't be made again: `MGRD_STATE`, else beside the cache."""
    return Path(os.environ.get("MGRD_STATE") or cache_dir())


def run_dir(config: ExperimentConfig) -> Path:
    return Path(config.run.dir or f"runs/{config.run.name}-seed{config.run.seed}").absolute()


def data_dir(config: ExperimentConfig) -> Path:
    return Path(
        config.data.dir or cache_dir() / "data" / f"{config.data.build}-seed{config.data.build_seed}"
    ).absolute()


def train_file(config: ExperimentConfig) -> Path:
    return Path(config.data.train or data_dir(config) / "train.jsonl").absolute()


def held_out_file(config: ExperimentConfig) -> Path:
    return Path(config.data.held_out or data_dir(config) / "held_out.jsonl").absolute()


def feature_dir(config: ExperimentConfig) -> Path:
    return Path(config.data.feature_dir or cache_dir() / "features").absolute()


def mlflow_root(config: ExperimentConfig) -> Path:
    return Path(config.cluster.mlflow_root or cache_dir() / "mlflow").absolute()
