"""An archive and its annotations become the pairs that a training reads.

    Read ─▶ Annotate ─▶ Decode ─▶ Pair ─▶ table of geobatch.schema.PAIRS ─▶ pairs.arrow

The table is made by the same resumable flow as every other one, and every image of the archive is a row of it: a pair, or a
rejection ("no_text", "broken", …). The file that workers map is streamed out of it. What else came to light lies beside it:

    rejected.csv   image_id, stage, reason, detail of every image that is no pair
    missing.csv    names of the annotations that no image of the archive has, and how many texts each takes with it
    pairs.json     the counts of all that, and which table they are of

The folder's last part is a digest of the archive's name, the annotations' content and all settings, so that other annotations
are never mixed with these, and a training with other settings of its own finds the pairs it needs already there.

Not covered: annotations of more than some million texts, which are held in memory once here and once in the stage.
"""

from __future__ import annotations

import csv
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.actors import Hands, workers_of
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.ngcg.annotate import Annotate, Pair
from geobatch.methods.ngcg.annotations import Annotations, Grouping
from geobatch.methods.ngcg.pairs import COLUMNS, Written, write
from geobatch.pipeline.flow import Flow, described, flow
from geobatch.pipeline.folder import fingerprint
from geobatch.pipeline.geolocate import decoding
from geobatch.progress import Progress, say
from geobatch.sink import Snapshot, latest
from geobatch.sink.table import removed
from geobatch.store import Store, StoreConfig

TABLE, FILE, RECORD, REJECTED, MISSING = "table", "pairs.arrow", "pairs.json", "rejected.csv", "missing.csv"

#: Raised by hand when a change of the code changes pairs that no setting explains.
PAIRS_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """What pairs are made of.

    Fields:
        archive: where the tiles lie.
        annotations: URI of the texts.
        column: of the texts.
        grouping: what shows the same place.
        decode: how pictures are decoded; its side is the network's.
        workers: actors that decode, at most; 0: one a CPU of this machine, or of all nodes that the cluster
            could have.
        stages: what single stages ask for instead, as the flag --stages says it.
    """

    archive: ArchiveConfig
    annotations: str
    column: str = "auto"
    grouping: Grouping = "auto"
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    workers: int = 0
    stages: tuple[str, ...] = ()
    address: str | None = None
    store: StoreConfig = field(default_factory=StoreConfig)

    def decides(self, annotations: Annotations) -> str:
        """A digest of all that decides the pairs but the archive's content."""
        return fingerprint(
            {
                "pairs_version": PAIRS_VERSION,
                "archive": described(self.archive),
                "annotations": annotations.digest,
                "decode": described(self.decode),
            }
        )

    def river(self) -> list[Hands]:
        """The stages between Read and Write."""
        workers = workers_of(self.workers, self.address)
        asked = {"annotations": self.annotations, "column": self.column, "grouping": self.grouping, "store": self.store}
        return [
            Hands(stage=Annotate, make=asked),
            decoding(self.decode, workers),
            Hands(stage=Pair, workers=workers),
        ]


@dataclass(frozen=True)
class Prepared:
    """Pairs that are ready.

    Fields:
        folder: where they lie.
        written: what the file holds.
        read: images of the archive.
        rejected: how many of them are no pair, by reason.
        missing: names of the annotations without an image.
    """

    folder: Path
    written: Written
    read: int
    rejected: dict[str, int]
    missing: int

    @property
    def path(self) -> Path:
        """The file that workers map."""
        return self.folder / FILE


