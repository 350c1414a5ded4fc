"""Values given in Python are the values that a configuration gets; a sweep's commas are told from a list's."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.service.overrides import as_overrides, as_text, grid_of

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def read_by_hydra(text: str) -> Any:
    return OverridesParser.create().parse_override(f"key={text}").value()


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_hydra_reads_back_what_was_given(value: Any) -> None:
    found = read_by_hydra(as_text(value))
    if isinstance(value, str) and not isinstance(found, str):
        # as typed on a command line: `7` is a number; the schema's type decides
        assert as_text(value) == value
        return
    assert str(found) == value if isinstance(value, str) else found == value


def test_an_experiment_and_a_mapping_become_overrides() -> None:
    found = as_overrides("mgrd_tiny", {"actor.actor_optim.lr": 1e-6, "run.resume": False, "model.path": "a b'c"})
    assert found == ["experiment=mgrd_tiny", "actor.actor_optim.lr=1e-06", "run.resume=false", r"model.path='a b\'c'"]
    assert as_overrides("", ["run.seed=7", "~reward.terms.x"]) == ["run.seed=7", "~reward.terms.x"]


@pytest.mark.parametrize("wrong", [["run.seed"], "run.seed=7", {"a": object()}])
def test_what_is_no_override_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        as_overrides("", wrong)


def test_only_commas_outside_brackets_and_quotes_make_a_sweep() -> None:
    fixed, grid = grid_of(["experiment=demo", "run.seed=1,2,3", "a=[1,2]", "b='x,y',z", "c={k:1,l:2},{}"])
    assert fixed == ["experiment=demo", "a=[1,2]"]
    assert grid == {"run.seed": ["1", "2", "3"], "b": ["'x,y'", "z"], "c": ["{k:1,l:2}", "{}"]}
    with pytest.raises(ConfigError, match="missing"):
        grid_of(["run.seed=1,,2"])
