"""A few labelled images go through every run: is tonight's machine still as good as its record?

A wrong driver, a half-loaded model, a library that decodes differently: all of them place every image, badly. Nobody notices
from the table. So the canary's images travel the run's own river, before all others and through the same actors; only Write
treats them apart and puts them beside the run (`runs/RUN/aside`), never into the table.

Their distances to the truth are compared with a record (`verdict`), image by image, by SHA-256, by name if not read:

1. `canary.json` in the model's folder, if there is one: copy a run's there to make it the standard;
2. else the output's own, which the first run with this canary, model and settings made (`OUTPUT/canary/`), if it could read
   all of it. A canary that gained or lost images is judged by those that the nearest record knows; a good night that could
   read all of it then makes a record of all, with the old distances where there are any.

Where a bad canary stops the run it goes through alone, and the rest begins once it is judged: that costs the canary's minute,
and no row of a bad machine gets into the table. A run that another driver takes up flies it again, since that may be another
machine; what was found before stands in "earlier". A run with nothing to do looks at none.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.benchmark.truth import Truth, load_truth
from geobatch.errors import UserError
from geobatch.pipeline.folder import RECORD
from geobatch.pipeline.verdict import LEAST, VERSION, common, extended, judged, measured, recorded
from geobatch.pipeline.watch import Onlooker
from geobatch.progress import say
from geobatch.sink import Run
from geobatch.sink.publish import now
from geobatch.sink.record import TASK
from geobatch.sink.write import aside_name
from geobatch.store import NotFound, Store, join

#: Objects that are a few.
MOST = 1000

#: Passes that a canary whose verdict is waited for has to itself; if they all fail, the rest goes with it.
ALONE = 3


@dataclass(frozen=True, kw_only=True)
class Cage:
    """What a canary is.

    Fields:
        archive: where its images lie, read as the run's archive is.
        truth: CSV or Parquet of their places.
        model: folder or prefix whose canary.json is the record; None: there is none.
        fingerprint: of the run.
        stop: whether a canary that is worse ends the run.
    """

    archive: ArchiveConfig
    truth: str
    model: str | None
    fingerprint: str
    stop: bool = False


class Canary(Onlooker):
    """Sends its images before all others and judges them.

    Args:
        cage: what it is.
        source: reaches its images and truth.
        output: reaches the output.
        models: reaches the model's folder.

    Raises:
        UserError: there are no images or too many, or the truth cannot be read.
    """

    def __init__(self, cage: Cage, source: Store, output: Store, models: Store) -> None:
        self.cage, self.output, self.models = cage, output, models
        try:
            self.truth: Truth = load_truth(source, cage.truth)
        except NotFound:
            raise UserError(f"there is no {cage.truth}; name the CSV or Parquet file of the canary's places") from None
        self.rows = _few(plan(source, cage.archive), cage.archive.uri)
        names = self.rows["image_id"]
        if not names.null_count and (known := int((self.truth.match(names.to_pylist()) >= 0).sum())) < LEAST:
            raise UserError(_too_few(known, cage.truth))
        self.found: dict[str, Any] | None = None
        self._earlier: list[dict[str, Any]] = []
        self._run: Run | None = None
        self._ends: dict[int, int] = {}
        self._slices: dict[int, set[int]] = {}
        self._alone = 0

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Takes down what earlier drivers of the run found: it says nothing of this one's machine."""
        self._run = run
        if run.resumed and run.store.exists(run.at(RECORD)):
            before = json.loads(run.store.get(run.at(RECORD)))
            self._earlier = [*before.get("earlier", []), _told(before)]

    def leading(self, tasks: list[pa.Table]) -> list[pa.Table]:
        """What the next pass does: the canary before these tasks, or alone."""
        mine = self.tasks()
        self._alone += 1
        return mine if mine and self.cage.stop and self._alone <= ALONE else [*mine, *tasks]

    def tasks(self) -> list[pa.Table]:
        """What goes through the river before everything else: shards numbered from -1 downwards; none once it is judged."""
        if self.found is not None or self._run is None:
            return []
        shards, where = self.rows["shard"].to_pylist(), self._run.at("canary.parquet")
        numbers = sorted(set(shards))
        data = io.BytesIO()
        with pq.ParquetWriter(data, self.rows.schema) as writer:
            for number in numbers:
                rows = self.rows.filter(pa.array([shard == number for shard in shards]))
                writer.write_table(rows, row_group_size=len(rows))
        self._run.store.put(where, data.getvalue())
        rows = [{"shard": -1 - group, "plan": where, "group": group, "done": [], "parts": []} for group in range(len(numbers))]
        self._slices, self._ends = {row["shard"]: set() for row in rows}, {}
        return [pa.Table.from_pylist([row], schema=TASK) for row in rows]

    def slice(self, row: dict[str, Any]) -> None:
        """Judges once its last slice is through."""
        if row["shard"] not in self._slices or self.found is not None:
            return
        self._slices[row["shard"]].add(row["number"])
        if row["last"]:
            self._ends[row["shard"]] = row["number"] + 1
        if all(len(seen) == self._ends.get(shard) for shard, seen in self._slices.items()):
            self._judge()

    def enough(self) -> str | None:
        """See `Watch`."""
        if self.cage.stop and self.found is not None and self.found["worse"]:
            return f"canary: {self.found['said']}"
        return None

    def end(self, account: dict[str, Any]) -> dict[str, Any]:
        """What it found, without the images; what the last driver found where nothing was left for this one.

        It is "worse" if any driver's was whose rows may be in the table.
        """
        if account["shards"] and self.found is None and (self._slices or not self._earlier):  # else none was to be sent
            say("warning: the run ended before its canary was through")
        if self.found is None and not self._earlier:
            return {"canary": None}
        told = _told(self.found) if self.found is not None else self._earlier[-1]
        worse = [each for each in self._earlier if each["worse"]]
        if worse and not told["worse"] and not self.cage.stop:
            said = f"{told['said']}; an earlier driver's was worse: {worse[-1]['said']}"
            told = told | {"worse": True, "said": said}
        return {"canary": told | ({"earlier": self._earlier} if self._earlier else {})}

    def _judge(self) -> None:
        assert self._run is not None
        names = [aside_name(shard, number) for shard, seen in self._slices.items() for number in sorted(seen)]
        tables = [pq.read_table(pa.BufferReader(self._run.store.get(self._run.at("aside", name)))) for name in names]
        images = measured(pa.concat_tables(tables), self.truth)
        if len(images) < LEAST:
            raise UserError(_too_few(len(images), self.cage.truth))
        standard = self._standard()
        record, where = standard or self._kept(images)
        told = judged(images, record)
        if standard is None and not told["worse"] and not told["unread"]:
            kept = {"fingerprint": self.cage.fingerprint, "images": extended(images, record or [])}
            self.output.put_if_absent(self._own(images), _json({"version": VERSION, "run": self._run.id, **kept}))
        self.found = {"version": VERSION, "run": self._run.id, "time": now(), **told, "record": where, "images": images}
        self.output.put(self._run.at(RECORD), _json(self.found | ({"earlier": self._earlier} if self._earlier else {})))
        unjudged = "warning: " if told["unread"] and told["ratio"] is None else ""
        say((f"{unjudged}canary: " if not told["worse"] else "warning: the canary is worse: ") + told["said"])

    def _own(self, images: list[dict[str, Any]]) -> str:
        """Where the output keeps the record of these images."""
        digest = hashlib.sha256(json.dumps([self.cage.fingerprint, sorted(each["image_id"] for each in images)]).encode())
        assert self._run is not None
        return join(self._run.output, "canary", f"{digest.hexdigest()[:20]}.json")

    def _standard(self) -> tuple[list[dict[str, Any]], str] | None:
        """The images of the model's own record, and where it lies; None if it has none."""
        if self.cage.model is None or not self.models.exists(uri := join(self.cage.model, RECORD)):
            return None
        return recorded(self.models.get(uri), uri), uri

    def _kept(self, images: list[dict[str, Any]]) -> tuple[list[dict[str, Any]] | None, str]:
        """The output's record to judge these images by, None where there is none, and where it lies or will.

        It is of just these images, or of the same fingerprint and has the most in common with them, enough to judge by; of
        equal ones the oldest.
        """
        assert self._run is not None
        if self.output.exists(uri := self._own(images)):
            return recorded(self.output.get(uri), uri), uri
        found: list[tuple[tuple[int, int], list[dict[str, Any]], str]] = []
        for page in self.output.objects(join(self._run.output, "canary")):
            for item in page:
                data = self.output.get(item.uri)
                with suppress(UserError):  # what is no record judges nothing here, and stands in nobody's way
                    known, told = recorded(data, item.uri), json.loads(data)
                    if told.get("fingerprint") == self.cage.fingerprint:
                        found.append(((len(common(images, known)), -int(told.get("run", 0))), known, item.uri))
        best = max(found, key=lambda each: each[0], default=None)
        return (best[1], best[2]) if best is not None and best[0][0] >= LEAST else (None, uri)


def _json(told: dict[str, Any]) -> bytes:
    return json.dumps(told, indent=1).encode()


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """What the canary found, without its images and what was found before."""
    return {name: value for name, value in found.items() if name not in ("images", "earlier")}


def _few(planned: Iterable[Any], uri: str) -> pa.Table:
    tables, rows = [], 0
    for each in planned:
        tables.append(each.table)
        rows += len(each.table)
        if rows > MOST:
            raise UserError(f"--canary {uri} holds more than {MOST:,} images; a canary is a few, 20 to 50 are enough")
    return pa.concat_tables(tables)


def _too_few(known: int, truth: str) -> str:
    return (
        f"the canary has {known} images with a place in {truth}; give at least {LEAST}, fewer can never tell a bad night from "
        "a good one"
    )
