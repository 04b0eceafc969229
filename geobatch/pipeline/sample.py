"""What of an archive is looked at before all of it is worked on: counts of everything, a few shards drawn by a seed, a clock.

Each kind of container gives shards of its own to the sample, in turn, so that a thousand loose images do not hide the one tar
of a terabyte. Within a kind every shard has the same chance, and only `KEPT` are held while the listing streams by.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from geobatch.actors import Hands
from geobatch.archive.plan import Planned
from geobatch.errors import UserError
from geobatch.pipeline.watch import Onlooker
from geobatch.sink.record import WHOLE

#: Shards of each kind that are kept at most while the archive is listed.
KEPT = 32
#: Bytes that an image of unread containers is taken to have until the sample knows better.
GUESSED_BYTES = 500_000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How much is looked at before it is said what all would take."""

    images: int = 1000
    """Images of the sample, about."""
    listed: int = 1_000_000
    """Objects listed at most; what lies beyond is not counted, and it is said that there is more."""
    seed: int = 0
    """Draws other shards."""

    def __post_init__(self) -> None:
        """Refuses a sample of nothing."""
        if self.images < 1 or self.listed < 1:
            raise UserError("a sample needs at least one image and one listed object; leave --sample as it is")


@dataclass
class Listed:
    """What an archive holds that is new.

    Fields:
        listed, skipped, known: as the planner counts.
        complete: whether all was listed.
        rows, size, shards: rows of the plan, bytes, and shards, by kind of container.
        drawn: (kind, shard) of the sample, in the order drawn.
    """

    listed: int = 0
    skipped: int = 0
    known: int = 0
    complete: bool = True
    rows: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    shards: Counter[str] = field(default_factory=Counter)
    drawn: list[tuple[str, pa.Table]] = field(default_factory=list)


def look(plans: Iterator[Planned], sample: Sample) -> Listed:
    """Lists, counts, and draws the sample's shards: a reservoir of each kind, then the kinds in turn."""
    found = Listed()
    draw = random.Random(sample.seed)
    kept: dict[str, list[tuple[float, int, pa.Table]]] = defaultdict(list)
    for planned in plans:
        found.listed, found.skipped, found.known = planned.listed, planned.skipped, planned.known
        for kind, shard in _shards(planned.table):
            found.rows[kind] += len(shard)
            found.size[kind] += sum(size or 0 for size in shard["size"].to_pylist())
            found.shards[kind] += 1
            # The largest of uniform draws are a uniform sample, whatever the order of the listing.
            heapq.heappush(kept[kind], (draw.random(), found.shards[kind], shard))
            if len(kept[kind]) > KEPT:
                heapq.heappop(kept[kind])
        if planned.listed >= sample.listed:
            found.complete = next(plans, None) is None
            break
    queues = {kind: [shard for _, _, shard in sorted(drawn, reverse=True)] for kind, drawn in sorted(kept.items())}
    expected = 0.0
    while any(queues.values()) and expected < sample.images:
        for kind in [kind for kind, queue in queues.items() if queue]:
            shard = queues[kind].pop(0)
            found.drawn.append((kind, shard))
            size = sum(size or 0 for size in shard["size"].to_pylist())
            expected += len(shard) if kind in WHOLE else max(1.0, size / GUESSED_BYTES)
    return found


def _shards(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    numbers = table["shard"].to_numpy()
    start = 0
    for end in range(1, len(table) + 1):
        if end == len(table) or numbers[end] != numbers[start]:
            yield table["kind"][start].as_py(), table.slice(start, end - start)
            start = end


class Clock(Onlooker):
    """When slices came, and of which shard; ends the run when there are images enough. A `Watch`."""

    def __init__(self, images: int) -> None:
        self.images, self.read = images, 0
        self.started = time.monotonic()
        self.slices: list[tuple[float, int, int, int]] = []  # time, shard, images, bytes
        self.river_made: list[Hands] = []

    def river(self, hands: list[Hands]) -> None:
        """The clock starts once, with Ray up and before any actor is."""
        if not self.river_made:
            self.started, self.river_made = time.monotonic(), hands

    def slice(self, row: dict[str, Any]) -> None:
        """Takes down one slice."""
        self.slices.append((time.monotonic(), row["shard"], row["read"], row["bytes"]))
        self.read += row["read"]

    def enough(self) -> str | None:
        """Once the sample has its images."""
        return f"sampled: {self.read:,} images are enough" if self.read >= self.images else None

    def start_seconds(self) -> float:
        """Until the first slice was there: actors, models, the first images."""
        return self.slices[0][0] - self.started if self.slices else 0.0

    def rate(self) -> float:
        """Images a second after the first slice; over all of the time where there is but one."""
        (first, _, ahead, _), (last, *_) = self.slices[0], self.slices[-1]
        if last - first > 0 and self.read > ahead:
            return (self.read - ahead) / (last - first)
        return self.read / max(last - self.started, 1e-9)
