"""What is written as JSON can be read by anyone: no NaN, no Infinity."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plain import plain

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_what_json_has_words_for_stays_and_the_rest_is_null(value):
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_nan_and_infinities_become_what_is_asked_for():
    value = {"a": (math.nan, 1.5), "b": [-math.inf]}
    assert plain(value) == {"a": [None, 1.5], "b": [None]}
    assert plain(value, str) == {"a": ["nan", 1.5], "b": ["-inf"]}