def prepare(source: Source, folder: Path, annotations: Annotations) -> Prepared:
    """The pairs of an archive, below `folder`; what is there already is not made again.

    Args:
        annotations: what `source.annotations` holds.

    Raises:
        UserError: the archive cannot be read, a name fits several images, or not one image has a text.
        MachineError: workers kept failing; the same call goes on.
    """
    decides = source.decides(annotations)
    folder = folder / decides[:16]
    table = _table(source, folder / TABLE, decides)
    state = fingerprint({"parts": [[part["path"], removed(part)] for part in table.parts], "by": decides})
    record = folder / RECORD
    known = json.loads(record.read_text()) if record.is_file() and (folder / FILE).is_file() else {}
    if known.get("table") != state:
        known = _made(source, folder, table, annotations)
        fresh = record.with_name(f"{RECORD}.{uuid.uuid4().hex}")  # another training may be writing the same
        fresh.write_text(json.dumps({**known, "table": state}, indent=1) + "\n")
        fresh.replace(record)
    made = Prepared(folder, Written(**known["pairs"]), known["read"], known["rejected"], known["missing"])
    _told(made, annotations)
    return made


def _table(source: Source, output: Path, decides: str) -> Snapshot:
    flow(
        Flow(
            archive=source.archive,
            output=str(output),
            store=source.store,
            method="pairs",
            fingerprint=decides,
            river=source.river(),
            address=source.address,
            stages=source.stages,
            what="paired",
        )
    )
    table = latest(Store(source.store), str(output))
    assert table is not None  # the flow has just published it
    return table


def _made(source: Source, folder: Path, table: Snapshot, annotations: Annotations) -> dict[str, Any]:
    """Writes all that lies beside the table; returns its record."""
    store = Store(source.store)
    fates = pa.concat_tables(table.tables(store, ["image_id", "stage", "reason", "detail"]))
    rows = annotations.match(fates["image_id"].to_pylist())  # all at once: in slices a name could fit one image of each
    lost = fates.filter(pc.is_valid(fates["reason"]))
    reasons = Counter(lost["reason"].to_pylist())
    if len(lost) == len(fates):
        raise UserError(_nothing(source, annotations, fates, rows, reasons))
    unmet = np.setdiff1d(np.arange(len(annotations)), rows)
    _listed(folder / REJECTED, lost.column_names, zip(*(column.to_pylist() for column in lost.columns), strict=True))
    texts = pc.list_value_length(annotations.texts).to_numpy()
    _listed(folder / MISSING, ["name", "texts"], ((annotations.names[int(row)], int(texts[row])) for row in unmet))
    with Progress("written", len(fates) - len(lost), unit="pairs") as progress:

        def tables() -> Iterator[pa.Table]:
            for part in table.tables(store, [*COLUMNS, "reason"]):
                progress.add(part["reason"].null_count)
                yield part

        written = write(tables(), folder / FILE)
    return {"read": len(fates), "pairs": asdict(written), "rejected": dict(reasons), "missing": len(unmet)}


def _listed(path: Path, titles: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(titles)
        out.writerows(rows)


def _nothing(
    source: Source, annotations: Annotations, fates: pa.Table, rows: np.ndarray[Any, Any], reasons: Counter[str]
) -> str:
    """Why no image is a pair."""
    if not (rows >= 0).any():
        image = fates["image_id"][0].as_py() if len(fates) else "no image"
        return (
            f"not one of {len(annotations):,} names in {source.annotations}, such as {annotations.names[0]!r}, ends an image's "
            f"name in {source.archive.uri}, such as {image}; give the archive that they are of"
        )
    most = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
    return f"not one image of {source.archive.uri} is a pair ({most}); mend the archive or the annotations"


def _told(made: Prepared, annotations: Annotations) -> None:
    written = made.written
    say(f"{written.pairs:,} pairs with {written.texts:,} texts of {written.groups:,} places, of {made.read:,} images")
    for reason, count in sorted(made.rejected.items(), key=lambda each: -each[1]):
        say(f"  rejected, {reason}: {count:,} ({REJECTED})")
    if made.missing:
        say(f"  annotated, but in no archive: {made.missing:,} of {len(annotations):,} names ({MISSING})")
    for count, what in ((annotations.nameless, "name no image"), (annotations.blank, "are blank")):
        if count:
            say(f"  texts that {what}: {count:,}")
