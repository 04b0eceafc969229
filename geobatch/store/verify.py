"""Whether fetched bytes are the bucket's: by the folder's own SHA256SUMS, by the etag, or by reading twice.

An etag is the MD5 of an object that was put in one request, and of one that was put in N parts the MD5 of their MD5s, "-N"
behind it. The size of the parts is nowhere said; the sizes that uploaders use and that give N parts are tried, which are one
to three. Under SSE-KMS an etag is no digest of anything. So an etag that fits proves the bytes; one that does not has them
fetched again, and bytes that arrive alike twice are taken (a network does not damage a file twice in the same way), the
length being right and TLS around both. That etags say nothing here is then remembered for the rest of the folder.

`SHA256SUMS` in a folder, as `sha256sum` writes it, is stronger than either: what it names must fit, or the folder is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from geobatch.errors import MachineError, UserError
from geobatch.store import Changed, NotFound, Store

#: The name of a folder's list of digests.
SUMS = "SHA256SUMS"

#: Mebibytes of a part, as clients choose them: rclone 5, AWS's CLI and boto3 8 (doubled for files above 80 GB), others.
_PARTS = (8, 16, 5, 32, 64, 10, 15, 20, 25, 50, 100, 128, 256, 512, 1024)

_CHUNK, _TIMES = 1 << 20, 3


class Piece(NamedTuple):
    """One file of a folder: its name relative to it, bytes, etag."""

    name: str
    size: int
    etag: str


def bring(store: Store, uri: str, piece: Piece, path: Path, wanted: str | None, trusted: set[str]) -> str:
    """Makes `path` hold the object's bytes; returns their SHA-256, hex. What is there already and right is kept.

    Args:
        store: reaches it.
        uri: of the object.
        piece: what the listing said.
        path: the file; it is on the disk when this returns.
        wanted: SHA-256 it must have, if somebody knows.
        trusted: kinds of etags ("md5", "parts") that are no digests in this folder; added to.

    Raises:
        UserError: the object has changed or gone since it was listed, or is not what its folder's digests say.
        MachineError: it arrived different each time.
    """
    kind = "parts" if "-" in piece.etag else "md5"
    if path.exists():
        digest, fits = _judged(path, piece, wanted)
        if fits:
            return digest
        path.unlink()
    seen: set[str] = set()
    for _ in range(_TIMES):
        digest, md5 = _streamed(store, uri, piece, path)
        if wanted is not None:
            if digest == wanted:
                return digest
            if digest in seen:
                raise UserError(f"{uri} is not what {SUMS} beside it says; upload both again")
        elif kind in trusted or _etag_fits(path, piece, md5):
            return digest
        elif digest in seen:
            trusted.add(kind)
            return digest
        seen.add(digest)
    raise MachineError(f"{uri} arrived different {_TIMES} times; check the network and the store, then run again")


def same_bytes(path: Path, digest: str) -> bool:
    """Whether a file has that SHA-256; a file that cannot be read has not."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def parse_sums(text: str, name: str) -> dict[str, str]:
    """SHA-256 by file name, of a text as `sha256sum` writes it: digest, blank, blank or asterisk, name.

    Raises:
        UserError: a line is something else, or a name has two digests.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        said = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?", line)
        if said is None:
            raise UserError(f"line {number} of {name} is no digest and name; write it with sha256sum")
        if found.setdefault(said[2], said[1].lower()) != said[1].lower():
            raise UserError(f"{name} gives {said[2]} two digests; write it again with sha256sum")
    return found


def multipart(path: Path, etag: str) -> bool:
    """Whether a multipart etag is of the file's bytes, for some usual size of part."""
    digest, _, said = etag.partition("-")
    size, count = path.stat().st_size, int(said) if said.isdigit() else 0
    for part in (mebibytes << 20 for mebibytes in _PARTS):
        if count < 1 or max(1, -(-size // part)) != count:
            continue
        total = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            for _ in range(count):
                total.update(_md5_of(file, part))
        if total.hexdigest() == digest:
            return True
    return False


def _md5_of(file: BinaryIO, length: int) -> bytes:
    whole = hashlib.md5(usedforsecurity=False)
    while length > 0 and (data := file.read(min(length, _CHUNK))):
        whole.update(data)
        length -= len(data)
    return whole.digest()


def _judged(path: Path, piece: Piece, wanted: str | None) -> tuple[str, bool]:
    """A file's SHA-256, and whether it is known to be right."""
    if path.stat().st_size != piece.size:
        return "", False
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            sha.update(data)
            md5.update(data)
    digest = sha.hexdigest()
    return digest, digest == wanted if wanted is not None else _etag_fits(path, piece, md5.hexdigest())


def _etag_fits(path: Path, piece: Piece, md5: str) -> bool:
    return multipart(path, piece.etag) if "-" in piece.etag else md5 == piece.etag


def _streamed(store: Store, uri: str, piece: Piece, path: Path) -> tuple[str, str]:
    """Writes the object to the disk; its SHA-256 and MD5."""
    sha, md5, length = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        with store.stream(uri, if_match=piece.etag) as body, path.open("wb") as file:
            while data := body.read(_CHUNK):
                sha.update(data)
                md5.update(data)
                length += file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except (Changed, NotFound) as error:
        raise UserError(f"{uri} changed while it was fetched; start the run again") from error
    except OSError as error:
        raise MachineError(f"{path} cannot be written ({error.strerror}); free its disk, or name another with GEOBATCH_CACHE"
                           ) from error  # fmt: skip
    if length != piece.size:
        raise MachineError(f"{uri} gave {length} of {piece.size} bytes; run again")
    return sha.hexdigest(), md5.hexdigest()
