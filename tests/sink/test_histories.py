"""Random histories of an archive, its runs and compactions, against a plain model of what the table must be.

The model knows no parts, shards or lists: for each image the bytes that were located last and with which write of its object,
and whether the last complete listing missed that. Objects are refused for some nights, wholly or behind some members, and some
nights leave a member of every tar out by its name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.pipeline.frozen import Wanted
from geobatch.sink import latest, read
from geobatch.sink.compact import clear, compact
from geobatch.store import Store
from tests.sink.nights import latitude_of, night, rows_of, tar_of

#: Loose images, and tars with the members that they may have.
LOOSE, TARS, MEMBERS = ("a.jpg", "b.jpg", "c.jpg", "d.jpg"), ("t.tar", "u.tar"), ("1.jpg", "2.jpg", "3.jpg")

#: The member that some nights leave out.
LEFT_OUT = "3.jpg"

#: Bytes of a small member with its header; and what the model holds of an object that was refused.
MEMBER, REFUSED = 1024, b"refused"

contents = st.sampled_from([b"x", b"y", b"z", b"bad p", b"bad q"])
step = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(LOOSE), contents),
    st.tuples(st.just("write"), st.sampled_from(TARS), st.dictionaries(st.sampled_from(MEMBERS), contents)),
    st.tuples(st.just("refuse"), st.sampled_from([*LOOSE, *TARS]), st.none() | st.integers(0, 2)),
    st.tuples(st.just("delete"), st.sampled_from([*LOOSE, *TARS]), st.none()),
    st.tuples(
        st.just("night"), st.sampled_from(["new", "all", "retry"]), st.tuples(st.none() | st.integers(0, 3), st.booleans())
    ),
    st.tuples(st.just("compact"), st.sampled_from([1, 20_000, 1 << 30]), st.none()),
)


class Model:
    """The archive as it is, the table as it must be."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.output = folder / "archive", folder / "out"
        self.archive.mkdir()
        self.objects: dict[str, Any] = {}  # name -> bytes, or members
        self.writes = 0
        self.rows: dict[str, tuple[str, bytes, int]] = {}  # image -> (object, bytes it was located by, write of the object)
        self.done: dict[str, int] = {}  # object -> the write of it that the table holds wholly
        self.written: dict[str, int] = {}  # object -> its last write
        self.gone: set[str] = set()
        self.refused: dict[str, int] = {}  # object -> members that can be read
        self.narrow = False  # whether the run that was published last left a member out
        self.partial: set[str] = set()  # objects that the table says were read in part

    def write(self, name: str, content: Any) -> None:
        self.objects[name], self.writes = content, self.writes + 1
        self.written[name] = self.writes
        path = self.archive / name
        path.write_bytes(tar_of(content) if isinstance(content, dict) else content)
        os.utime(path, ns=(self.writes * 10**9, self.writes * 10**9))  # two writes are two etags

    def refuse(self, name: str, members: int | None) -> None:
        self.refused.pop(name, None)
        if members is not None:
            self.refused[name] = members

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            (self.archive / name).unlink()

    def images(self, name: str, narrow: bool) -> dict[str, bytes]:
        """What is in an object, by image_id without the folder."""
        content = self.objects[name]
        if not isinstance(content, dict):
            return {name: content}
        return {f"{name}#{member}": data for member, data in content.items() if not (narrow and member == LEFT_OUT)}

    def waits(self, image: str, narrow: bool) -> bool:
        """Whether tonight leaves an image out of bytes that are still there."""
        name, _, write = self.rows[image]
        return narrow and image.endswith("#" + LEFT_OUT) and write == self.written[name]

    def night(self, kind: str, stop_after: int | None, narrow: bool) -> None:
        if not self.objects and not self.rows:
            return
        wanted = Wanted(everything=kind == "all", retry=frozenset({"broken"}) if kind == "retry" else None, emptied=True)
        refused = self.refused if stop_after is None else {}
        done, seen = night(
            self.archive,
            self.output,
            wanted,
            stop_after,
            shard_rows=2,
            refused={n: MEMBER * k for n, k in refused.items()},
            exclude=(LEFT_OUT,) if narrow else (),
        )
        before = rows_before = dict(self.rows)
        due = [name for name in sorted(self.objects) if self.due(name, kind, wider=self.narrow and not narrow)]
        self.gone = {name for name, *_ in before.values()} - set(self.objects)
        if done is None:
            assert not due
            return
        table, self.narrow = rows_of(self.output), narrow
        if done["ended"] is None:
            for name in due:
                came = self.came(name, refused, narrow)
                self.rows = {
                    image: row
                    for image, row in self.rows.items()
                    if row[0] != name or self.stays(image, came) or self.waits(image, narrow)
                }
                self.rows |= {image: (name, data, self.written[name]) for image, data in came.items() if image not in self.rows}
                if name not in self.partial or REFUSED not in came.values():
                    self.done[name] = self.written[name]
        else:  # some of what was due was done: nothing may be lost, and what is new must be right
            for name in due:
                now = {image: row for image, row in table.items() if row["uri"].endswith("/" + name)}
                fresh = {image for image, row in now.items() if row["run"] == done["run"]}
                old = {image for image, row in rows_before.items() if row[0] == name}
                there = set(self.images(name, narrow))
                wait = {image for image in old if self.waits(image, narrow)}
                assert fresh <= there and old - set(now) <= old - there - wait
                empty = not fresh and self.known_empty(name)
                whole = fresh == there and name not in _partial(self.output) and (bool(fresh) or empty)
                if whole:
                    self.rows = {image: row for image, row in self.rows.items() if row[0] != name or image in wait}
                    self.done[name] = self.written[name]
                elif fresh or name in _partial(self.output):  # or it waits to be read for the members that were left out
                    self.done.pop(name, None)
                self.rows |= {image: (name, self.images(name, narrow)[image], self.written[name]) for image in fresh}
        self.partial = _partial(self.output)
        assert self.partial.isdisjoint(self.done)
        self.counts(done, seen, kind)

    def came(self, name: str, refused: dict[str, int], narrow: bool) -> dict[str, bytes]:
        """What a night reads of an object; what it is refused is the object's own."""
        images = self.images(name, narrow)
        if name not in refused:
            return images
        some = list(self.images(name, narrow=False))[: refused[name]] if name in TARS else []
        return {**{image: images[image] for image in some if image in images}, name: REFUSED}

    def stays(self, image: str, came: dict[str, bytes]) -> bool:
        """Whether the row of an object that is read again stays: what is refused takes no place of the same bytes away."""
        name, data, write = self.rows[image]
        if REFUSED not in came.values():
            return False
        if name in LOOSE:
            return write == self.written[name] and not data.startswith((b"bad", REFUSED))
        return image not in came and (write == self.written[name] or name in self.partial)

    def known_empty(self, name: str) -> bool:
        """Whether the table says that the object, as it is now, holds no image."""
        table, found = latest(Store(), str(self.output)), Store().head(str(self.archive / name))
        assert table is not None and found is not None
        return [found.uri, found.etag] in table.record["empty_sources"]

    def due(self, name: str, kind: str, *, wider: bool) -> bool:
        rejected = any(data.startswith(b"bad") for image, (holder, data, _) in self.rows.items() if holder == name)
        return (
            kind == "all"
            or (wider and name in TARS)
            or self.done.get(name) != self.written[name]
            or (kind == "retry" and rejected)
        )

    def counts(self, done: dict[str, Any], seen: list[str], kind: str) -> None:
        assert done["read"] == done["placed"] + done["rejected"]
        assert done["read"] == len(seen) + done["reused"] + done["reasons"].get("unreadable", 0)
        assert done["reused"] == 0 if kind == "all" else done["reused"] <= done["read"]

    def check(self) -> None:
        """The table is the model's, by every way to read it."""
        if latest(Store(), str(self.output)) is None:
            return
        if not self.rows:
            return
        rows = rows_of(self.output)
        assert rows.keys() == self.rows.keys()
        for image, (name, data, _) in self.rows.items():
            row, bad = rows[image], data.startswith((b"bad", REFUSED))
            assert row["reason"] == ("unreadable" if data == REFUSED else "broken" if bad else None), image
            assert row["latitude"] == (None if bad else latitude_of(data))
            assert (row["deleted"] is not None) == (name in self.gone), image
        left = read(str(self.output), ["image_id"], deleted="leave out")
        assert len(left) == sum(name not in self.gone for name, *_ in self.rows.values())


