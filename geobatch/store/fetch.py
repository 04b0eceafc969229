"""Folders of a bucket on this machine's disk: fetched once a node, verified, shared by all its processes.

A model or a gallery in S3 travels to a stage as a `Remote`: where it is and the digest of what it held when the run began.
`Remote.here()` answers with a folder on this node, below `GEOBATCH_CACHE`:

    folders/DIGEST/           the files
    folders/DIGEST.json       the record: size, etag, SHA-256 and mtime of each; without it the folder counts as unfinished
    folders/DIGEST.lock       held by whoever fetches
    folders/DIGEST.use        held, shared, by every process that asked, for as long as it lives: what is in use is not removed
    folders/.geobatch-DIGEST  what is being fetched; what a killed process left in it is verified and kept

The record is written last, after files are on the disk and the folder has its name, so a folder that was fetched in part is
never used. Each call compares sizes and times with the record (microseconds a file), and all bytes with their SHA-256 where
that was last done more than a week ago; a file that differs is fetched again, beside the folder, which is then exchanged.
The locks are the kernel's (`flock`): they end with their process, however it dies.

A folder that has changed in the bucket since the run began is refused: half of the night's rows would be another model's.

`outline` is the folder without its large files, for a driver that only reads settings and tokens of what its nodes will load.

Not covered: a cache on a network file system whose `flock` does not reach other machines. It would fetch more than once; what
it uses is whole all the same, since every step is one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from geobatch.errors import MachineError, UserError
from geobatch.store import NotFound, Store, StoreConfig
from geobatch.store.disk import UNFINISHED, home
from geobatch.store.room import make_room
from geobatch.store.verify import SUMS, Piece, bring, parse_sums, same_bytes

#: Bytes above which a file is no part of an outline: tokenizers and settings are below, weights above.
LARGE = 64 << 20

#: Seconds after which the bytes of a fetched folder are compared with their digests again.
WEEK = 7 * 86400.0

#: Files fetched at a time: one S3 connection gives 50 to 100 MB/s, a node's network ten times that.
_AT_ONCE = 8

#: Seconds that a process waits for another that fetches; 55 GB take ten minutes at 100 MB/s.
_PATIENCE = 3600.0


@dataclass(frozen=True)
class Remote:
    """A folder of a bucket, or a path in it, as it was at one moment.

    Args:
        uri: s3:// prefix of the folder.
        digest: of the names, sizes and etags below it.
        store: reaches it.
        below: path inside it; empty: the folder itself.
        reduced: whether this is the outline.
    """

    uri: str
    digest: str
    store: StoreConfig
    below: str = ""
    reduced: bool = False

    @classmethod
    def of(cls, store: Store, uri: str) -> Remote | None:
        """The folder as it is now, from its listing alone; None where nothing is there."""
        pieces = listed(store, uri)
        return cls(uri.rstrip("/"), digest_of(pieces), store.config) if pieces else None

    def here(self) -> str:
        """The path on this node, fetched if need be; it stays while this process lives.

        Raises:
            UserError: the folder has changed, its digests do not fit it, or this disk is too small.
            MachineError: the store keeps failing, or whoever else fetches it does not end.
        """
        folder = folders() / self._name
        _hold(folder)
        if not _whole(folder):
            with _locked(folder):
                if not _whole(folder):
                    _fetch(self, folder)
        _told(self, folder)
        return str(folder / self.below) if self.below else str(folder)

    def outline(self) -> str:
        """The path on this node if it is fetched, else that of its outline; errors as `here`."""
        whole = folders() / self.digest
        if _whole(whole):
            return Remote(self.uri, self.digest, self.store, self.below).here()
        return Remote(self.uri, self.digest, self.store, self.below, reduced=True).here()

    @property
    def _name(self) -> str:
        return f"{self.digest}-outline" if self.reduced else self.digest


def folders() -> Path:
    """Where fetched folders lie on this machine."""
    return home() / "folders"


def listed(store: Store, uri: str) -> list[Piece]:
    """What lies below a folder of a bucket, by name.

    Raises:
        UserError: a name would leave the folder, or is that of a file and of a folder.
    """
    top = uri.rstrip("/") + "/"
    found = []
    for page in store.objects(top):
        for item in page:
            name = item.uri[len(top) :]
            if not name or name.endswith("/"):  # what consoles put into a bucket to show a folder
                continue
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise UserError(f"{item.uri} would leave its folder; rename that object")
            found.append(Piece(name, item.size, item.etag))
    inside = {parent.as_posix() for piece in found for parent in PurePosixPath(piece.name).parents}
    for piece in found:
        if piece.name in inside:
            raise UserError(f"{top}{piece.name} is an object and a folder; rename one of both")
    return sorted(found)


def digest_of(pieces: list[Piece]) -> str:
    """20 hex digits over names, sizes and etags."""
    return hashlib.sha256(json.dumps([list(piece) for piece in sorted(pieces)]).encode()).hexdigest()[:20]


def remote_of(path: str | Path) -> Remote | None:
    """What a path below this machine's fetched folders stands for on another; None for any other path."""
    try:
        name, *inside = Path(path).relative_to(folders()).parts
        about = json.loads(_record(folders() / name).read_text())
    except (ValueError, OSError):
        return None
    known = {each.name for each in fields(StoreConfig)}  # another release may have written it
    store = StoreConfig(**{name: value for name, value in about["store"].items() if name in known})
    return Remote(about["uri"], about["digest"], store, "/".join(inside))


