"""A reward and all it depends on: what is in the hash, how it is kept on disk, how versions live side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards import Bundle, RewardError, RewardTerm, Sample
from rewards.bundle_files import materialise, read_bundle
from rewards.lab import bundle_file, remote_bundle
from rewards.registry import BUNDLE_PREFIX, ResolvedTerm, _bundled, load, resolve_bundle

REWARD = """
from rewards import Sample, reward
from rewards.functions.text import canonical
from words_nearby import WORDS

@reward("hears", version_note="first")
def hears(sample: Sample, *, needed: int = 1) -> float:
    import counting_nearby
    return float(counting_nearby.count(canonical(sample.reasoning), WORDS) >= needed)
"""
WORDS = """
import json
from pathlib import Path

WORDS = json.loads(Path(__file__).with_name("lexicon.json").read_text())
"""
COUNTING = "def count(text, words):\n    return sum(word in text for word in words)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A loose reward with two modules and a data file beside it; nothing of it is on sys.path."""
    place = tmp_path / "mine"
    place.mkdir()
    (place / "my_reward.py").write_text(REWARD)
    (place / "words_nearby.py").write_text(WORDS)
    (place / "counting_nearby.py").write_text(COUNTING)
    (place / "lexicon.json").write_text('["hear"]')
    yield place
    for name in [name for name in sys.modules if name.startswith(BUNDLE_PREFIX)]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "BundleFinder"]
    _bundled.clear()


def bundle_of(folder: Path, **parameters: object) -> Bundle:
    return bundle_file(f"{folder / 'my_reward.py'}:hears", parameters)


def resolved(bundle: Bundle, store: Path, **parameters: object) -> ResolvedTerm:
    return resolve_bundle(RewardTerm("hears", 1.0, "any", parameters), bundle, materialise(bundle, store))


def score(term: ResolvedTerm, reasoning: str) -> float:
    sample = Sample("t", {"prompt": "", "answer": ""}, reasoning, reasoning, "A", True, True, 3, 3)
    return float(load(term).call(sample, **term.parameters))


def test_a_bundle_holds_its_modules_its_data_its_helpers_and_all_parameters(folder: Path) -> None:
    bundle = bundle_of(folder)
    assert {"my_reward.py", "words_nearby.py", "counting_nearby.py", "rewards/functions/text.py"} <= set(bundle.sources)
    assert set(bundle.data) == {"lexicon.json"} and bundle.parameters == {"needed": 1}
    assert (bundle.name, bundle.kind, bundle.batch, bundle.network, bundle.deterministic) == (
        "hears", "function", 0, False, True,
    )  # fmt: skip
    assert "numpy" not in bundle.dependencies
    (folder / "counting_nearby.py").write_text("import numpy\n" + COUNTING)
    assert "numpy" in bundle_of(folder).dependencies


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("my_reward.py", REWARD.replace(">= needed", "> needed")),
        ("words_nearby.py", WORDS + "# a remark\n"),
        ("counting_nearby.py", COUNTING.replace("sum", "len").replace("word in text for word in words", "words")),
        ("lexicon.json", '["listen"]'),
    ],
)
def test_the_hash_changes_with_every_file(folder: Path, file: str, text: str) -> None:
    before = bundle_of(folder).hash
    assert bundle_of(folder).hash == before
    (folder / file).write_text(text)
    assert bundle_of(folder).hash != before


