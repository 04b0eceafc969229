"""Plans and reads an archive whole, checking on the way what holds for every plan and every slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.archive.shard import NOTHING, Slice, read_shard
from geobatch.errors import REASONS
from geobatch.schema import IMAGE, PLAN
from geobatch.store import Store


def put(folder: Path, name: str, data: bytes) -> str:
    """Writes a file; its URI."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return f"file://{path}"


def shards(store: Store, config: ArchiveConfig, known: Any = None) -> list[pa.Table]:
    """The plan, one table a shard."""
    tables = [piece.table for piece in plan(store, config, known)]
    assert all(table.schema == PLAN for table in tables)
    whole = pa.concat_tables(tables)
    numbers = whole["shard"].to_pylist()
    assert numbers == sorted(numbers) and set(numbers) == set(range(max(numbers, default=-1) + 1))
    found = [whole.filter(pc.equal(whole["shard"], number)) for number in range(max(numbers, default=-1) + 1)]
    for shard in found:
        assert len(set(shard["kind"].to_pylist())) == 1 and len(shard) <= config.shard_rows
        if shard["kind"][0].as_py() in ("object", "zip") and len(shard) > 1:
            assert sum(size for size in shard["size"].to_pylist() if size and size <= config.max_bytes) <= config.shard_bytes
    return found


def slices(store: Store, shard: pa.Table, config: ArchiveConfig, *rest: Any) -> list[Slice]:
    """The slices of a shard, each within its bounds."""
    found = []
    for piece in read_shard(store, shard, config, *rest):
        assert piece.table.schema == IMAGE
        sizes = [len(data) for data in piece.table["bytes"].to_pylist() if data is not None]
        assert len(piece.table) <= config.shard_rows
        assert sum(sizes) <= config.shard_bytes or len(sizes) == 1
        assert (piece.end == NOTHING) == piece.last
        found.append(piece)
    return found


def rows(store: Store, config: ArchiveConfig) -> dict[str, dict[str, Any]]:
    """Every row of the archive by its image_id, of which none may come twice."""
    found: dict[str, dict[str, Any]] = {}
    for shard in shards(store, config):
        pieces = slices(store, shard, config)
        assert [piece.number for piece in pieces] == list(range(len(pieces)))
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        for piece in pieces:
            for row in piece.table.to_pylist():
                assert row["image_id"] not in found
                assert (row["bytes"] is None) == (row["reason"] is not None) == (row["stage"] == "read")
                assert row["reason"] is None or row["reason"] in REASONS
                assert row["bytes"] is None or row["size"] == len(row["bytes"])
                found[row["image_id"]] = row
    return found


def fates(found: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    """What follows the `#` of each id (or its last part) -> the reason of its rejection."""
    return {key.partition("#")[2] or key.rpartition("/")[2]: row["reason"] for key, row in found.items()}