def _partial(output: Path) -> set[str]:
    table = latest(Store(), str(output))
    assert table is not None
    return {uri.rpartition("/")[2] for uri in table.record["partial_sources"]}


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        shutil.rmtree(made)


def play(steps: list[tuple[Any, ...]]) -> None:
    """One history."""
    with folder() as made:
        model = Model(made)
        for what, first, second in steps:
            if what == "write":
                model.write(first, second)
            elif what == "delete":
                model.delete(first)
            elif what == "refuse":
                model.refuse(first, second)
            elif what == "night":
                model.night(first, *second)
            elif latest(Store(), str(model.output)) is not None:
                compact(Store(), str(model.output), first)
                clear(Store(), str(model.output), timedelta(0))
            model.check()


#: Where every history begins, and ends.
BEGIN = [("write", "a.jpg", b"x"), ("write", "t.tar", {"1.jpg": b"y"}), ("night", "new", (None, False))]
END = [("night", "new", (None, False))]


@settings(max_examples=8, deadline=None)
@given(st.lists(step, min_size=6, max_size=16))
def test_the_table_is_the_models(steps: list[tuple[Any, ...]]) -> None:
    play([*BEGIN, *steps, *END])


@pytest.mark.torture
@pytest.mark.timeout(7200)
@settings(max_examples=500, deadline=None)
@given(st.lists(step, min_size=6, max_size=40))
def test_the_table_is_the_models_after_long_histories(steps: list[tuple[Any, ...]]) -> None:
    play([*BEGIN, *steps, *END])
