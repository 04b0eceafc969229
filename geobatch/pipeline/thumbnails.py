"""Images of a finished run are read again and made small, for a page that shows a sample of them.

A loose object is asked for by its name and etag. A member of a tar, zip or Parquet file is found through the run's own frozen
manifest, and read by the reader that read it then: of a zip only the members wanted, of a Parquet file the row groups, of a tar
everything up to the last one wanted. That may be long, so reading ends after a time, and the page says how many it has; the
clock is looked at after every 32 images, and within a tar that holds no images only at its end.

An archive that is gone, changed or withheld costs the pictures, never the page. Images go through the decoder's sandbox like
any other. A thumbnail of a photograph has some 12 kB.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import escaped
from geobatch.archive.shard import read_shard
from geobatch.errors import GeobatchError
from geobatch.image import Decode, DecodeConfig
from geobatch.schema import IMAGE, PLAN
from geobatch.store import Store, join

#: Pixels of a thumbnail's shorter side.
SIDE = 200

#: JPEG's scale; below 75 the sky of a photograph shows its blocks.
QUALITY = 78

#: Images that are read and decoded between two looks at the clock.
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which images, and for how long they may be looked for."""

    sample: pa.Table
    """Rows of the table: image_id, uri, etag, size, run."""
    seconds: float
    """After which what is there is enough."""
    most_bytes: int
    """Of all pictures together."""


class _Late(Exception):
    """Images were looked for long enough."""


def thumbnails(store: Store, output: str, wanted: Wanted) -> tuple[dict[str, bytes], str]:
    """JPEGs by image_id, and in a few words why some are missing ("" where none is)."""
    made: dict[str, bytes] = {}
    total, why = 0, ""
    search = _Search(store, output, time.monotonic() + wanted.seconds)
    decode = Decode(DecodeConfig(side=SIDE))
    try:
        for image in search.images(wanted.sample):
            pictures = decode(image)
            search.lost.update(pictures["reason"].drop_null().to_pylist())
            for image_id, picture in _small(pictures):
                if total + len(picture) > wanted.most_bytes:
                    return made, f"pictures end at {wanted.most_bytes / 1e6:.0f} MB"
                made[image_id] = picture
                total += len(picture)
    except _Late:
        why = f"pictures were looked for no longer than {wanted.seconds:.0f} s"
    except (GeobatchError, OSError) as error:
        why = f"the archive could not be read again: {error}"
    finally:
        decode.close()
    lost = ", ".join(f"{count} {reason}" for reason, count in search.lost.most_common())
    return made, "; ".join(filter(None, (why, f"without a picture by now: {lost}" if lost else "")))


class _Search:
    """Finds images again.

    Args:
        end: of the clock `time.monotonic`, after which `_Late` is raised; it is looked at after every piece that was read,
            whether there was a wanted image in it or not.

    `lost` counts by reason the wanted images that no piece had: a tar or a Parquet file that is gone has no members to reject.
    """

    def __init__(self, store: Store, output: str, end: float) -> None:
        self._store, self._output, self._end = store, output, end
        self.lost: Counter[str] = Counter()

    def images(self, sample: pa.Table) -> Iterator[pa.Table]:
        """Tables of IMAGE, of wanted images alone, also of those that cannot be read."""
        members = pc.match_substring(sample["image_id"], "#")
        loose = sample.filter(pc.invert(members))
        for at in range(0, len(loose), _AT_ONCE):
            rows = loose.slice(at, _AT_ONCE)
            plan = pa.table(
                {
                    **{name: rows[name] for name in ("image_id", "uri", "etag", "size")},
                    "shard": pa.array([0] * len(rows), pa.int32()),
                    "kind": ["object"] * len(rows),
                    "offset": pa.nulls(len(rows), pa.int64()),
                }
            ).select(PLAN.names)
            for piece in read_shard(self._store, plan.cast(PLAN), ArchiveConfig(uri="")):
                yield piece.table
            self._look()
        inside = sample.filter(members)
        for run in pc.unique(inside["run"]).to_pylist():
            yield from self._members(join(self._output, "runs", run), inside.filter(pc.equal(inside["run"], run)))

    def _look(self) -> None:
        if time.monotonic() > self._end:
            raise _Late

    def _members(self, folder: str, sample: pa.Table) -> Iterator[pa.Table]:
        """Those in tar, zip and Parquet files, found through the manifest of the run that read them."""
        config = _archive(json.loads(self._store.get(join(folder, "run.json")))["archive"])
        if config.texts:
            return
        left: dict[str, set[str]] = defaultdict(set)
        for image_id, uri in zip(sample["image_id"].to_pylist(), sample["uri"].to_pylist(), strict=True):
            left[uri].add(image_id)
        uris, reasons = pa.array(sorted(left)), dict.fromkeys(left, "not found again")
        for file in json.loads(self._store.get(join(folder, "plan.json")))["files"]:
            manifest = pq.ParquetFile(pa.BufferReader(self._store.get(join(folder, file["path"]))))
            for group in range(manifest.num_row_groups):
                self._look()
                if not pc.any(pc.is_in(manifest.read_row_group(group, columns=["uri"])["uri"], uris)).as_py():
                    continue
                for piece in self._shard(manifest.read_row_group(group), config, left):
                    whole = dict(zip(piece["image_id"].to_pylist(), piece["reason"].to_pylist(), strict=True))
                    reasons |= {uri: whole[name] for uri in left if (name := escaped(uri)) in whole}
                    found = piece.filter(pc.is_in(piece["image_id"], _names(left)))
                    for names in left.values():
                        names.difference_update(whole)
                    if len(found):
                        yield found.cast(IMAGE)
                    self._look()
        for uri, names in left.items():
            self.lost[reasons[uri]] += len(names)
        self.lost = +self.lost

    def _shard(self, plan: pa.Table, config: ArchiveConfig, left: dict[str, set[str]]) -> Iterator[pa.Table]:
        """The pieces of one shard, small ones, up to the last of the images that are `left` by their object's URI."""
        kind, uris = plan["kind"][0].as_py(), pc.unique(plan["uri"]).to_pylist()
        if kind == "object" or not any(left.get(uri) for uri in uris):
            return
        if kind == "zip":
            plan = plan.filter(pc.is_in(plan["image_id"], _names(left)))
        small = replace(config, shard_rows=min(config.shard_rows, _AT_ONCE))
        for at in range(0, len(plan), _AT_ONCE) if kind == "zip" else [None]:
            for piece in read_shard(self._store, plan if at is None else plan.slice(at, _AT_ONCE), small):
                yield piece.table
                if not any(left.get(uri) for uri in uris):
                    return


def _names(left: dict[str, set[str]]) -> pa.Array:
    return pa.array(sorted(set().union(*left.values())), pa.string())


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
