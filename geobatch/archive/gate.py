"""What lets readers hand out slices, until it is closed.

A run that is to end before its time must stop reading and still commit what was read. So every reader asks before it reads
another slice; once the gate is closed it gets a no, and whoever closed it knows how many slices of which shard are on their
way and need waiting for. A reader that died and does its shard again may hand out again what it had handed out before.
Readers run ahead of what computes, by dozens of slices: those that the first stage has not begun are dropped as well.

One question a slice: about 2 ms, against the second or more that reading one takes. The gate lives in an actor of its own
(`geobatch.service`); if its node dies with it, it comes back open and empty, and whoever closed it does so again.
"""

from __future__ import annotations

from collections import Counter


class Gate:
    """Open at first."""

    def __init__(self) -> None:
        self._out: dict[int, int] = {}
        self._dropped: set[tuple[int, int]] = set()
        self._closed = False

    def may(self, shard: int, ordinal: int) -> bool:
        """Whether a reader may read and hand out slice `ordinal` of those that it still had to do of a shard, from 0."""
        out = self._out.get(shard, 0)
        if ordinal < out:
            return True
        if self._closed:
            return False
        self._out[shard] = ordinal + 1
        return True

    def over(self, shard: int, ordinal: int) -> None:
        """There was no slice `ordinal`: the shard has ended."""
        self._out[shard] = min(self._out.get(shard, 0), ordinal)

    def starts(self, shard: int, number: int) -> bool:
        """Whether the first stage may begin with a slice that was handed out; else it drops it."""
        if self._closed:
            self._dropped.add((shard, number))
        return not self._closed

    def close(self) -> dict[int, int]:
        """From now on nothing more is handed out or begun; shards, and how many of their slices are or were on their way."""
        self._closed = True
        dropped = Counter(shard for shard, _ in self._dropped)
        return {shard: out - dropped[shard] for shard, out in self._out.items()}
