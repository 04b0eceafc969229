"""Groups of images, read from a file: a photographer's, a burst's. Rows of a group can be kept from each other in training."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from geobatch.benchmark.lookup import Lookup
from geobatch.engine.gallery import GROUP
from geobatch.errors import UserError
from geobatch.store import Store


class Groups:
    """The groups of images, as a CSV or Parquet file with the columns image_id and group says them, both text.

    Args:
        store: reaches the file.
        uri: of the file. Of an image that it names twice the first group counts; an empty group is none.

    Raises:
        UserError: it has no such columns.
    """

    def __init__(self, store: Store, uri: str) -> None:
        data = store.get(uri)
        self.uri, self.sha256 = uri, hashlib.sha256(data).hexdigest()
        named = ["image_id", GROUP]
        kept = csv.ConvertOptions(column_types=dict.fromkeys(named, pa.string()), include_columns=named)  # 00123 is no number
        try:
            read = pq.read_table(io.BytesIO(data), columns=named) if data[:4] == b"PAR1" else None
            found = csv.read_csv(io.BytesIO(data), convert_options=kept) if read is None else read.select(named)
            found = found.cast(pa.schema([(name, pa.large_string()) for name in named]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            raise UserError(f"{uri} has no readable columns image_id and {GROUP} ({error}); correct it") from error
        found = found.filter(pc.and_(pc.is_valid(found["image_id"]), pc.not_equal(found[GROUP], ""))).combine_chunks()
        self._groups = pa.concat_arrays([pa.nulls(0, pa.large_string()), *found[GROUP].chunks])
        self._lookup = Lookup(pa.concat_arrays([pa.nulls(0, pa.large_string()), *found["image_id"].chunks]))

    def of(self, names: pa.ChunkedArray) -> pa.Array:
        """The group (n,) of each image_id, null where there is none."""
        keys = pa.concat_arrays([pa.nulls(0, pa.large_string()), *names.cast(pa.large_string()).chunks])
        rows = self._lookup.find(keys)[0]
        return self._groups.take(pa.array(rows, mask=rows < 0)).cast(pa.string())

    def known(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables.

        Raises:
            UserError: at their end, if none of their rows has a group.
        """
        rows = grouped = 0
        for table in tables:
            rows, grouped = rows + len(table), grouped + len(table) - table[GROUP].null_count
            yield table
        if rows and not grouped:
            raise UserError(f"{self.uri} has a group for none of the images; its image_id must be theirs, such as a/b.jpg")
