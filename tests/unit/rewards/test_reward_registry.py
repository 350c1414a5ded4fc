"""Names, parameters and versions of reward functions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rewards import RewardError, RewardTerm, Sample, get, registered, reward
from rewards.registry import ResolvedTerm, _functions, load, resolve

SOURCE = """
from rewards import Sample, reward
from helper_of_rewards import LIMIT

@reward("{name}")
def function(sample: Sample, *, characters: int = 40) -> float:
    return float(len(sample.reply) <= characters + LIMIT)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a helper; whatever is registered from it is forgotten afterwards."""
    (tmp_path / "helper_of_rewards.py").write_text("LIMIT = 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(_functions)
    yield tmp_path
    _functions.clear()
    _functions.update(before)
    for module in ("helper_of_rewards", "my_rewards"):
        sys.modules.pop(module, None)


def write_and_import(folder: Path, name: str = "short_reply", source: str = SOURCE) -> ModuleType:
    path = folder / "my_rewards.py"
    path.write_text(source.replace("{name}", name))
    spec = importlib.util.spec_from_file_location("my_rewards", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version(**parameters: object) -> str:
    return resolve(RewardTerm("short_reply", 1.0, "any", parameters)).version


def test_the_shipped_functions_are_there() -> None:
    assert {"answer", "think_present", "think_length", "format"} <= {function.name for function in registered()}


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(RewardError, match="unknown reward 'anwser'; did you mean 'answer'"):
        get("anwser")
    with pytest.raises(RewardError, match="known: answer"):
        get("zzzz")


def test_the_same_source_and_parameters_have_the_same_version(folder: Path) -> None:
    write_and_import(folder)
    first = version()
    assert first.startswith("sha256:") and len(first) == 71
    assert first == version(characters=40) != version(characters=41)
    write_and_import(folder)
    assert version() == first


def test_the_version_changes_with_the_function_and_with_the_helpers_beside_it(folder: Path) -> None:
    write_and_import(folder)
    first = version()
    (folder / "helper_of_rewards.py").write_text("LIMIT = 1\n")
    second = version()
    write_and_import(folder, source=SOURCE.replace("<=", "<"))
    assert len({first, second, version()}) == 3


def test_the_version_of_a_shipped_function_covers_its_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resolve(RewardTerm("answer", 1.0, "any")).version
    read = Path.read_text

    def edited(path: Path, *args: object, **kwargs: object) -> str:
        text = read(path, *args, **kwargs)  # type: ignore[arg-type]
        return text + "\n# edited\n" if path.name == "text.py" else text

    monkeypatch.setattr(Path, "read_text", edited)
    assert resolve(RewardTerm("answer", 1.0, "any")).version != before


def test_a_pinned_function_whose_source_has_changed_is_not_run(folder: Path) -> None:
    write_and_import(folder)
    term = resolve(RewardTerm("short_reply", 1.0, "any"))
    assert load(term).name == "short_reply"
    (folder / "my_rewards.py").write_text(SOURCE.replace("{name}", "short_reply").replace("<=", "<"))
    with pytest.raises(RewardError, match=r"pinned to sha256:.*restore the file or start a new run"):
        load(term)


def test_a_loose_file_is_loaded_where_its_module_has_another_name(folder: Path) -> None:
    write_and_import(folder)
    resolved = resolve(RewardTerm("short_reply", 1.0, "any"))
    _functions.pop("short_reply")
    script = ResolvedTerm(resolved.name, "__main__", resolved.file, resolved.parameters, resolved.version)
    assert load(script).name == "short_reply"


def test_a_file_that_no_longer_registers_the_name_is_an_error(folder: Path) -> None:
    write_and_import(folder)
    term = resolve(RewardTerm("short_reply", 1.0, "any"))
    _functions.pop("short_reply")
    (folder / "my_rewards.py").write_text("")
    with pytest.raises(RewardError, match="no longer registers the reward 'short_reply'"):
        load(term)


def test_two_files_can_not_hold_the_same_name(folder: Path) -> None:
    with pytest.raises(RewardError, match=r"already registered by .*answer\.py"):
        write_and_import(folder, name="answer")


def test_a_malformed_name_is_refused() -> None:
    with pytest.raises(RewardError, match="lower case"):
        reward("Think-Length")


def test_a_batch_function_is_a_plain_one() -> None:
    async def together(samples: list[Sample]) -> list[float]:
        return [1.0 for _ in samples]

    for call, batch in ((together, 4), (lambda samples: [], -1)):
        with pytest.raises(RewardError, match=f"batch={batch} needs a plain `def`"):
            reward("together", batch=batch)(call)


def test_unknown_parameters_name_the_known_ones(folder: Path) -> None:
    write_and_import(folder)
    with pytest.raises(RewardError, match=r"'chars'; its parameters: characters"):
        version(chars=3)
    with pytest.raises(RewardError, match="plain JSON"):
        version(characters={1, 2})


def test_data_files_that_the_source_names_are_part_of_the_version(folder: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists" / "words.json").write_text("[]")
    (folder / "alone.txt").write_text("")
    (folder / "unnamed.txt").write_text("")
    names = 'from pathlib import Path\nA = Path(__file__).with_name("alone.txt")\nB = Path(__file__).parent / "lists"\n'
    write_and_import(folder, source=names + SOURCE)
    seen = {version()}
    for file in ("lists/words.json", "alone.txt", "lists/more.json"):
        (folder / file).write_text("changed")
        seen.add(version())
    assert len(seen) == 4
    (folder / "unnamed.txt").write_text("changed")
    assert version() in seen


def test_helpers_that_rewards_hands_on_are_part_of_the_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_and_import(folder, source="from rewards import split_response\n" + SOURCE)
    before = version()
    read = Path.read_text

    def edited(path: Path, *args: object, **kwargs: object) -> str:
        text = read(path, *args, **kwargs)  # type: ignore[arg-type]
        return text + "\n# edited\n" if path.name == "parse.py" else text

    monkeypatch.setattr(Path, "read_text", edited)
    assert version() != before


def test_looking_up_rewards_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'sympy', 'math_verify', 'librosa', 'jiwer', 'openai', 'transformers', 'fastapi', 'redis'}"
    code = f"import sys, rewards; rewards.registered(); sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
