"""One shard becomes slices, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from geobatch.archive import parquet, prefix, tar, texts, zip
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.slice import NOTHING, Slice
from geobatch.errors import MachineError
from geobatch.store import Store

__all__ = ["NOTHING", "Slice", "read_shard"]


def read_shard(
    store: Store,
    plan: pa.Table,
    config: ArchiveConfig,
    done: Mapping[int, int] | None = None,
    seen: Callable[[], set[str]] | None = None,
    last: bool = True,
) -> Iterator[Slice]:
    """The slices of one shard that are not committed yet, in order.

    Args:
        store: reaches the archive.
        plan: all rows of the shard in the manifest (PLAN).
        config: as it was when the shard's first slice was read.
        done: number -> `Slice.end` of the committed slices.
        seen: gives the image_ids that they hold; called only where a member's name may be met again.
        last: whether objects of which not one can be read are rows (`prefix`), since nobody asks for them again.

    Raises:
        Unreadable: the store failed for the shard as a whole; what was yielded stands.
        UserError: no credentials, no bucket.
        Withheld, Denied: not one of its objects can be read, and it is not `last`.
    """
    done = done or {}
    kind = plan["kind"][0].as_py()
    if kind == "tar":
        yield from tar.read(store, plan, config, done, seen)
    elif kind == "parquet":
        yield from parquet.read(store, plan, config, done)
    elif kind == "text":
        yield from texts.read(store, plan, config, done)
    elif kind in ("object", "zip"):
        if 0 not in done:
            yield from prefix.read(store, plan, config, last) if kind == "object" else zip.read(store, plan, config)
    else:
        raise MachineError(f"a shard of unknown kind {kind!r}; the manifest is of another version of geobatch")
