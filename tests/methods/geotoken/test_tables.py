"""List columns as arrays, null and empty lists and several chunks included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.methods.geotoken.tables import column, padded, vectors

LISTS = st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(-9, 9)), max_size=4)), max_size=8)


@given(LISTS, st.integers(0, 8))
def test_padded_equals_the_loop(lists: list[list[float | None] | None], cut: int) -> None:
    kind = pa.list_(pa.float64())
    chunks = pa.chunked_array([pa.array(lists[:cut], kind), pa.array(lists[cut:], kind)])
    longest = max((len(values or []) for values in lists), default=0)
    expected = [
        [-7.0 if values is None or at >= len(values) or values[at] is None else values[at] for at in range(longest)]
        for values in lists
    ]
    found = padded(column(pa.table({"x": chunks}), "x"), -7.0)
    assert found.shape == (len(lists), longest)
    assert found.tolist() == expected


@given(LISTS, st.integers(0, 8))
def test_a_field_of_structs_equals_the_loop(lists: list[list[float | None] | None], start: int) -> None:
    kind = pa.list_(pa.struct([("a", pa.float64()), ("b", pa.string())]))
    structs = [None if values is None else [{"a": x, "b": "-"} for x in values] for values in lists]
    table = pa.table({"x": pa.array(structs, kind)})[start:]
    assert column(table, "x", "a").to_pylist() == [values or [] for values in lists[start:]]


def test_vectors_keep_their_rows() -> None:
    table = pa.table({"v": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32()))})
    np.testing.assert_array_equal(vectors(table[1:], "v"), [[3, 4], [5, 6]])


@pytest.mark.parametrize("lists", [[[1, 2], [3]], [[1, 2], [3, 4, 5, 6], [7, 8, 9]], [[1, 2], None]])
def test_vectors_of_several_lengths_are_refused(lists: list[list[float] | None]) -> None:
    with pytest.raises(ValueError, match="several lengths"):
        vectors(pa.table({"v": pa.array(lists, pa.list_(pa.float32()))}), "v")
