"""Training from a table of vectors that no memory holds: Parquet row groups, shuffled twice, a step at a time.

An encoder that keeps its weights gives a picture the same vector in every epoch, so it is computed once, by the flow that
builds galleries, and read again as Parquet: 4 million images of 768 numbers are 12 GB on disk, an epoch of which one process
reads in a minute, where the pictures would take CLIP ViT-L/14 hours.

An epoch is a seeded permutation of the row groups, cut into pools of about `buffer` rows; within a pool the rows are permuted.
Pools hold rows of many shards (a shard is one row group of some thousand rows), so a batch is mixed as far as it must be for
its negatives to be far away. Which rows a step takes is a function of (seed, step) alone: to go on from a step is to read its
pool, wherever that lies. At most two pools are in memory, 100 MB each for 32,768 rows of 768 numbers, or the largest row
group's if that is more. Each epoch leaves out the rest of a batch at its end, other rows each time.

Every worker reads every pool and takes every W-th row, so that W workers are one with the whole batch; at 12 GB an epoch that
costs less than it saves in care.

Not covered: row groups straight from a bucket (the pipeline brings the parts to this machine's disk first).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.errors import UserError

INDEX = "features.json"


def index(parts: Iterable[tuple[Path, list[int]]], folder: Path) -> int:
    """Writes what `Features` needs to know of a table's parts; returns the number of rows that count.

    Args:
        parts: Parquet files with the columns vector, latitude, longitude and status, and the rows in each that no longer
            count.
        folder: gets `features.json`.

    Raises:
        UserError: no row has a place and a vector, or vectors are of different lengths.
    """
    groups: list[dict[str, Any]] = []
    sizes = set()
    for path, removed in parts:
        with pq.ParquetFile(path) as file:
            start, living = 0, 0
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                gone = [row - start for row in removed if start <= row < start + rows]
                start += rows
                alive = _alive(file.read_row_group(number, columns=["status"]), gone)
                if not alive.any():
                    continue
                groups.append({"path": str(path.resolve()), "group": number, "rows": int(alive.sum()), "gone": gone})
                living += 1
                if living == 1:
                    first = file.read_row_group(number, columns=["vector"])["vector"][int(alive.argmax())]
                    sizes.add(len(first.as_py()))
    if not groups:
        raise UserError("no training picture has a place; check the archive and its truth")
    if len(sizes) > 1:
        raise UserError(f"vectors of {min(sizes)} and of {max(sizes)} numbers: parts of two encoders; embed the images again")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps({"dimension": sizes.pop(), "groups": groups}) + "\n")
    return sum(int(group["rows"]) for group in groups)


@dataclass(frozen=True)
class Rows:
    """Vectors (N, C) float32 and places (N, 2) in degrees."""

    vectors: NDArray[np.float32]
    places: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.places)

    def at(self, rows: Any) -> Rows:
        """These rows of them."""
        return Rows(self.vectors[rows], self.places[rows])


class Features:
    """A table of vectors, step by step.

    Args:
        folder: where `index` wrote.
        batch: rows a step.
        buffer: rows that are shuffled in memory at a time.
        seed: of the order.
    """

    def __init__(self, folder: Path, batch: int, buffer: int, seed: int) -> None:
        said = json.loads((folder / INDEX).read_text())
        self._groups, self.dimension = said["groups"], int(said["dimension"])
        self._batch, self._buffer, self._seed = batch, max(buffer, batch), seed
        self._count = sum(int(group["rows"]) for group in self._groups)
        self._pools: dict[tuple[int, int], Rows] = {}
        self._plan: tuple[int, list[list[int]], NDArray[np.int64]] = (-1, [], np.zeros(1, np.int64))

    def __len__(self) -> int:
        return self._count

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Rows:
        """This worker's rows of a step: every `world`-th of the batch, from `rank` on."""
        epoch, number = divmod(step, max(1, self._count // self._batch))
        pools, starts = self._planned(epoch)
        first = number * self._batch
        wanted = np.arange(first + rank, min(first + self._batch, self._count), world)
        held = np.searchsorted(starts, wanted, side="right") - 1
        touched = sorted(set(held.tolist()))
        self._pools = {key: rows for key, rows in self._pools.items() if key[0] == epoch and key[1] in touched}
        found = []
        for pool in touched:
            if (epoch, pool) not in self._pools:
                self._pools[epoch, pool] = self._read(pools[pool], np.random.default_rng([self._seed, epoch, pool + 1]))
            found.append(self._pools[epoch, pool].at(wanted[held == pool] - starts[pool]))
        return Rows(np.concatenate([rows.vectors for rows in found]), np.concatenate([rows.places for rows in found]))

    def _planned(self, epoch: int) -> tuple[list[list[int]], NDArray[np.int64]]:
        """Pools of row groups of an epoch, and the row each begins at."""
        if self._plan[0] != epoch:
            pools: list[list[int]] = [[]]
            sizes = [0]
            for group in np.random.default_rng([self._seed, epoch, 0]).permutation(len(self._groups)).tolist():
                if sizes[-1] >= self._buffer:
                    pools.append([])
                    sizes.append(0)
                pools[-1].append(group)
                sizes[-1] += int(self._groups[group]["rows"])
            self._plan = (epoch, pools, np.cumsum([0, *sizes[:-1]]))
        return self._plan[1], self._plan[2]

    def _read(self, groups: list[int], rng: np.random.Generator) -> Rows:
        total = sum(int(self._groups[group]["rows"]) for group in groups)
        order = rng.permutation(total)
        pool = Rows(np.empty((total, self.dimension), np.float32), np.empty((total, 2)))
        at = 0
        for group in groups:
            rows = self._group(self._groups[group])
            pool.vectors[order[at : at + len(rows)]] = rows.vectors
            pool.places[order[at : at + len(rows)]] = rows.places
            at += len(rows)
        return pool

    def _group(self, said: dict[str, Any]) -> Rows:
        columns = ["vector", "latitude", "longitude", "status"]
        with pq.ParquetFile(said["path"]) as file:
            table = file.read_row_group(said["group"], columns=columns)
        table = table.filter(pa.array(_alive(table, said["gone"])))
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        places = np.column_stack([table[name].to_numpy().astype(np.float64) for name in ("latitude", "longitude")])
        if len(flat) != len(table) * self.dimension or len(table) != said["rows"] or not np.isfinite(places).all():
            raise UserError(f"{said['path']} is not what it was, or of another encoder; embed the images again")
        return Rows(flat.astype(np.float32, copy=False).reshape(len(table), -1), places)


def _alive(table: pa.Table, gone: list[int]) -> NDArray[np.bool_]:
    alive: NDArray[np.bool_] = pc.equal(table["status"], "placed").to_numpy().astype(bool)
    alive[gone] = False
    return alive
