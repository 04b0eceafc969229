"""A seekable file over ranges behaves like a file in memory."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.store import Changed, RangeFile

DATA = bytes(range(256)) * 5
MOVES = st.lists(st.tuples(st.sampled_from(["read", "set", "end", "on"]), st.integers(0, 1500)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(MOVES, st.integers(1, 400), st.integers(1, 3), st.integers(1, 4))
def test_it_is_a_file(moves: list[tuple[str, int]], block: int, kept: int, ahead: int) -> None:
    asked: list[tuple[int, int]] = []

    def get(start: int, end: int) -> bytes:
        asked.append((start, end))
        return DATA[start:end]

    ours, theirs = io.BufferedReader(RangeFile(get, len(DATA), block=block, kept=kept, ahead=ahead)), io.BytesIO(DATA)
    for move, number in moves:
        if move == "read":
            assert ours.read(number) == theirs.read(number)
        else:
            whence = {"set": io.SEEK_SET, "end": io.SEEK_END, "on": io.SEEK_CUR}[move]
            offset = -min(number, len(DATA)) if move == "end" else number
            assert ours.seek(offset, whence) == theirs.seek(offset, whence)
        assert ours.tell() == theirs.tell()
    assert all(end - start <= block * ahead for start, end in asked)


def test_reading_on_fetches_more_at_once_and_jumping_does_not() -> None:
    asked: list[tuple[int, int]] = []
    file = RangeFile(lambda start, end: asked.append((start, end)) or DATA[start:end], len(DATA), block=50, ahead=4)  # type: ignore[func-returns-value]
    assert io.BufferedReader(file, 10).read(600) == DATA[:600]
    file.seek(1201)
    assert file.read(1) == DATA[1201:1202]
    assert asked == [(0, 50), (50, 150), (150, 350), (350, 550), (550, 750), (1200, 1250)]


def test_neighbours_share_a_block() -> None:
    asked: list[tuple[int, int]] = []
    file = RangeFile(lambda start, end: asked.append((start, end)) or DATA[start:end], len(DATA), block=500, kept=2)  # type: ignore[func-returns-value]
    for position in (10, 20, 499, 1279, 30):
        file.seek(position)
        assert file.read(1) == DATA[position : position + 1]
    assert asked == [(0, 500), (1000, 1280)]


def test_an_object_that_shrank_has_changed() -> None:
    with pytest.raises(Changed):
        RangeFile(lambda start, end: b"short", 100).read(10)
