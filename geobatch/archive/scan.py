"""Text files of any size read forwards: a line, or a JSON value, at a time.

A line or a value is taken out of a buffer that grows until it is whole and holds nothing more after it. The buffer doubles,
so that a value of any length is parsed twice at most, and gives up at `LONGEST`: a file without line ends, or one whose first
bracket never closes, costs 16 MiB and not the machine. Bytes that are no UTF-8 come through as lone surrogates, so that one
bad row spoils no other, and `encoded` gives them back as they were. A name that ends in `.gz` is of a gzipped file.

Python's own JSON decoder reads GeoText-1652's form at 151 MB/s so. A streaming parser with a core in C was twice as fast, and
ended the file at its first byte that is no UTF-8.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from typing import Any, BinaryIO, cast

from geobatch.store import ALONE, Store

#: Characters of a line or a value, at most.
LONGEST = 16 << 20

#: What a damaged file raises while it is read.
DAMAGE = (OSError, EOFError, zlib.error, ValueError)
#: That an object changed, is gone, forbidden or withheld ends it too.
GONE = ALONE

_CHUNK = 1 << 20
#: Characters that are looked at to tell a mapping from a file of objects.
_AHEAD = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def encoded(text: str) -> bytes:
    """The bytes that a text was read from; of one with surrogates of its own, bytes that are no UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def printable(text: str) -> str:
    """The text with what is no character written out."""
    return encoded(text).decode("utf-8", "backslashreplace")


class Scan:
    """One file, forwards.

    Args:
        store: reaches it.
        uri: of the file.
        etag: that it must have.
        chunk: bytes read at once, at least; fewer where only the begin is looked at.

    Raises:
        NotFound, Changed, Denied, Unreadable: as the store says; also while reading.
        OSError, EOFError, zlib.error: while reading, a gzipped file is damaged.
    """

    def __init__(self, store: Store, uri: str, etag: str | None = None, chunk: int = 0) -> None:
        self._source = store.stream(uri, if_match=etag)
        packed = uri.lower().endswith(".gz")
        self._file = cast(BinaryIO, gzip.GzipFile(fileobj=self._source) if packed else self._source)
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._begun, self._ended = "", 0, False, False
        self._error: Exception | None = None
        self._chunk = chunk or _CHUNK

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._source.close()  # gzip leaves what it reads from open

    def _more(self) -> bool:
        """Reads at least as much as is left in the buffer; False at the end. Damage is raised once all before it is used."""
        if self._error is not None:
            raise self._error
        if self._ended:
            return False
        rest = self._text[self._at :]
        pieces, missing = [], max(self._chunk, len(rest))
        while missing > 0:
            try:
                piece = self._file.read1(missing)  # type: ignore[attr-defined]
            except (*DAMAGE, *GONE) as error:
                self._error = error
                break
            self._ended = not piece
            if self._ended:
                break
            pieces.append(piece)
            missing -= len(piece)
        if self._error is not None and not pieces:
            raise self._error
        self._text, self._at = rest + self._decode.decode(b"".join(pieces), final=self._ended), 0
        if not self._begun:
            self._begun, self._text = True, self._text.removeprefix("\ufeff")
        return True

    def peek(self) -> str:
        """The next character that is no blank; nothing at the end."""
        while True:
            self._at = cast(re.Match[str], _SPACE.match(self._text, self._at)).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, expected: str) -> bool:
        """Passes over the next character that is no blank, if it is the expected one."""
        if self.peek() != expected:
            return False
        self._at += 1
        return True

    def line(self) -> str:
        """The next line with its end; nothing at the end.

        Raises:
            ValueError: a longer one than `LONGEST`.
        """
        while (end := self._text.find("\n", self._at)) < 0:
            if len(self._text) - self._at > LONGEST:
                raise ValueError(f"a line of more than {LONGEST >> 20} MiB")
            if not self._more():
                end = len(self._text) - 1
                break
        line, self._at = self._text[self._at : end + 1], end + 1
        return line

    def value(self) -> Any:
        """The next JSON value.

        Raises:
            ValueError: there is none, or a longer one than `LONGEST`.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # the number that the buffer ends with may go on
                    self._at = end
                    return value
            except ValueError as error:
                if len(self._text) - self._at > LONGEST or not self._more():
                    raise ValueError(f"no JSON at character {self._at} of what is left: {error}"[:200]) from error
            except RecursionError as error:
                raise ValueError("JSON nested too deep") from error

    def ahead(self) -> tuple[Any, bool]:
        """The next JSON value, which is not passed over, and whether another one begins in a line behind it.

        None of what is longer than `_AHEAD` or no JSON.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                blank = cast(re.Match[str], _SPACE.match(self._text, end))
                if blank.end() < len(self._text) or not self._more():
                    return value, "\n" in blank[0] and blank.end() < len(self._text)
            except ValueError:
                if len(self._text) - self._at > _AHEAD or not self._more():
                    return None, False
            except RecursionError:
                return None, False
