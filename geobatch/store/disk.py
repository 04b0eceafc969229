"""The local disk as a store.

An etag here is size and modification time in nanoseconds: two writes of equal length within one tick of the file system's
clock would look alike. Writes go to a hidden file beside the target, reach the disk (fsync), and then take its name in one
step (`rename`, or `link` where nobody may be overwritten), so that a killed writer leaves at most a hidden file, which
listings pass over.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import UserError
from geobatch.store.config import StoreConfig
from geobatch.store.faults import Changed, Denied, NotFound, Unreadable
from geobatch.store.s3 import Tagged
from geobatch.store.stream import Stream
from geobatch.store.uri import Object, Place

#: How the files begin that are not finished yet.
UNFINISHED = ".geobatch-"

_PAGE = 1000

#: What says that no file is there: a link that leads to itself, and a name longer than any file's, among it.
_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}

#: What a write meets that is the disk's fault, and nothing about the place: full, over its quota, broken.
_SICK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def home() -> Path:
    """Where what can be made or fetched again is kept on this machine: `GEOBATCH_CACHE`, else ~/.cache/geobatch."""
    return Path(os.environ.get("GEOBATCH_CACHE") or Path.home() / ".cache" / "geobatch")


def judge(error: Exception, uri: str) -> Exception | None:
    """The error to raise for what the operating system said about `uri`, which is never asked twice; None where it said nothing
    and reading was but slow (`Stream`).
    """
    if isinstance(error, TimeoutError) and error.errno is None:
        return None
    if isinstance(error, OSError) and error.errno in _NOWHERE:
        return NotFound(f"{uri} does not exist")
    if isinstance(error, PermissionError):
        return Denied(f"{uri} may not be touched ({error.strerror}); change its permissions or the user")
    if isinstance(error, OSError):
        return Unreadable(f"{uri}: {error.strerror or error}; check the disk")
    return error


def _etag(found: os.stat_result) -> str:
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


class _Open:
    """An open file that answers a `Stream`."""

    def __init__(self, place: Place, start: int, if_match: str | None) -> None:
        try:
            self._file = Path(place.key).open("rb", buffering=0)  # noqa: SIM115 — closed by `close`
        except OSError as error:
            raise judge(error, place.uri) or error from error
        found = os.fstat(self._file.fileno())
        self.etag, self.size = _etag(found), found.st_size
        if if_match is not None and if_match != self.etag:
            self._file.close()
            raise Changed(f"{place.uri} is no longer what it was")
        self._file.seek(start)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def changed(self) -> bool:
        return _etag(os.fstat(self._file.fileno())) != self.etag

    def close(self) -> None:
        self._file.close()


class Disk:
    """The local side of `Store`; every method takes a `Place` without a bucket."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config

    def objects(self, place: Place, after: str | None = None) -> Iterator[list[Object]]:
        """Pages of at most 1000 files below the folder, in the order of their paths' bytes; symbolic links are followed.

        Args:
            place: the folder.
            after: path behind which to begin; the files before it are walked over.
        """
        page: list[Object] = []
        begin = None if after is None else f"file://{after}".encode()
        for found in _walk(place.key.rstrip("/"), ()):
            if begin is not None and found.uri.encode() <= begin:
                continue
            page.append(found)
            if len(page) == _PAGE:
                yield page
                page = []
        yield page

    def head(self, place: Place) -> Object | None:
        """Size and etag, or None if no file is there."""
        try:
            found = Path(place.key).stat()
        except OSError as error:
            final = judge(error, place.uri)
            if isinstance(final, NotFound):
                return None
            raise final or error from error
        return Object(place.uri, found.st_size, _etag(found)) if stat.S_ISREG(found.st_mode) else None

    def get(self, place: Place, start: int | None, end: int | None, if_match: str | None) -> Tagged:
        """The bytes from `start` to `end` (exclusive), and the file's etag."""
        body = _Open(place, start or 0, if_match)
        try:
            wanted = max(0, min(body.size, body.size if end is None else end) - (start or 0))
            pieces, got = [], 0
            while got < wanted and (data := body.read(wanted - got)):
                pieces.append(data)
                got += len(data)
            if got < wanted or body.changed():
                raise Changed(f"{place.uri} was written while it was read")
        except OSError as error:
            raise judge(error, place.uri) or error from error
        finally:
            body.close()
        return Tagged(pieces[0] if len(pieces) == 1 else b"".join(pieces), body.etag)

    def stream(self, place: Place, start: int, if_match: str | None) -> Stream:
        """The file from `start` on."""
        return Stream(
            place.uri,
            self._config,
            lambda position, etag: _Open(place, position, etag),
            judge,
            start=start,
            if_match=if_match,
        )

    def put(self, place: Place, data: bytes) -> None:
        """Writes the file, whole or not at all."""
        written = _written(place, data)
        try:
            written.replace(place.key)
        except OSError as error:
            written.unlink()
            raise judge(error, place.uri) or error from error

    def put_if_absent(self, place: Place, data: bytes) -> bool:
        """Writes the file if none is there; whether it is ours."""
        if Path(place.key).exists():
            return False
        written = _written(place, data)
        try:
            os.link(written, place.key)
        except FileExistsError:
            return False
        except OSError as error:
            raise judge(error, place.uri) or error from error
        finally:
            written.unlink()
        return True

    def delete(self, place: Place) -> None:
        """Removes the file; one that is not there is no error."""
        try:
            Path(place.key).unlink(missing_ok=True)
        except OSError as error:
            raise judge(error, place.uri) or error from error


