"""A Pillow plugin, named in `DecodeConfig.plugins`, for formats that kill, stall or bloat whoever opens them.

A file is one of the words below followed by anything. Real decoders fail like this too, but only until someone mends them.
"""

from __future__ import annotations

import os
import signal
import time

from PIL import Image, ImageFile

KILL, STALL, BLOAT = b"GEOBATCH-KILL", b"GEOBATCH-STALL", b"GEOBATCH-BLOAT"


class HostileFile(ImageFile.ImageFile):
    format = "HOSTILE"
    format_description = "kills, stalls or bloats its decoder"

    def _open(self) -> None:
        word = self.fp.read(len(STALL))
        if word.startswith(KILL):
            os.kill(os.getpid(), signal.SIGKILL)
        if word.startswith(STALL):
            time.sleep(3600)
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))


Image.register_open("HOSTILE", HostileFile, lambda prefix: prefix.startswith(b"GEOBATCH-"))
