"""Objects behind one another read as the one file they are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.archive.joined import Joined
from geobatch.store import Changed, NotFound, Object, Store
from tests.archive.reading import put

STORE = Store()
DATA = bytes(range(256)) * 3


def laid(folder: Path, borders: list[int]) -> list[Object]:
    uris = [
        put(folder, f"{number}", DATA[start:end])
        for number, (start, end) in enumerate(pairwise([0, *sorted(borders), len(DATA)]))
    ]
    return [found for uri in uris if (found := STORE.head(uri)) is not None]


@given(
    st.lists(st.integers(0, len(DATA)), max_size=6),
    st.integers(0, len(DATA) + 5),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_as_one_file(tmp_path_factory: pytest.TempPathFactory, borders: list[int], position: int, reads: list[int]) -> None:
    whole = Joined(STORE, laid(tmp_path_factory.mktemp("joined"), borders))
    assert whole.size == len(DATA)
    file, at = whole.open(position), position
    for size in reads:
        assert file.read(size) == DATA[at : at + size]
        at += size
    file.close()


def test_a_part_that_changed_vanished_or_shrank(tmp_path: Path) -> None:
    parts = laid(tmp_path, [100, 200])
    put(tmp_path, "1", b"x" * 90)
    file = Joined(STORE, parts).open(50)
    assert file.read(50) == DATA[50:100]
    with pytest.raises(Changed):
        file.read(1)
    file.close()
    careless = Joined(STORE, [part._replace(etag="") for part in parts]).open(150)
    with pytest.raises(Changed, match="1 is shorter than it was"):
        careless.read(100)
    careless.close()
    (tmp_path / "2").unlink()
    with pytest.raises(NotFound):
        Joined(STORE, parts).open(300)
