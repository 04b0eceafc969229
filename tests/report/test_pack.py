"""Boxes of arrays give back what they were given, and can never end the element that carries them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geobatch.report.pack import NONE, STEPS, TYPES, degrees, packed, unpacked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.text(max_size=8), JSON, max_size=4),
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=6),
        st.sampled_from(TYPES).flatmap(lambda kind: arrays.arrays(np.dtype(kind), st.integers(0, 17))),
        max_size=4,
    ),
)
def test_a_box_gives_back_what_it_was_given(values: dict[str, object], given_arrays: dict[str, np.ndarray]) -> None:
    text = packed(values, given_arrays)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    found, back = unpacked(text)
    assert back.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    # A lone surrogate is no character of any encoding: it arrives as a question mark.
    assert found == values or "?" in str(found)


def test_what_no_browser_has_is_refused() -> None:
    for wrong in (np.zeros(3, np.int64), np.zeros((2, 2), np.float32), np.array(["a"])):
        with pytest.raises(ValueError, match="a page takes one axis"):
            packed({}, {"x": wrong})
    with pytest.raises(ValueError, match="not JSON compliant"):
        packed({"x": float("nan")})


def test_big_endian_arrays_are_turned() -> None:
    array = np.arange(5, dtype=">i4")
    np.testing.assert_array_equal(unpacked(packed({}, {"x": array}))[1]["x"], array)


def test_degrees_are_a_centimetre() -> None:
    values = np.array([0.0, -90.0, 179.999999949, np.nan, np.inf, -180.0])
    steps = degrees(values)
    assert steps.dtype == np.int32 and steps[3] == steps[4] == NONE
    np.testing.assert_allclose(steps[[0, 1, 2, 5]] / STEPS, values[[0, 1, 2, 5]], atol=0.5 / STEPS)
    assert NONE not in degrees(np.linspace(-180, 180, 1001))
