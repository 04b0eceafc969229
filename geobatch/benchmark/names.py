"""Millions of names that stay in Arrow's memory, as a sequence of strings.

A list of 4.7 million strings takes 0.4 GB of Python objects beside the bytes themselves; here a string is made when it is asked
for, and iterating makes them a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast, overload

import pyarrow as pa

#: Names made, or looked up, at once.
BLOCK = 1 << 16


class Names(Sequence[str]):
    """Strings that stay in Arrow's memory until they are asked for."""

    def __init__(self, values: pa.LargeStringArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        """The name, or names."""
        return tuple(self.values[at].to_pylist()) if isinstance(at, slice) else cast(str, self.values[int(at)].as_py())

    def __iter__(self) -> Iterator[str]:
        """In order."""
        for start in range(0, len(self), BLOCK):
            yield from self.values[start : start + BLOCK].to_pylist()

    def __eq__(self, other: object) -> bool:
        """Whether the other sequence has the same names."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