def _written(place: Place, data: bytes) -> Path:
    """A hidden file with `data`, beside the place, on the disk."""
    path, name = Path(place.key), ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)  # a disk that is full needs what it has
        if error.errno in _SICK:
            raise Unreadable(
                f"{place.uri} cannot be written ({error.strerror}); free or mend the disk, then run again"
            ) from error
        raise Denied(f"{place.uri} cannot be written ({error.strerror}); choose another output") from error
    return Path(name)


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Object]:
    """Files below a folder in the order of their paths' bytes; names of the folders on the way stay in memory, as Arrow."""
    try:
        here = Path(folder or "/").stat()
        names = _sorted_names(folder)
    except OSError as error:
        if error.errno in _NOWHERE:
            return
        raise judge(error, f"file://{folder}") or error from error
    above = (*above, (here.st_dev, here.st_ino))
    for batch in names:
        for name in batch.to_pylist():
            path = f"{folder}/{name}"
            found = _entry(path)
            if found is None:
                continue
            if name.endswith("/"):
                if (found.st_dev, found.st_ino) not in above:  # a link to a folder above would never end
                    yield from _walk(path[:-1], above)
            elif stat.S_ISREG(found.st_mode):
                yield Object(f"file://{path}", found.st_size, _etag(found))


def _entry(path: str) -> os.stat_result | None:
    """What stands at a name that a folder had; None: nothing any more, or a link to nowhere or where this user may not look."""
    try:
        return Path(path).stat()
    except OSError as error:
        # Not so a folder that may not be listed, or whose files may not be looked at: what it holds would pass for deleted.
        if error.errno in _NOWHERE or (error.errno == errno.EACCES and os.path.islink(path)):  # noqa: PTH114 — never raises
            return None
        raise judge(error, f"file://{path}") or error from error


def _sorted_names(folder: str) -> Iterator[pa.Array]:
    """The names in a folder, folders with a slash behind, sorted by their bytes, in batches."""
    chunks, names = [], []
    with os.scandir(folder or "/") as entries:
        for entry in entries:
            if entry.name.startswith(UNFINISHED):
                continue
            names.append(entry.name + "/" if _is_folder(entry) else entry.name)
            if len(names) == 50_000:
                chunks.append(_encoded(folder, names))
                names = []
    chunks.append(_encoded(folder, names))
    everything = pa.chunked_array(chunks)
    order = pc.sort_indices(everything)
    return (everything.take(order[start : start + _PAGE]) for start in range(0, len(order), _PAGE))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link's; `_entry` meets the same and judges it
        return False


def _encoded(folder: str, names: list[str]) -> pa.Array:
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError:
        odd = next(name for name in names if not name.isprintable() and name.encode("utf-8", "replace").decode() != name)
        raise UserError(
            f"a name in {folder} is no UTF-8 ({odd.encode('utf-8', 'backslashreplace').decode()}); rename it"
        ) from None
