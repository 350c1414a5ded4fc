"""Rewards of installed packages: found by entry point, and one that is broken does not take the others with it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards import RewardError, RewardTerm, get, registered
from rewards.registry import _functions, _plugins, broken_plugins, resolve

GOOD = 'from rewards import reward\n\n@reward("plugged_in")\ndef plugged_in(sample):\n    return 1.0\n'


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions: one with two good plugins around a broken one."""
    (tmp_path / "good_plugin.py").write_text(GOOD)
    (tmp_path / "broken_plugin.py").write_text("raise SystemExit('no licence')\n")
    (tmp_path / "taking_plugin.py").write_text(GOOD.replace("plugged_in", "answer"))
    info = tmp_path / "some_plugins-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugins\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[mgrd.rewards]\na_broken = broken_plugin\nb_taking = taking_plugin\nc_good = good_plugin:plugged_in\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    functions, plugins = dict(_functions), dict(_plugins)
    yield tmp_path
    _functions.clear()
    _functions.update(functions)
    _plugins.clear()
    _plugins.update(plugins)
    for module in ("good_plugin", "broken_plugin", "taking_plugin"):
        sys.modules.pop(module, None)


def test_plugins_are_found_and_the_broken_ones_named(installed: Path) -> None:
    assert "plugged_in" in {function.name for function in registered()}
    assert resolve(RewardTerm("plugged_in", 1.0, "any")).file == str(installed / "good_plugin.py")
    problems = broken_plugins()
    assert set(problems) == {"a_broken", "b_taking"}
    assert (
        "broken_plugin of some-plugins 1.2" in problems["a_broken"] and "SystemExit: no licence" in problems["a_broken"]
    )
    assert "already registered by" in problems["b_taking"]
    assert get("answer").module == "rewards.functions.answer"


def test_an_unknown_name_is_answered_with_the_plugins_that_are_broken(installed: Path) -> None:
    with pytest.raises(RewardError, match=r"unknown reward 'style'.*'a_broken'.*no licence"):
        get("style")


def test_a_plugin_can_be_pinned_to_what_is_installed(installed: Path) -> None:
    version = resolve(RewardTerm("plugged_in", 1.0, "any")).version
    for given in (version, version[: len("sha256:") + 12], version.removeprefix("sha256:")[:14]):
        assert resolve(RewardTerm("plugged_in", 1.0, "any", version=given)).version == version
    with pytest.raises(RewardError, match=r"installed is sha256:.*no registry is given"):
        resolve(RewardTerm("plugged_in", 1.0, "any", version="sha256:" + "0" * 64))
