"""A few labelled images go through every run: is tonight's machine still as good as its record?

A wrong driver, a half-loaded model, a library that decodes differently: all of them place every image, badly. Nobody notices
from the table. So the canary's images travel the run's own river, before all others and through the same actors; only Write
treats them apart and puts them beside the run (`runs/RUN/aside`), never into the table.

Their distances to the truth are compared, image by image (by SHA-256; by name where it was not read), with a record:

1. `canary.json` in the model's folder, if there is one: copy a run's there to make it the standard;
2. else the output's own, which the first run with this canary, model and settings made (`OUTPUT/canary/`), if it could read
   all of it.

Where a bad canary stops the run it goes through alone, and the rest begins once it is judged: that costs the canary's minute,
and no row of a bad machine gets into the table.

An image that is rejected counts as half the Earth's circumference away. The canary is *worse* if both hold:

- ratio: the geometric mean of (tonight's distance + 1 km) over (the record's + 1 km) is at least `RATIO`;
- chance: were tonight as good as the record, every image as likely better as worse, a mean that bad would come in less than
  `CHANCE` of the nights (a permutation test of the logarithms' signs, one-sided; exact up to 13 images, beyond of 9,999 draws).

So one image that jumps across an ocean does not stop a night, and eight that each moved twice as far do. Seven images at least
must be in both, or no night could ever reach the chance of 0.01; 20 to 50 are better. A run with nothing to do looks at none.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.benchmark.truth import Truth, load_truth
from geobatch.errors import UserError
from geobatch.geo.distance import EARTH_RADIUS_KM, haversine_km
from geobatch.pipeline.folder import RECORD
from geobatch.pipeline.watch import Onlooker
from geobatch.progress import say
from geobatch.sink import Run
from geobatch.sink.record import TASK
from geobatch.sink.write import aside_name
from geobatch.store import NotFound, Store, join

#: A canary is worse if its distances grew by this factor and chance makes so bad a night this seldom.
RATIO, CHANCE = 1.25, 0.01

#: Images that must be in both, and objects that are a few.
LEAST, MOST = 7, 1000

#: What a rejected image counts as, in km.
LOST_KM = float(np.pi * EARTH_RADIUS_KM)

#: Reasons that say nothing of the machine; a night that has them makes no record.
UNREAD = frozenset({"missing", "unreadable"})

#: Passes that a canary whose verdict is waited for has to itself; if they all fail, the rest goes with it.
ALONE = 3

#: Raised by hand when the form of canary.json changes.
VERSION = 1


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
        self._run: Run | None = None
        self._ends: dict[int, int] = {}
        self._slices: dict[int, set[int]] = {}
        self._alone = 0

    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        """Takes up what an earlier driver of the run found."""
        self._run = run
        if run.resumed and run.store.exists(run.at(RECORD)):
            self.found = json.loads(run.store.get(run.at(RECORD)))

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
        """What it found, without the images."""
        if self.found is None:
            if account["shards"]:  # a night that only marks what is gone sends nothing through
                say("warning: the run ended before its canary was through")
            return {"canary": None}
        if account.get("left") == "open" and self._run is not None:  # the next night's machine is judged by itself
            self._run.store.delete([self._run.at(RECORD)])
        return {"canary": {name: value for name, value in self.found.items() if name != "images"}}

    def _judge(self) -> None:
        assert self._run is not None
        names = [aside_name(shard, number) for shard, seen in self._slices.items() for number in sorted(seen)]
        tables = [pq.read_table(pa.BufferReader(self._run.store.get(self._run.at("aside", name)))) for name in names]
        images = measured(pa.concat_tables(tables), self.truth)
        if len(images) < LEAST:
            raise UserError(_too_few(len(images), self.cage.truth))
        record, where = self._record(images)
        self.found = {"version": VERSION, "run": self._run.id, **judged(images, record), "record": where, "images": images}
        self._run.store.put_if_absent(self._run.at(RECORD), json.dumps(self.found, indent=1).encode())
        say(("warning: the canary is worse: " if self.found["worse"] else "canary: ") + self.found["said"])

    def _record(self, images: list[dict[str, Any]]) -> tuple[list[dict[str, Any]] | None, str]:
        """The record's images, and where it lies; None where this run makes it."""
        assert self._run is not None
        if self.cage.model is not None and self.models.exists(uri := join(self.cage.model, RECORD)):
            return _images(self.models.get(uri), uri), uri
        digest = hashlib.sha256(json.dumps([self.cage.fingerprint, sorted(each["image_id"] for each in images)]).encode())
        uri = join(self._run.output, "canary", f"{digest.hexdigest()[:20]}.json")
        made = {"version": VERSION, "run": self._run.id, "fingerprint": self.cage.fingerprint, "images": images}
        if any(each["reason"] in UNREAD for each in images):
            return (_images(self.output.get(uri), uri) if self.output.exists(uri) else None), uri
        if self.output.put_if_absent(uri, json.dumps(made, indent=1).encode()):
            return None, uri
        return _images(self.output.get(uri), uri), uri


