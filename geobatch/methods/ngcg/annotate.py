"""A picture meets the texts that describe it: the two stages that make a pair.

`Annotate` stands before the decoder, so that a picture nobody described costs no decoding; it knows names alone
(`geobatch.methods.ngcg.annotations`). `Pair` stands behind the decoder and keeps the picture as the file that is trained on,
at the size the network sees, so that the archive is not needed again.

Not covered: pictures of other modalities (depth, several bands); they are what the decoder makes of them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.engine.encode import encoded
from geobatch.errors import Rejection
from geobatch.methods.ngcg.annotations import Grouping, read
from geobatch.schema import PAIRS
from geobatch.stage import Stage, rejected
from geobatch.store import Store, StoreConfig


class Annotate(Stage):
    """Adds a picture's texts, its group and its place; a picture without a text is rejected as "no_text".

    Args:
        annotations: URI of the texts, see `read`.
        column: of the texts.
        grouping: what shows the same place.
        store: reaches the file.
    """

    adds = tuple(PAIRS.field(name) for name in ("latitude", "longitude", "texts", "group"))

    def __init__(
        self, annotations: str, column: str = "auto", grouping: Grouping = "auto", store: StoreConfig | None = None
    ) -> None:
        self.annotations = read(Store(store), annotations, column, grouping)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs IMAGE's identity.

        Raises:
            UserError: a name fits several of these images, or one of them several names.
        """
        known = self.annotations
        rows = known.match(table["image_id"].to_pylist())
        taken = pa.array(rows, mask=rows < 0)
        columns: list[pa.Array] = [
            *[pa.array(np.where(rows >= 0, place[rows], np.nan)) for place in (known.truth.latitude, known.truth.longitude)],
            known.texts.take(taken),
            known.groups.take(taken),
        ]
        for field, column in zip(self.adds, columns, strict=True):
            table = table.append_column(field, column.cast(field.type))
        lengths = pc.fill_null(pc.list_value_length(columns[2]), 0).to_numpy()
        fates = {
            int(row): Rejection(
                "no_text",
                f"{known.truth.name} names no such image"
                if rows[row] < 0
                else f"all texts of {known.names[int(rows[row])]} in {known.truth.name} are blank",
            )
            for row in np.flatnonzero(lengths == 0)
        }
        return rejected(table, "annotate", fates)


class Pair(Stage):
    """Keeps the picture as a file, and takes its EXIF for a place where nothing else says one."""

    drops = ("picture", "picture_width", "picture_height")
    adds = (PAIRS.field("image"),)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns and those of `Annotate`."""
        for axis in ("latitude", "longitude"):
            said, exif = (table[name].to_numpy().astype(np.float64) for name in (axis, f"exif_{axis}"))
            at = table.column_names.index(axis)
            table = table.set_column(at, PAIRS.field(axis), pa.array(np.where(np.isnan(said), exif, said)))
        sizes = zip(table["picture_height"].to_pylist(), table["picture_width"].to_pylist(), strict=True)
        # `engine.pixels` has a function for this, and torch with it: 2 s and 200 MB for each of these actors.
        pictures = (
            np.frombuffer(value.as_buffer(), np.uint8).reshape(height, width, 3)
            for value, (height, width) in zip(table["picture"], sizes, strict=True)
        )
        files = [encoded(picture)[0] for picture in pictures]
        return table.append_column(self.adds[0], pa.array(files, pa.large_binary()))
