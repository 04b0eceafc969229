"""Images of a finished run are read again and made small, for a page that shows a sample of them.

A loose object is asked for by its name and etag. A member of a tar, zip or Parquet file is found through the run's own frozen
manifest, and read by the reader that read it then: of a zip only the members wanted, of a Parquet file the row groups, of a tar
everything up to the last one wanted. That may be long, so reading ends after a time, and the page says how many it has.

An archive that is gone, changed or withheld costs the pictures, never the page. Images go through the decoder's sandbox like
any other. A thumbnail of a photograph has some 12 kB.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.shard import read_shard
from geobatch.errors import GeobatchError
from geobatch.image import Decode, DecodeConfig
from geobatch.schema import IMAGE, PLAN
from geobatch.store import Store, join

#: Pixels of a thumbnail's shorter side.
SIDE = 200

#: JPEG's scale; below 75 the sky of a photograph shows its blocks.
QUALITY = 78

_DECODED_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which images, and for how long they may be looked for."""

    sample: pa.Table
    """Rows of the table: image_id, uri, etag, size, run."""
    seconds: float
    """After which what is there is enough."""
    most_bytes: int
    """Of all pictures together."""


def thumbnails(store: Store, output: str, wanted: Wanted) -> tuple[dict[str, bytes], str]:
    """JPEGs by image_id, and in a few words why some are missing ("" where none is)."""
    made: dict[str, bytes] = {}
    fates: Counter[str] = Counter()
    end, total, why = time.monotonic() + wanted.seconds, 0, ""
    decode = Decode(DecodeConfig(side=SIDE))
    try:
        for image in _images(store, output, wanted.sample):
            pictures = decode(image)
            fates.update(pictures["reason"].drop_null().to_pylist())
            for image_id, picture in _small(pictures):
                if total + len(picture) > wanted.most_bytes:
                    return made, f"pictures end at {wanted.most_bytes / 1e6:.0f} MB"
                made[image_id] = picture
                total += len(picture)
            if time.monotonic() > end:
                why = f"pictures were looked for no longer than {wanted.seconds:.0f} s"
                break
    except (GeobatchError, OSError) as error:
        why = f"the archive could not be read again: {error}"
    finally:
        decode.close()
    lost = ", ".join(f"{count} {reason}" for reason, count in fates.most_common())
    return made, "; ".join(filter(None, (why, f"without a picture by now: {lost}" if lost else "")))


def _images(store: Store, output: str, sample: pa.Table) -> Iterator[pa.Table]:
    """Tables of IMAGE, of wanted images alone."""
    members = pc.match_substring(sample["image_id"], "#")
    loose = sample.filter(pc.invert(members))
    for at in range(0, len(loose), _DECODED_AT_ONCE):
        rows = loose.slice(at, _DECODED_AT_ONCE)
        plan = pa.table(
            {
                **{name: rows[name] for name in ("image_id", "uri", "etag", "size")},
                "shard": pa.array([0] * len(rows), pa.int32()),
                "kind": ["object"] * len(rows),
                "offset": pa.nulls(len(rows), pa.int64()),
            }
        ).select(PLAN.names)
        for piece in read_shard(store, plan.cast(PLAN), ArchiveConfig(uri="")):
            yield piece.table
    inside = sample.filter(members)
    for run in pc.unique(inside["run"]).to_pylist():
        yield from _members(store, join(output, "runs", run), inside.filter(pc.equal(inside["run"], run)))


def _members(store: Store, folder: str, sample: pa.Table) -> Iterator[pa.Table]:
    """Those in tar, zip and Parquet files, found through the manifest of the run that read them."""
    config = _archive(json.loads(store.get(join(folder, "run.json")))["archive"])
    if config.texts:
        return
    wanted: dict[str, set[str]] = defaultdict(set)
    for image_id, uri in zip(sample["image_id"].to_pylist(), sample["uri"].to_pylist(), strict=True):
        wanted[uri].add(image_id)
    uris = pa.array(sorted(wanted))
    for file in json.loads(store.get(join(folder, "plan.json")))["files"]:
        manifest = pq.ParquetFile(pa.BufferReader(store.get(join(folder, file["path"]))))
        for group in range(manifest.num_row_groups):
            if not pc.any(pc.is_in(manifest.read_row_group(group, columns=["uri"])["uri"], uris)).as_py():
                continue
            yield from _shard(store, manifest.read_row_group(group), config, wanted)


def _shard(store: Store, plan: pa.Table, config: ArchiveConfig, wanted: dict[str, set[str]]) -> Iterator[pa.Table]:
    """The wanted images of one shard; reading ends with the last of them."""
    if plan["kind"][0].as_py() == "object":
        return
    left = set().union(*(wanted.get(uri, set()) for uri in pc.unique(plan["uri"]).to_pylist()))
    if plan["kind"][0].as_py() == "zip":
        left &= set(plan["image_id"].to_pylist())
    if not left:
        return
    if plan["kind"][0].as_py() == "zip":
        plan = plan.filter(pc.is_in(plan["image_id"], pa.array(sorted(left))))
    for piece in read_shard(store, plan, config):
        found = piece.table.filter(pc.is_in(piece.table["image_id"], pa.array(sorted(left))))
        if len(found):
            yield found.cast(IMAGE)
            left -= set(found["image_id"].to_pylist())
            for names in wanted.values():
                names -= set(found["image_id"].to_pylist())
        if not left:
            return


def _archive(said: dict[str, Any]) -> ArchiveConfig:
    """The archive as the run's record has it; settings of other versions are passed over."""
    known = {each.name for each in fields(ArchiveConfig)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items() if name in known
    }
    return ArchiveConfig(**values)


def _small(pictures: pa.Table) -> Iterator[tuple[str, bytes]]:
    for row in pictures.select(["image_id", "picture", "picture_width", "picture_height", "reason"]).to_pylist():
        if row["reason"] is not None:
            continue
        image = Image.frombytes("RGB", (row["picture_width"], row["picture_height"]), row["picture"])
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY, optimize=True)
        yield row["image_id"], file.getvalue()
