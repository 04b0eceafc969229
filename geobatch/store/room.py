"""Room for a folder that is to be fetched: the ones that were not asked for the longest go first.

What may be filled is the disk, less a twentieth and at least 1 GiB for everybody else, or `GEOBATCH_CACHE_BYTES` where that is
less. A folder that a living process uses is never removed, nor one that is being fetched: their locks say so
(`geobatch.store.fetch`).

Not covered: what else lies in the cache, such as the Hugging Face hub's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from geobatch.errors import UserError
from geobatch.store.disk import UNFINISHED

#: Bytes of the disk that are always left to others.
SPARE = 1 << 30


def make_room(folder: Path, need: int) -> None:
    """Removes folders beside `folder` until `need` more bytes fit.

    Raises:
        UserError: they do not, with all that may go gone.
    """
    cache = folder.parent
    if need <= (left := _left(cache)):
        return
    for old in _oldest(cache, but=folder):
        _remove(old)
        if need <= (left := _left(cache)):
            return
    raise UserError(f"{folder.name} needs {need / 1e9:,.1f} GB and {cache} has room for {max(0, left) / 1e9:,.1f}; free its "
                    "disk, or name a larger one with GEOBATCH_CACHE")  # fmt: skip


def _left(cache: Path) -> int:
    """Bytes that may still be written; negative where there are too many already."""
    disk = shutil.disk_usage(cache)
    left = disk.free - max(SPARE, disk.total // 20)
    if bound := os.environ.get("GEOBATCH_CACHE_BYTES"):
        if not bound.isdigit():
            raise UserError(f"GEOBATCH_CACHE_BYTES is {bound!r}, no number of bytes; give one, or unset it")
        left = min(left, int(bound) - sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()))
    return left


def _oldest(cache: Path, but: Path) -> Iterator[Path]:
    """Folders that may go, the one asked for longest ago first; half-fetched ones before all."""
    half = [path for path in cache.glob(f"{UNFINISHED}*") if path.is_dir() and path.name != f"{UNFINISHED}{but.name}"]
    yield from half
    records = [path for path in cache.glob("*.json") if path.stem != but.name]
    yield from (path.with_suffix("") for path in sorted(records, key=lambda path: path.stat().st_mtime))


def _remove(folder: Path) -> None:
    """Takes a folder away unless somebody uses or fetches it."""
    name = folder.name.removeprefix(UNFINISHED).removesuffix("-old")
    with ExitStack() as locks:
        for kind in ("lock", "use"):
            descriptor = os.open(folder.with_name(f"{name}.{kind}"), os.O_RDWR | os.O_CREAT, 0o644)
            locks.callback(os.close, descriptor)
            if kind == "use" and folder.name.startswith(UNFINISHED):
                continue  # nobody uses what is half there
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        if not folder.name.startswith(UNFINISHED):
            folder.with_name(f"{name}.json").unlink(missing_ok=True)  # first: without it the folder is no longer believed
        shutil.rmtree(folder, ignore_errors=True)
