"""A seekable file over ranges behaves like a file in memory; a stream gives a server up whose bytes come too slowly."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.store import Changed, RangeFile, StoreConfig, stream
from geobatch.store.faults import Unreadable
from geobatch.store.stream import Stream

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


MIB = 1 << 20


class Drip:
    """A server and a clock: each read of a mebibyte takes as many seconds as `takes` says of its number."""

    etag = "e"

    def __init__(self, size: int, takes: Callable[[int], float]) -> None:
        self.size, self.takes, self.now, self.opened = size, takes, 0.0, list[int]()

    def monotonic(self) -> float:
        return self.now

    def open_at(self, start: int, _: str | None) -> Drip:
        self.opened.append(start)
        self.position = start
        return self

    def read(self, size: int) -> bytes:
        self.now += self.takes(self.position // MIB)
        got = min(size, MIB, self.size - self.position)
        self.position += got
        return bytes(got)

    def close(self) -> None:
        pass


def streamed(server: Drip, monkeypatch: pytest.MonkeyPatch, pause: float = 0.0) -> int:
    """Bytes that a reader gets who does something else for `pause` seconds after each read."""
    monkeypatch.setattr(stream, "time", server)
    made = Stream("s3://b/x.tar", StoreConfig(attempts=3, backoff=0.0), server.open_at, lambda error, uri: None)
    got = 0
    while data := made.read(MIB):
        got += len(data)
        server.now += pause
    return got


def test_a_server_that_drips_all_day_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 KB/s: no read of a mebibyte outlasts its 120 s, and each makes progress."""
    server = Drip(10_000 * MIB, lambda number: 105.0)
    with pytest.raises(Unreadable, match=r"failed 3 times, at last with TimeoutError: 2097152 bytes came in 120 s \(--store"):
        streamed(server, monkeypatch)
    assert server.opened == [0, 2 * MIB, 4 * MIB] and server.now < 700


def test_one_that_is_slow_for_a_while_or_whose_reader_is_slow_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, takes, pause, opened in (
        (100, lambda number: 7.0, 0.0, 1),
        (100, lambda number: 0.1, 500.0, 1),
        (400, lambda number: 105.0 if number % 100 < 4 else 0.1, 0.0, 6),  # and in time for long enough to be forgiven
    ):
        server = Drip(size * MIB, takes)
        assert streamed(server, monkeypatch, pause) == size * MIB
        assert len(server.opened) == opened
