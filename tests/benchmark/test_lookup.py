"""Names found by their digests, beside a dictionary."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.benchmark import lookup
from geobatch.benchmark.lookup import Lookup, digests

NAMES = st.lists(st.text("ab\0ä", max_size=20), max_size=30)


def column(names: list[str]) -> pa.LargeStringArray:
    return pa.array(names, pa.large_string())


@given(NAMES, NAMES, st.booleans())
def test_as_a_dictionary_finds(names: list[str], asked: list[str], same: bool) -> None:
    """Also where every digest is that of every other name."""
    with pytest.MonkeyPatch.context() as patch:
        if same:
            patch.setattr(lookup, "digests", lambda keys: np.zeros(len(keys), np.uint64))
        patch.setattr(lookup, "_BLOCK", 7)
        made = Lookup(column(names), pc.utf8_upper)
        first, second = made.find(column([name.upper() for name in asked + names]))
        groups = [set(group.tolist()) for group in made.repeated()]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows[name.upper()].append(row)
    expected = [[*rows[name.upper()], -1, -1][:2] for name in asked + names]
    assert np.stack([first, second], axis=1).tolist() == expected
    for same_name in rows.values():
        assert len(same_name) < 2 or any(set(same_name) <= group for group in groups)


@given(NAMES, st.integers(0, 5))
def test_a_digest_is_of_the_bytes_alone(names: list[str], cut: int) -> None:
    whole = digests(column(names))
    assert digests(column(names)[cut:]).tolist() == whole[cut:].tolist()
    assert whole.tolist() == [digests(column([name]))[0] for name in names]
    assert len(set(whole.tolist())) == len(set(names))


def test_digests_of_like_names_differ() -> None:
    """And in every bit about half of the time."""
    names = [f"{n % 256:02x}/{n % 251:02x}/{3_000_000_000 + n}.jpg" for n in range(200_000)]
    found = digests(column(names))
    assert len(np.unique(found)) == len(names)
    bits = [(found >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert min(bits) > 0.49 and max(bits) < 0.51
