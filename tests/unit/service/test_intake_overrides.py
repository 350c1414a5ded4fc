"""What users may submit: the table of refusals, and that what is taken is what `mgrd run` would compose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.compose import compose_config, from_text, to_yaml
from orchestrator.config.schema import DataConfig
from orchestrator.errors import ConfigError
from orchestrator.service.allowed_paths import DATA_PATHS, inside, why_not
from orchestrator.service.intake import take, take_changed
from orchestrator.service.override_rules import IntakeRefused

ROOTS = (Path("/srv/data"),)
BAD = [
    (["+run.note=1"], "overrides[0]", "'+run.note=1': keys can't be added with +"),
    (["run.seed=1", "++run.seed=1"], "overrides[1]", "'++run.seed=1': keys can't be added with +"),
    (["hydra.run.dir=/tmp"], "overrides[0]", "'hydra.run.dir=/tmp': Hydra's own keys can't be set"),
    (["~hydra"], "overrides[0]", "'~hydra': Hydra's own keys can't be set"),
    (["run.seed=1,2"], "overrides[0]", "'run.seed=1,2' has several values"),
    (["run.seed=range(1,9)"], "overrides[0]", "'run.seed=range(1,9)' has several values"),
    (["run.name=${oc.env:HOME}"], "overrides[0]", "'run.name=${oc.env:HOME}': interpolations (${…}) are not taken"),
    ([r"run.name=$\{oc.env:HOME\}"], "overrides[0]", r"interpolations (${…}) are not taken"),
    (["run.name='$\\\\{oc.env:HOME}'"], "overrides[0]", r"interpolations (${…}) are not taken"),
    (["actor.freeze=['${x}']"], "overrides[0]", "interpolations (${…}) are not taken"),
    (["run.dir=/tmp/x"], "overrides[0]", "run.dir is set by the service: the service gives every experiment its own folder"),
    (["run={dir: /tmp/x}"], "overrides[0]", "run.dir is set by the service"),
    (["run.resume=true"], "overrides[0]", "run.resume is set by the service: use resume to go on with an experiment"),
    (["reward.store=redis://evil"], "overrides[0]", "reward.store is set by the service"),
    (["cluster.redis_url=redis://evil"], "overrides[0]", "cluster.redis_url is set by the service"),
    (["cluster=embedded"], "overrides[0]", "cluster is set by the service"),
    (["experiment=../../../../tmp/evil"], "overrides[0]", "experiment is a group, choose one of its files by name"),
    (["experiment@_global_=demo"], "overrides[0]", "'experiment@_global_=demo' is no override"),
    (["~actor"], "overrides[0]", "'~actor' deletes nothing: only entries such as reward.terms.NAME can be deleted"),
    (["experiment=dmo"], "overrides[0]", "there is no experiment named 'dmo'; did you mean 'demo'?"),
    (["run.sead=1"], "overrides[0]", "unknown configuration key 'run.sead'; did you mean run.seed"),
    (["seed"], "overrides[0]", "'seed' is no override"),
    (["=1"], "overrides[0]", "'=1' is no override"),
    (["run.name='"], "overrides[0]", "can't be read"),
    (["run.name=a\nb"], "overrides[0]", "holds a control character"),
    (["run.seed=many"], "overrides", "Value 'many' of type 'str' could not be converted to Integer"),
    (["run.checkpoint_every=0"], "overrides", "run.checkpoint_every = 0: must be at least 1 policy update"),
    (["rollout.workers=1000000000"], "overrides", "ask for 1000000001 processes, the limit is 10000"),
    (["data.train=/etc/passwd"], "overrides", "data.train: /etc/passwd is outside the folders that experiments may use"),
    (["data.train=/srv/data/../../etc/passwd"], "overrides", "leads out of its folder"),
    (["data.train=mine.jsonl"], "overrides", "is relative to nothing"),
    (["data.train=s3://bucket/x"], "overrides", "is no path of a file"),
    (["model.path='~/weights'"], "overrides", "is no path of a file"),
    (["reward.terms.x.weight=1", "reward.terms.x.parameters.prompt=/etc/passwd"], "overrides", "reward.terms.x.parameters.prompt: /etc"),
    (["run.name=" + "x" * 4000], "overrides[0]", "has 4009 characters, the limit is 4000"),
    (["run.seed=1"] * 201, "overrides", "201 overrides, the limit is 200"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "field", "message"), BAD, ids=[row[2][:40] for row in BAD])
def test_what_is_not_taken_is_told_with_its_field(overrides: list[str], field: str, message: str) -> None:
    with pytest.raises(IntakeRefused) as refused:
        take(overrides, ROOTS)
    assert refused.value.field == field and message in str(refused.value)


KEYS = st.sampled_from(
    [
        *["experiment=demo", "experiment=micro", "experiment=mgrd_tiny", "reward=answer_only", "actor=dp2"],
        *["run.seed=5", "run.name='1e-4'", "run.name=a b", "actor.actor_optim.lr=1e-6", "pipeline.sft.steps=3"],
        *["reward.terms.format.weight=0.1", "~reward.terms.think_present", "reward.joint.both.of=[answer,format]"],
        *["reward.joint.both.weight=1", "pipeline.sentinels.entropy=null", "actor.freeze=[adapter.,encoder.]"],
        *[
            "reward.terms.answer.parameters.x={a: [1, b]}",
            "pipeline={sft: {steps: 4}}",
            "pipeline.reinforce.updates=-1",
        ],
    ]
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(KEYS, max_size=6, unique=True))
def test_what_is_taken_is_what_mgrd_run_composes(overrides: list[str]) -> None:
    try:
        expected = to_yaml(compose_config(overrides))
    except ConfigError:
        with pytest.raises(IntakeRefused):
            take(overrides, ROOTS)
        return
    taken = take(overrides, ROOTS)
    assert taken.yaml == expected
    assert take_changed(taken.yaml, [], ROOTS).yaml == expected


def test_many_threads_compose_at_once_and_each_gets_its_own() -> None:
    wishes = [[f"experiment={name}", f"run.seed={seed}"] for seed in range(4) for name in ("demo", "micro")]
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda wish: take(wish, ROOTS), wishes))
    assert [from_text(one.yaml, "it").run.seed for one in taken] == [seed for seed in range(4) for _ in range(2)]
    assert [one.name for one in taken] == ["demo", "micro"] * 4


def test_what_goes_on_keeps_its_seed_and_a_clone_may_change_it() -> None:
    stored = take(["experiment=micro"], ROOTS).yaml
    assert from_text(take_changed(stored, ["run.redo=true"], ROOTS).yaml, "it").run.redo
    with pytest.raises(IntakeRefused, match="has drawn from its seed already"):
        take_changed(stored, ["run.seed=4"], ROOTS)
    assert from_text(take_changed(stored, ["run.seed=4"], ROOTS, clone=True).yaml, "it").run.seed == 4
    for clone in (True, False):
        with pytest.raises(IntakeRefused, match=r"run\.dir is set by the service"):
            take_changed(stored, ["run.dir=/tmp"], ROOTS, clone=clone)


def test_every_text_of_the_data_group_is_judged_as_a_path() -> None:
    texts = {item.name for item in fields(DataConfig) if isinstance(item.default, str)}
    assert texts == {*DATA_PATHS, "build"}


def test_links_are_followed_before_a_path_is_judged(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "way_out").symlink_to("/etc")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data" / "loop")
    roots = (tmp_path / "data",)
    assert inside(tmp_path / "data" / "clips", roots) and not inside(tmp_path / "data" / "way_out" / "passwd", roots)
    assert not inside(tmp_path / "data" / "loop", roots) and not inside(Path("/" + "x" * 5000), roots)
    assert why_not("owner/name", roots, hub=True) == "" and why_not("readers/mine.jsonl", roots, code=True) == ""
    assert "leads out" in why_not("../mine.jsonl", roots, code=True)
