"""Keeps a standing table readable: few large parts instead of the many small ones of every night, and nothing older than a day
that no table names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from geobatch.access import submission
from geobatch.errors import UserError
from geobatch.progress import say
from geobatch.sink.compact import clear, compact
from geobatch.sink.lease import Lease
from geobatch.store import Store, StoreConfig


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Writes a table's small parts together and deletes what no reader needs any more."""

    output: str
    """Where the table lies: s3://bucket/prefix or a folder."""
    target_mb: int = 128
    """Size of a new part in MB, about; parts of less than half of it count as small."""
    keep_hours: float = 24.0
    """Hours for which parts that a newer table has replaced are kept, for readers that have opened the older one."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""

    def __post_init__(self) -> None:
        """Refuses sizes and times that mean nothing."""
        if not 1 <= self.target_mb <= 2000:
            raise UserError(f"--target-mb {self.target_mb} is not between 1 and 2000; 128 suits most readers")
        if self.keep_hours < 0:
            raise UserError(f"--keep-hours {self.keep_hours:g} is negative; 24 lets a day's readers finish")


def compact_table(config: Compact) -> dict[str, Any]:
    """Runs the job; returns what it did.

    Raises:
        UserError: there is no table, or a run is working at the output.
        MachineError: the store failed; nothing is lost, and the same call goes on.
    """
    store = Store(config.store)
    store.require_conditional_writes(config.output)
    with Lease(store, config.output, who=submission() or "compaction") as lease:
        made = compact(store, config.output, config.target_mb << 20, lease.check)
        if made is None:
            say(f"the parts at {config.output} are as they should be")
        else:
            say(f"table {made['table']} at {config.output}: {made['before']:,} parts became {made['after']:,}, "
                f"{made['dropped']:,} superseded rows were left out")  # fmt: skip
        gone = clear(store, config.output, timedelta(hours=config.keep_hours), lease.check)
    if gone.parts or gone.lists or gone.tables:
        say(f"deleted {gone.parts:,} parts, {gone.lists:,} lists and {gone.tables:,} tables that nobody reads any more")
    return {"compacted": made, "cleared": {"parts": gone.parts, "lists": gone.lists, "tables": gone.tables}}
