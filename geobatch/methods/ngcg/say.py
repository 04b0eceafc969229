"""IMAGE in, texts out: the stage that stands where Decode stands for photographs.

A text keeps every character it came with: what the paper embeds is the raw caption. Only texts that say nothing, or are no
UTF-8, are rejected. What a picture tells about itself (its size, its EXIF) is null; the fingerprint is of the text's bytes.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from geobatch.errors import Rejection
from geobatch.schema import PICTURE, SAID
from geobatch.stage import Stage, rejected

_NULL = ("width", "height", "exif_latitude", "exif_longitude", "exif_time")


class Say(Stage):
    """Takes each row's bytes for a text; rejects with "empty" (blanks only) and "not_a_text" (no UTF-8)."""

    drops = ("bytes",)
    adds = (PICTURE.field("sha256"), *(PICTURE.field(name) for name in _NULL), SAID[0])

    def work(self, table: pa.Table) -> pa.Table:
        """See `Stage.work`."""
        texts: list[str | None] = []
        fates: dict[int, Rejection] = {}
        values = table["bytes"].to_pylist()
        for at, value in enumerate(values):
            text = None
            try:
                text = (value or b"").decode()
            except UnicodeDecodeError as error:
                fates[at] = Rejection("not_a_text", f"no UTF-8: {error}")
            if text is not None and not text.strip():
                fates[at] = Rejection("empty", "the text is blank")
            texts.append(None if at in fates else text)
        table = table.append_column(
            self.adds[0],
            pa.array([None if value is None else hashlib.sha256(value).hexdigest() for value in values], pa.string()),
        )
        for field in self.adds[1:-1]:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return rejected(table.append_column(self.adds[-1], pa.array(texts, pa.string())), "say", fates)
