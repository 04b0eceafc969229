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
from typing import Any, NamedTuple

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
            found.size[kind] += size_of(kind, shard)
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
            expected += len(shard) if kind in WHOLE else max(1.0, size_of(kind, shard) / GUESSED_BYTES)
    return found


def size_of(kind: str, shard: pa.Table) -> int:
    """Bytes of a shard as the planner knows them. Of a tar in parts the later ones only complete the first one's members."""
    sizes = [size or 0 for size in shard["size"].to_pylist()]
    return sizes[0] if kind == "tar" else sum(sizes)


def _shards(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    numbers = table["shard"].to_numpy()
    start = 0
    for end in range(1, len(table) + 1):
        if end == len(table) or numbers[end] != numbers[start]:
            yield table["kind"][start].as_py(), table.slice(start, end - start)
            start = end


class Came(NamedTuple):
    """A slice of the sample that is committed: when, of which shard, its images and their bytes, and how far its reader is."""

    at: float
    shard: int
    images: int
    size: int
    last: bool
    end: int


class Clock(Onlooker):
    """When slices came, and of which shard; ends the run when there are images enough. A `Watch`."""

    def __init__(self, images: int) -> None:
        self.images, self.read = images, 0
        self.started = time.monotonic()
        self.slices: list[Came] = []
        self.river_made: list[Hands] = []

    def river(self, hands: list[Hands]) -> None:
        """The clock starts once, with Ray up and before any actor is."""
        if not self.river_made:
            self.started, self.river_made = time.monotonic(), hands

    def slice(self, row: dict[str, Any]) -> None:
        """Takes down one slice."""
        self.slices.append(Came(time.monotonic(), row["shard"], row["read"], row["bytes"], row["last"], row["end"]))
        self.read += row["read"]

    def enough(self) -> str | None:
        """Once the sample has its images."""
        return f"sampled: {self.read:,} images are enough" if self.read >= self.images else None

    def start_seconds(self) -> float:
        """Until the first slice was there: actors, models, the first images."""
        return self.slices[0].at - self.started if self.slices else 0.0

    def rate(self) -> float:
        """Images a second after the first slice; over all of the time where there is but one."""
        first, last = self.slices[0], self.slices[-1]
        if last.at - first.at > 0 and self.read > first.images:
            return (self.read - first.images) / (last.at - first.at)
        return self.read / max(last.at - self.started, 1e-9)

    def bytes_an_image(self, drawn: list[tuple[str, pa.Table]]) -> dict[str, float]:
        """Bytes of a container by image in it, for each kind that was sampled.

        Out of shards that were read to their end; out of how far the reader came where there are none and it counts in bytes,
        as a tar's does; else out of the encoded images, which leaves out what lies between them.
        """
        shards: dict[str, dict[int, list[Came]]] = defaultdict(lambda: defaultdict(list))
        for came in self.slices:
            shards[drawn[came.shard][0]][came.shard].append(came)
        found = {}
        for kind, all_of in shards.items():
            over = [shard for shard, slices in all_of.items() if any(came.last for came in slices)]
            size = sum(size_of(kind, drawn[shard][1]) for shard in over)
            images = sum(came.images for shard in over for came in all_of[shard])
            if not (size and images):
                images = sum(came.images for slices in all_of.values() for came in slices)
                size = sum(came.size for slices in all_of.values() for came in slices)
                if kind == "tar":
                    size = max(size, sum(max(came.end for came in slices) for slices in all_of.values()))
            if size and images:
                found[kind] = size / images
        return found
