"""Recipe: a finished table of any number of rows over the endless archive, written in seconds: one row, again and again, under
other names.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from geobatch.sink.rows import Stamp, as_written, parquet
from tests.archives import endless
from tests.sink.rows import located

ROWS = 256


def extend(output: Path, first: int, objects: int, rows: int = ROWS) -> None:
    """Adds rows of the objects `first` to `objects` to the newest table at `output`, as parts of one slice each."""
    version = max(int(path.stem) for path in (output / "table").iterdir())
    record = json.loads((output / f"table/{version}.json").read_text())
    stamp = Stamp(run=record["run"], method=record["method"], model=record["fingerprint"])
    template = as_written(located(["x"] * rows), stamp)
    (output / "places").mkdir(exist_ok=True)
    parts = list(record["parts"])
    for start in range(first, objects, rows):
        numbers = range(start, min(start + rows, objects))
        names = [f"s3://{endless.BUCKET}/{endless.name(n)}" for n in numbers]
        table = template.slice(0, len(numbers))
        for column, values in {
            "image_id": names,
            "uri": names,
            "etag": [endless.etag(n) for n in numbers],
            "sha256": [hashlib.sha256(b"%d" % n).hexdigest() for n in numbers],
        }.items():
            at = table.column_names.index(column)
            table = table.set_column(at, table.schema.field(column), pa.array(values, pa.string()))
        data = parquet(table)
        path = f"places/{record['run']}-{start:08d}-000000-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        (output / path).write_bytes(data)
        parts.append({"path": path, "rows": len(table), "bytes": len(data), "run": record["run"]})
    record |= {"parts": parts, "rows": int(np.sum([part["rows"] for part in parts]))}
    (output / f"table/{version + 1}.json").write_text(json.dumps(record))
