"""One experiment from start to end leaves a report, a record in MLflow, a model, and no process."""

import json
import sqlite3
from pathlib import Path

import pytest
from conftest import MicroRuns, processes_of, report, updates
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

EVERY_UPDATE = {
    *(
        "reward/mean",
        "reward/answer",
        "reward/think_present",
        "accuracy",
        "think/tokens",
        "response/tokens",
        "invalid_share",
    ),
    *("policy/clip_fraction", "policy/approx_kl", "policy/entropy", "policy/value_loss", "policy/explained_variance"),
    *(
        "policy/actor_grad_norm",
        "policy/critic_grad_norm",
        "policy/actor_lr",
        "policy/critic_lr",
        "policy/mismatch_max",
    ),
    *("tokens_per_second", "weights_version", "probe/max_abs_diff"),
    *("publish/seconds", "publish/bytes", "publish/gb_per_s", "publish/loaded_bytes"),
    *("seconds/generate", "seconds/reward", "seconds/log_probs", "seconds/update", "seconds/publish", "seconds/other"),
}


def test_the_report_says_what_the_run_did(whole_run):
    found = report(whole_run)
    assert found["status"] == "succeeded"
    assert found["policy_updates"] == 4
    assert set(found["phase_seconds"]) == {"generate", "reward", "log_probs", "update", "publish", "other"}
    for side in ("before", "after"):
        assert {"sampled", "greedy", "stderr", "think_present", "true_perceptions", "by_task"} <= set(
            found["eval"][side]
        )
    assert found["probe_max_abs_diff"] <= 1e-4
    assert found["invalid_verdicts"] == 0
    assert [stage["name"] for stage in found["stages"]][-4:] == ["select", "reinforce", "evaluate_after", "export"]


def test_weights_changed_with_every_policy_update(whole_run):
    records = updates(whole_run)
    assert [r["version"] for r in records] == [2, 3, 4, 5]
    assert all(r["metrics"]["policy/actor_grad_norm"] > 0 for r in records)


def test_weights_went_through_shared_memory_and_none_is_left(whole_run):
    assert "weights go to the engines by shared_memory" in (whole_run / "logs" / "driver.log").read_text()
    assert all(r["metrics"]["publish/loaded_bytes"] == r["metrics"]["publish/bytes"] for r in updates(whole_run))
    assert not list(Path("/dev/shm").glob(f"mgrd-weights-{whole_run.name}-*"))


def test_mlflow_has_every_policy_update_in_nested_runs(whole_run, micro_runs: MicroRuns):
    store = sqlite3.connect(micro_runs.root / "mlflow" / "mlflow.db")
    parent = report(whole_run)["mlflow"]["run_id"]
    children = dict(
        store.execute(
            "select r.name, r.run_uuid from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'mlflow.parentRunId' and t.value = ?",
            (parent,),
        )
    )
    stage = next(run for name, run in children.items() if "reinforce" in name)
    logged: dict[int, set[str]] = {}
    for key, step in store.execute("select key, step from metrics where run_uuid = ?", (stage,)):
        logged.setdefault(step, set()).add(key)
    assert sorted(logged) == [1, 2, 3, 4]
    for step, keys in logged.items():
        assert not EVERY_UPDATE - keys, f"update {step} lacks {EVERY_UPDATE - keys}"
    (status,) = store.execute("select status from runs where run_uuid = ?", (parent,)).fetchone()
    assert status == "FINISHED"
    assert store.execute("select count(*) from inputs where destination_id = ?", (parent,)).fetchone()[0] >= 2
    assert store.execute("select count(*) from model_versions where name = 'mgrd-micro'").fetchone()[0] >= 1
    pages = list((micro_runs.root / "mlflow" / "artifacts").rglob("update_000002.html"))
    assert any("data:audio/wav;base64," in page.read_text() for page in pages)


def test_the_exported_model_has_public_weight_names(whole_run):
    folder = whole_run / "model"
    names = set(load_file(folder / "model.safetensors"))
    assert {name.split(".")[0] for name in names} <= {"encoder", "adapter", "model", "lm_head"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["StepAudio2ForCausalLM"]


def test_no_process_is_left(whole_run):
    assert processes_of(whole_run) == []