def absent(folder: Path) -> list[Piece]:
    """The files that an outline leaves out; none of any other folder."""
    try:
        about = json.loads(_record(folder).read_text())
    except (ValueError, OSError):
        return []
    return [Piece(*each) for each in about["absent"]]


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _hold(folder: Path) -> None:
    """Marks the folder as in use until this process ends, which closes the descriptor."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.with_name(f"{folder.name}.use"), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The right to fetch the folder."""
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise MachineError(f"another process has been fetching {folder} for an hour; stop it, run again") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _whole(folder: Path) -> bool:
    """Whether the folder is what its record says; looks at the bytes themselves once a week."""
    record = _record(folder)
    try:
        about = json.loads(record.read_text())
        stats = {name: (folder / name).stat() for name in about["files"]}
    except (OSError, ValueError, KeyError):
        return False
    if any([found.st_size, found.st_mtime_ns] != about["files"][name][:2] for name, found in stats.items()):
        return False
    if time.time() - about["verified"] < WEEK:
        return True
    if any(not same_bytes(folder / name, each[2]) for name, each in about["files"].items()):
        return False  # the record stays: others read it, and it is looked at as closely until a new one replaces it
    _write(record, {**about, "verified": time.time()})
    return True


def _told(remote: Remote, folder: Path) -> None:
    """Marks the record as used, and has it say where this run finds the folder: other nodes will be told by it."""
    about, own = json.loads(_record(folder).read_text()), {"uri": remote.uri, "store": asdict(remote.store)}
    if {**about, **own} == about:
        os.utime(_record(folder))
        return
    with _locked(folder):
        _write(_record(folder), {**json.loads(_record(folder).read_text()), **own})


def _fetch(remote: Remote, folder: Path) -> None:
    """Makes the folder, beside and then in one rename; what is whole of an earlier attempt is kept."""
    store = Store(remote.store)
    everything = listed(store, remote.uri)
    if digest_of(everything) != remote.digest:
        raise UserError(f"{remote.uri} changed while the run was going on; let whoever writes it end, then start the run again")
    pieces = [piece for piece in everything if not remote.reduced or piece.size <= LARGE]
    scratch = folder.with_name(f"{UNFINISHED}{folder.name}")
    scratch.mkdir(parents=True, exist_ok=True)
    _sweep(scratch, {piece.name for piece in pieces})
    there = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    make_room(folder, sum(piece.size for piece in pieces) - there)
    sums = _sums(store, remote.uri, pieces)
    files = _brought(store, remote.uri, pieces, sums, scratch, folder)
    old = folder.with_name(f"{UNFINISHED}{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    scratch.rename(folder)
    left = [list(piece) for piece in everything if piece.name not in files]
    about = {"uri": remote.uri, "digest": remote.digest, "store": asdict(remote.store), "verified": time.time()}
    _write(_record(folder), {**about, "files": files, "absent": left})
    shutil.rmtree(old, ignore_errors=True)


def _brought(
    store: Store, uri: str, pieces: list[Piece], sums: dict[str, str], scratch: Path, folder: Path
) -> dict[str, list[Any]]:
    """Fills the scratch folder; returns size, mtime in nanoseconds and SHA-256 by name.

    The smallest file comes first and alone: it tells whether etags here are digests at all (`verify.bring`).
    """
    trusted: set[str] = set()

    def one(piece: Piece) -> tuple[str, list[Any]]:
        path, wanted = scratch / piece.name, sums.get(piece.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = folder / piece.name  # of a folder one of whose files is damaged
        if not path.exists() and kept.is_file():
            os.link(kept, path)
        digest = bring(store, f"{uri}/{piece.name}", piece, path, wanted, trusted)
        found = path.stat()
        return piece.name, [found.st_size, found.st_mtime_ns, digest]

    first, rest = (ordered := sorted(pieces, key=lambda piece: piece.size))[:1], ordered[1:]
    done = dict(map(one, first))
    with ThreadPoolExecutor(min(_AT_ONCE, store.config.in_flight), "fetch") as pool:
        done.update(pool.map(one, reversed(rest)))
    return done


def _sums(store: Store, uri: str, pieces: list[Piece]) -> dict[str, str]:
    """What the folder says of its own bytes, if it does."""
    if SUMS not in {piece.name for piece in pieces}:
        return {}
    try:
        return parse_sums(store.get(f"{uri}/{SUMS}").decode("utf-8", "replace"), f"{uri}/{SUMS}")
    except NotFound as error:
        raise UserError(f"{uri} changed while it was fetched; start the run again") from error


def _sweep(scratch: Path, wanted: set[str]) -> None:
    """Removes from what an earlier attempt left all that is not wanted."""
    for path in sorted(scratch.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(scratch).as_posix() not in wanted:
            path.unlink()


def _write(path: Path, about: dict[str, Any]) -> None:
    fresh = path.with_name(f"{UNFINISHED}{path.name}-{os.getpid()}")
    with fresh.open("w") as file:
        file.write(json.dumps(about))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
