"""Recipe: an archive of photographs in every kind of container, and the finished table of a run over it, without a cluster.

Planner, readers, decoder and sink are the real ones; only the method is not: each photograph is placed by a hash of its name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.archive.shard import read_shard
from geobatch.image import Decode, DecodeConfig
from geobatch.schema import LOCATED, RADII_KM, empty_columns, probability_column
from geobatch.sink import Stamp, Write, begin, open_run
from geobatch.store import Store, StoreConfig
from tests.sink.rows import piece

#: A name that would do something if it ever were markup.
HOSTILE = "<img src=x onerror=alert(1)> & \"'.jpg"


def photograph(name: str) -> bytes:
    """A JPEG of 40 × 30 pixels whose colour is its name's."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), tuple(hashlib.sha256(name.encode()).digest()[:3])).save(file, "JPEG")
    return file.getvalue()


def archive(folder: Path, each: int = 6) -> Path:
    """`each` photographs loose, in a tar, in a zip, and in a Parquet file, and a broken one."""
    folder.mkdir(parents=True)
    for number in range(each):
        (folder / f"loose-{number}.jpg").write_bytes(photograph(f"loose-{number}"))
    (folder / HOSTILE).write_bytes(photograph(HOSTILE))
    (folder / "broken.jpg").write_bytes(photograph("broken")[:200])
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(each):
            member = tarfile.TarInfo(f"in/tar-{number}.jpg")
            member.size = len(photograph(f"tar-{number}"))
            tar.addfile(member, io.BytesIO(photograph(f"tar-{number}")))
    with zipfile.ZipFile(folder / "b.zip", "w") as packed:
        for number in range(each):
            packed.writestr(f"zip-{number}.jpg", photograph(f"zip-{number}"))
    names = [f"parquet-{number}.jpg" for number in range(each)]
    table = pa.table({"name": names, "image": pa.array([photograph(name) for name in names], pa.binary())})
    pq.write_table(table, folder / "c.parquet")
    return folder


def mark(image_id: str, seed: int) -> tuple[float, float]:
    """Two numbers between 0 and 1."""
    digest = hashlib.sha256(f"{seed} {image_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32, int.from_bytes(digest[4:8], "big") / 2**32


def located(pictures: pa.Table, seed: int) -> pa.Table:
    """Rows at the end of a river; the hash of a name and a seed is its place, in a corner that the truth is in too."""
    rows = pictures.drop_columns(["picture", "picture_width", "picture_height"])
    alive = [reason is None for reason in rows["reason"].to_pylist()]
    marks = [mark(image_id, seed) for image_id in rows["image_id"].to_pylist()]
    columns = empty_columns(LOCATED, len(rows))
    values = {
        "latitude": [40 + 10 * a if lives else None for (a, _), lives in zip(marks, alive, strict=True)],
        "longitude": [5 + 10 * b if lives else None for (_, b), lives in zip(marks, alive, strict=True)],
        "candidates": [
            [{"latitude": 41.0, "longitude": 6.0, "score": -1.0}, {"latitude": 49.0, "longitude": 14.0, "score": -2.0}]
            if lives
            else None
            for lives in alive
        ],
    }
    values |= {
        probability_column(km): [a if lives else None for (a, _), lives in zip(marks, alive, strict=True)] for km in RADII_KM
    }
    for field in LOCATED:
        rows = rows.append_column(
            field, pa.array(values[field.name], field.type) if field.name in values else columns[field.name]
        )
    return rows


def finished(output: Path, images: Path, seed: int = 0) -> str:
    """A table over the archive; the output's address."""
    config = ArchiveConfig(uri=str(images), shard_rows=5)
    store = Store()
    run, _ = open_run(store, str(output), method="geotoken", fingerprint=f"seed {seed}", archive=asdict(config))
    begin(run)
    frozen = run.freeze(
        (each.table for each in plan(store, config) if len(each.table)), {"listed": 11, "skipped": 0, "known": 0}
    )
    write, decode = (
        Write(run.output, Stamp(run=run.id, method="geotoken", model=f"seed {seed}"), StoreConfig()),
        Decode(DecodeConfig()),
    )
    try:
        for tasks in run.remaining(frozen):
            for task in tasks.to_pylist():
                manifest = pq.ParquetFile(pa.BufferReader(store.get(task["plan"]))).read_row_group(task["group"])
                for slice_ in read_shard(store, manifest, config):
                    write(piece(task["shard"], located(decode(slice_.table), seed), slice_.number, slice_.last, slice_.end))
    finally:
        decode.close()
    run.finish(frozen)
    return str(output)


def truth(path: Path, table: pa.Table, seed: int = 7) -> Path:
    """A CSV of the truth of every row but the first; some are the very place, the others a hash's."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "latitude", "longitude"])
        for number, row in enumerate(table.sort_by("image_id").to_pylist()):
            if not number:
                continue
            a, b = mark(row["image_id"], seed)
            if number % 3 == 0 and row["latitude"] is not None:
                writer.writerow([row["image_id"], row["latitude"], row["longitude"]])
            else:
                writer.writerow([row["image_id"], 40 + 10 * a, 5 + 10 * b])
    return path