def test_the_hash_does_not_depend_on_the_place_and_changes_with_parameters_and_cases(
    folder: Path, tmp_path: Path
) -> None:
    before = bundle_of(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert bundle_of(moved).hash == before.hash != bundle_of(moved, needed=2).hash
    assert dataclasses.replace(before, golden=("{}",)).hash != before.hash


def test_the_version_is_the_hash_unless_parameters_are_replaced(folder: Path, tmp_path: Path) -> None:
    bundle = bundle_of(folder)
    assert resolved(bundle, tmp_path).version == bundle.hash == resolved(bundle, tmp_path, needed=1).version
    other = resolved(bundle, tmp_path, needed=2)
    assert other.version not in (bundle.hash, resolved(bundle, tmp_path, needed=3).version)
    assert other.published == bundle.hash and other.parameters == {"needed": 2}
    with pytest.raises(RewardError, match="no parameter 'wanted'; its parameters: needed"):
        resolved(bundle, tmp_path, wanted=2)


def test_versions_with_modules_of_the_same_name_live_side_by_side(folder: Path, tmp_path: Path) -> None:
    first = resolved(bundle_of(folder), tmp_path)
    (folder / "lexicon.json").write_text('["listen"]')
    (folder / "counting_nearby.py").write_text(COUNTING.replace("word in text", "text.startswith(word)"))
    second = resolved(bundle_of(folder), tmp_path)
    for _ in range(2):
        assert [score(first, text) for text in ("I hear it", "listen to it", "I listen")] == [1.0, 0.0, 0.0]
        assert [score(second, text) for text in ("I hear it", "listen to it", "I listen")] == [0.0, 1.0, 0.0]
    assert "words_nearby" not in sys.modules and "counting_nearby" not in sys.modules


def test_helpers_run_as_they_were_published(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    term = resolved(bundle_of(folder), tmp_path)
    import rewards.functions.text

    monkeypatch.setattr(rewards.functions.text, "canonical", lambda text: "nothing")
    assert score(term, "I hear it") == 1.0


@pytest.mark.parametrize("file", ["my_reward.py", "words_nearby.py", "lexicon.json", "bundle.json"])
def test_a_changed_file_is_never_run_and_is_written_again(folder: Path, tmp_path: Path, file: str) -> None:
    bundle = bundle_of(folder)
    term = resolved(bundle, tmp_path)
    place = Path(term.file).with_name(file)
    content = place.read_bytes()
    place.write_bytes(content.replace(b"hear", b"bear").replace(b"Path", b"Pact"))
    with pytest.raises(RewardError, match="changed"):
        load(term)
    materialise(bundle, tmp_path)
    assert read_bundle(Path(term.file), bundle.hash) == bundle
    assert score(term, "I hear it") == 1.0


def test_another_version_of_a_library_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "counting_nearby.py").write_text("import numpy\n" + COUNTING)
    bundle = dataclasses.replace(bundle_of(folder), dependencies={"numpy": "1.0.0"})
    with pytest.raises(RewardError, match=r"published with numpy 1\.0\.0, here it is .*register the reward again"):
        resolved(bundle, tmp_path)


def test_a_bundle_can_not_write_outside_its_folder(tmp_path: Path) -> None:
    bundle = Bundle("x", "function", "x", module="x", sources={"../../x.py": ""})
    with pytest.raises(RewardError, match="outside its folder"):
        materialise(bundle, tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"] and not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit('bye')", "raised SystemExit: bye"),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("def broken(:", r"can't be read .*a reward lives in a \.py file"),
        ("x = 1", "registers no reward 'hears'; it registers: none; decorate it"),
        (REWARD.replace('"hears"', '"listens"').replace("def hears", "def listens"), "it registers: listens"),
        (REWARD.replace('version_note="first"', "endpoint=True"), "only shipped code may be one"),
    ],
)
def test_a_file_that_brings_no_such_reward_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "my_reward.py").write_text(text)
    with pytest.raises(RewardError, match=message):
        bundle_of(folder)
    with pytest.raises(RewardError, match="there is no file"):
        bundle_file(f"{folder / 'no_reward.py'}:hears")


def test_a_package_with_relative_imports_can_be_a_bundle(tmp_path: Path) -> None:
    package = tmp_path / "parts_of_it"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import LIMIT\n")
    (package / "inner.py").write_text("LIMIT = 3\n")
    (tmp_path / "long_reply.py").write_text(
        "import parts_of_it.inner\nfrom rewards import reward\n\n"
        '@reward("long_reply")\ndef long_reply(sample):\n    return float(len(sample.reply) >= parts_of_it.inner.LIMIT)\n'
    )
    bundle = bundle_file(f"{tmp_path / 'long_reply.py'}:long_reply")
    assert set(bundle.sources) == {"long_reply.py", "parts_of_it/__init__.py", "parts_of_it/inner.py"}
    term = resolve_bundle(RewardTerm("long_reply", 1.0, "any"), bundle, materialise(bundle, tmp_path / "store"))
    sample = Sample("t", {"prompt": "", "answer": ""}, "", "", "dog", True, True, 3, 3)
    assert load(term).call(sample) == 1.0


def test_parameters_must_be_plain_json(folder: Path) -> None:
    (folder / "my_reward.py").write_text(REWARD.replace("needed: int = 1", "needed=frozenset({1})"))
    with pytest.raises(RewardError, match="plain JSON"):
        bundle_of(folder)


def test_the_canonical_form_survives_json(folder: Path) -> None:
    bundle = bundle_of(folder)
    again = json.loads(bundle.encode())
    assert again["parameters"] == {"needed": 1} and list(again["sources"]) == sorted(again["sources"])


def test_a_remote_reward_holds_its_address_and_no_source() -> None:
    bundle = remote_bundle("style", "https://rewards.example/score")
    assert (bundle.kind, bundle.name, bundle.function, bundle.sources) == ("remote", "style", "remote", {})
    assert bundle.parameters["url"] == "https://rewards.example/score"
    assert bundle.hash != remote_bundle("style", "https://rewards.example/other").hash
    with pytest.raises(RewardError, match="lower case"):
        remote_bundle("Style", "https://rewards.example/score")
