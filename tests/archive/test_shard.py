"""Slices are the same whatever was committed before: resuming at any of them gives exactly the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.archive.config import ArchiveConfig
from geobatch.store import Store
from tests.archive.reading import put, shards, slices
from tests.archives import make

STORE = Store()

#: Members that meet: few names, among them one that looks numbered, sidecars and folders between.
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["a.jpg", "b.jpg", "a~2.jpg", "c.png", "x.json", "e/", "d.jpg"]), st.integers(0, 900)),
    max_size=40,
)
SIZES = st.fixed_dictionaries({"shard_rows": st.integers(1, 6), "shard_bytes": st.integers(1, 3000)})


def filled(members: list[tuple[str, int]]) -> list[make.Member]:
    return [(name, b"%d " % number + b"x" * size if size else b"") for number, (name, size) in enumerate(members)]


def parquet(members: list[make.Member]) -> bytes:
    return make.parquet([data or None for _, data in members], rows=3)


KINDS: dict[str, Callable[[list[make.Member]], bytes]] = {
    "tar": make.tar,
    "tar.gz": lambda members: make.gz(make.tar(members)),
    "parquet": parquet,
    "zip": make.zipped,
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("truncated", [False, True])
@settings(max_examples=30, deadline=None)
@given(members=MEMBERS, sizes=SIZES, data=st.data())
def test_a_resumed_shard_gives_exactly_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    truncated: bool,
    members: list[tuple[str, int]],
    sizes: dict[str, Any],
    data: st.DataObject,
) -> None:
    whole = KINDS[kind](filled(members))
    if truncated:
        if kind == "parquet":
            return  # its footer is at the end: truncated, it is one row
        whole = whole[: data.draw(st.integers(1, len(whole)))]
    uri = put(tmp_path_factory.mktemp("shard"), f"x.{kind}", whole)
    config = ArchiveConfig(uri=uri, max_bytes=800, **sizes)
    try:
        planned = shards(STORE, config)
    except Exception as error:
        assert "is an image by its name" in str(error)  # a zip without images has no rows
        return
    ids: list[str] = []
    for shard in planned:
        pieces = slices(STORE, shard, config)
        ids += [image_id for piece in pieces for image_id in piece.table["image_id"].to_pylist()]
        done = data.draw(st.sets(st.sampled_from(range(len(pieces)))), label="done")
        seen = {image_id for number in done for image_id in pieces[number].table["image_id"].to_pylist()}
        rest = slices(STORE, shard, config, {number: pieces[number].end for number in done}, seen.copy)
        assert rest == [piece for piece in pieces if piece.number not in done]
    assert len(ids) == len(set(ids))


def test_a_shard_of_loose_objects_is_done_or_not(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", b"1")
    config = ArchiveConfig(uri=str(tmp_path))
    [shard] = shards(STORE, config)
    [piece] = slices(STORE, shard, config)
    assert slices(STORE, shard, config, {0: piece.end}) == []
    assert isinstance(piece.table, pa.Table)
