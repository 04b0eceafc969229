"""Recipe: nights over a real folder, without Ray: the listing, the plan, the readers, a stage that looks at bytes, the sink.

A file's content says what becomes of it: `bad …` is rejected as broken, all else is placed by its hash. `Place.seen` counts
what was really computed.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from geobatch.actors import Slice
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.source import Read
from geobatch.errors import Rejection
from geobatch.pipeline.frozen import Wanted, freeze
from geobatch.schema import LOCATED, PICTURE, empty_columns
from geobatch.sink import Stamp, Write, begin, open_run, read
from geobatch.sink.reuse import Reuse
from geobatch.stage import Stage, rejected
from geobatch.store import Store, StoreConfig, Withheld

FIELDS = [field for field in PICTURE if field.name not in ("picture", "picture_width", "picture_height")]


def latitude_of(content: bytes) -> float:
    """Where an image of these bytes lies."""
    return int(hashlib.sha256(content).hexdigest()[:6], 16) / 2**24 * 160 - 80


class Place(Stage):
    """Bytes to a place."""

    drops = ("bytes",)
    adds = (*(field for field in FIELDS[4:] if field.name not in ("stage", "reason", "detail")), *LOCATED)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def work(self, table: pa.Table) -> pa.Table:
        contents = table["bytes"].to_pylist()
        self.seen += table["image_id"].to_pylist()
        made: dict[str, Any] = empty_columns(list(self.adds), len(table))
        made["sha256"] = pa.array([hashlib.sha256(content).hexdigest() for content in contents])
        bad = {row: Rejection("broken", "recipe") for row, content in enumerate(contents) if content.startswith(b"bad")}
        places = [None if row in bad else latitude_of(content) for row, content in enumerate(contents)]
        made |= {"latitude": pa.array(places, pa.float64()), "longitude": pa.array(places, pa.float64())}
        for field in self.adds:
            table = table.append_column(field, made[field.name])
        return rejected(table, "decode", bad)


class Refusing(Store):
    """A store that lists all and refuses to give some objects: name without the folder -> bytes that it gives all the same."""

    def __init__(self, config: StoreConfig, refused: Mapping[str, int]) -> None:
        super().__init__(config)
        self.refused = refused

    def left(self, uri: str) -> int | None:
        """Bytes that it gives; None: all."""
        return self.refused.get(uri.rpartition("/")[2])

    def get(self, uri: str, start: int | None = None, end: int | None = None, *, if_match: str | None = None) -> bytes:
        if (left := self.left(uri)) is not None and (end is None or end > left):
            raise Withheld(f"{uri} is archived")
        return super().get(uri, start, end, if_match=if_match)

    def stream(self, uri: str, start: int = 0, *, if_match: str | None = None) -> Any:
        file = super().stream(uri, start, if_match=if_match)
        left = self.left(uri)
        return file if left is None else _Cut(file, left - start)


class _Cut:
    def __init__(self, file: Any, left: int) -> None:
        self.file, self.left, self.close = file, left, file.close

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise Withheld("it is archived")
        return bytes(self.file.read(size))


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar with these members."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def night(
    archive: Path | str,
    output: Path | str,
    wanted: Wanted | None = Wanted(),  # noqa: B008  frozen
    stop_after: int | None = None,
    store: StoreConfig | None = None,
    refused: Mapping[str, int] | None = None,
    **sizes: Any,
) -> tuple[dict[str, Any] | None, list[str]]:
    """One run; its account (None: nothing to do) and the images that were computed.

    Args:
        archive: a folder or prefix.
        output: of the table.
        wanted: as a flow has it.
        stop_after: slices after which the run ends in order.
        store: how both are reached.
        refused: objects that are listed and cannot be read, see `Refusing`.
        sizes: `shard_rows`, `shard_bytes` of the archive.
    """
    config, reach = ArchiveConfig(uri=str(archive), **sizes), store or StoreConfig()
    run, table = open_run(Store(reach), str(output), method="geotoken", fingerprint="f1", archive={"uri": str(archive)})
    frozen = (run.plan() if run.resumed else None) or freeze(run, config, Store(reach), table, wanted)
    if frozen is None:
        return None, []
    run = begin(run)
    place, write = Place(), Write(run.output, Stamp(run=run.id, method="geotoken", model="f1"), reach)
    reuse = Reuse(run.output, run.at(), frozen["reuse"], reach) if frozen.get("reuse") else None
    slices = 0
    for task in run.remaining(frozen):
        reader = Read(config, reach, reach)
        reader.store = Refusing(reach, refused or {})
        for piece in reader(task):
            if slices == stop_after:
                return run.finish(frozen, ended="told to"), place.seen
            rows = piece.rows if reuse is None else reuse(piece.rows)
            write(_with(piece, place(rows)))
            slices += 1
    return run.finish(frozen), place.seen


def _with(piece: Slice, rows: pa.Table) -> Slice:
    return Slice(shard=piece.shard, number=piece.number, last=piece.last, end=piece.end, skipped=piece.skipped, rows=rows)


def rows_of(output: Path | str, store: StoreConfig | None = None) -> dict[str, dict[str, Any]]:
    """Every row of the table with the column `deleted`, by image_id without the folder; none may come twice."""
    rows = read(str(output), store=store, deleted="mark").to_pylist()
    found = {row["image_id"].rpartition("/")[2]: row for row in rows}
    assert len(found) == len(rows)
    return found
