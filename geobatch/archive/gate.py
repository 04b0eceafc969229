"""What lets readers hand out slices, until it is closed.

A run that is to end before its time must stop reading and still commit what it has begun. So every reader asks before it reads
another slice, and the first stage before it begins with one; once the gate is closed both get a no, and whoever closed it
knows how many slices of which shard were begun and need waiting for. Readers run ahead of what computes, by dozens of slices:
those are dropped, for a stage that waits for a node would never begin them. A reader that died and does its shard again may
hand out again what it had handed out before, since Ray expects the same of it.

Two questions a slice: about 2 ms each, against the second or more that a slice takes. The gate lives in an actor of its own
(`geobatch.service`); if its node dies with it, it comes back open and empty, and whoever closed it does so again.
"""

from __future__ import annotations


class Gate:
    """Open at first."""

    def __init__(self) -> None:
        self._out: dict[int, int] = {}
        self._begun: dict[int, int] = {}  # a bit for each slice
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

    def begins(self, shard: int, number: int) -> bool:
        """Whether the first stage may begin with a slice that was handed out; one that died with it, it may."""
        begun = self._begun.get(shard, 0)
        if self._closed and not begun >> number & 1:
            return False
        self._begun[shard] = begun | 1 << number
        return True

    def close(self) -> dict[int, int]:
        """From now on nothing more is handed out or begun; shards, and how many of their slices were begun."""
        self._closed = True
        return {shard: begun.bit_count() for shard, begun in self._begun.items()}