def measured(rows: pa.Table, truth: Truth) -> list[dict[str, Any]]:
    """Each image that has a true place: its name, bytes, fate, and distance in km, rows of PLACE given."""
    at = truth.match(rows["image_id"].to_pylist())
    places = {axis: rows[axis].to_numpy(zero_copy_only=False).astype(np.float64) for axis in ("latitude", "longitude")}
    km = haversine_km(places["latitude"], places["longitude"], truth.latitude[at], truth.longitude[at])
    return [
        {
            **row,
            "distance_km": round(float(LOST_KM if row["reason"] or np.isnan(km[index]) else km[index]), 6),
        }
        for index, row in enumerate(rows.select(["image_id", "sha256", "reason"]).to_pylist())
        if at[index] >= 0
    ]


def judged(images: list[dict[str, Any]], record: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Whether distances are worse than a record's, by the rule at the top of this file.

    Returns:
        "worse", "ratio", "chance" (null without a record), "compared" (images), "median_km", "rejected", and
        "said", a sentence.
    """
    median = float(np.median([each["distance_km"] for each in images]))
    told = {"median_km": round(median, 3), "rejected": sum(each["reason"] is not None for each in images)}
    if record is None:
        unread = sum(each["reason"] in UNREAD for each in images)
        kept = f"{unread} could not be read, so this is no record" if unread else "this is the record for later runs"
        said = f"{len(images)} images, half of them within {median:,.1f} km; {kept}"
        return {"worse": False, "ratio": None, "chance": None, "compared": 0, **told, "said": said}
    both = _both(images, record)
    if len(both) < LEAST:
        raise UserError(
            f"the canary has {len(both)} images in common with its record; give the images of the record, or remove the record"
        )
    grown = np.log(np.array(both) + 1) @ [1, -1]
    ratio, chance = float(np.exp(grown.mean())), _chance(grown)
    worse = ratio >= RATIO and chance < CHANCE
    before = float(np.median([theirs for _, theirs in both]))
    said = (
        f"{len(both)} images, half of them within {median:,.1f} km (record: {before:,.1f} km); "
        f"distances are {ratio:.2f} times the record's, chance alone makes so bad a night {chance:.2g} of the time"
    )
    return {"worse": worse, "ratio": round(ratio, 4), "chance": round(chance, 6), "compared": len(both), **told, "said": said}


def _both(images: list[dict[str, Any]], record: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Distances of the images that are in both, ours and the record's; bytes that are there twice count once."""
    bytes_ = {each["sha256"]: each["distance_km"] for each in record if each["sha256"]}
    names = {each["image_id"]: each for each in record}
    found: dict[str, tuple[float, float]] = {}
    for each in images:
        named = names.get(each["image_id"])
        if each["sha256"] in bytes_:
            found[each["sha256"]] = each["distance_km"], bytes_[each["sha256"]]
        elif named is not None and not (each["sha256"] and named["sha256"]):
            found[named["sha256"] or each["image_id"]] = each["distance_km"], named["distance_km"]
    return [found[each] for each in sorted(found)]


def _chance(grown: np.ndarray) -> float:
    """One-sided p of the mean under random signs."""
    if not grown.any():
        return 1.0
    from scipy.stats import permutation_test

    found = permutation_test(
        (grown,), np.mean, permutation_type="samples", alternative="greater", n_resamples=9_999, rng=0, vectorized=True
    )
    return float(found.pvalue)


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


def _images(data: bytes, uri: str) -> list[dict[str, Any]]:
    try:
        told: Mapping[str, Any] = json.loads(data)
        images = [
            {"image_id": each.get("image_id"), "sha256": each["sha256"], "distance_km": float(each["distance_km"])}
            for each in told["images"]
        ]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{uri} is no record of a canary; remove it, or put a run's canary.json there") from None
    if told.get("version") != VERSION:
        raise UserError(f"{uri} is a record of version {told.get('version')}, this is version {VERSION}; remove it")
    return images
