"""A Pillow plugin whose pictures do to their decoder what real broken files do, until someone mends the codec.

A file is `MAGIC` and one of the words of `DEEDS`; the format is registered through `DecodeConfig.plugins`, the seam users
have. Into a process that holds pyarrow, torch or ray it does not import: the decoder must be a clean interpreter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFile

MAGIC = b"NASTY-"


def _bloat() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


def _leak() -> None:
    _LEAKED.append(bytearray(40 << 20))


def _shout() -> None:
    for descriptor in (1, 2):
        for _ in range(64):
            try:
                os.write(descriptor, b"spam\n" * 20_000)
            except OSError:
                return


_LEAKED: list[bytearray] = []

DEEDS: dict[bytes, Callable[[], object]] = {
    b"KILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"SEGV": lambda: ctypes.string_at(0),
    b"EXIT": lambda: os._exit(3),
    b"QUIT": lambda: sys.exit("had enough"),
    b"STALL": lambda: time.sleep(3600),
    b"BLOAT": _bloat,
    b"LEAK": _leak,
    b"SHOUT": _shout,
    b"READ": lambda: os.read(0, 1),
    b"ENV": lambda: _deny("AWS_SECRET_ACCESS_KEY" in os.environ),
    b"FINE": lambda: None,
}


def _deny(condition: bool) -> None:
    if condition:
        raise ValueError("this should not be here")


class NastyFile(ImageFile.ImageFile):
    """8 × 6 pixels of grey, after the deed."""

    format = "NASTY"

    def _open(self) -> None:
        assert self.fp is not None
        self.fp.seek(len(MAGIC))
        self._word = self.fp.read()
        self._size, self._mode = (8, 6), "L"

    def load(self) -> Any:
        """Does the deed."""
        DEEDS[self._word]()
        self.im = Image.new("L", self.size, 128).im
        return Image.Image.load(self)


if "pytest" not in sys.modules:  # the tests import this file too, for its words
    _deny(any(heavy in sys.modules for heavy in ("pyarrow", "torch", "ray", "pandas")))
    Image.register_open("NASTY", NastyFile, lambda prefix: prefix.startswith(MAGIC))
