"""How images become pictures.

Apart from `geobatch.image.decode`, because the child process reads it too and must not import pyarrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geobatch.errors import UserError

#: The longer side of a picture is at most this many times `DecodeConfig.side`, so that a 1 × 60,000 strip stays small.
LONGEST = 4


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Limits and settings of `geobatch.image.decode.Decode`."""

    side: int = 336
    """Pixels of the picture's shorter side; larger images are scaled down to it, smaller ones are left as they are."""

    max_pixels: int = 300_000_000
    """Images of more pixels than this, by their header, are rejected before decoding."""

    deadline_s: float = 20.0
    """Seconds one picture may take before its decoder is killed and the image rejected."""

    memory_bytes: int = 2 << 30
    """Address space, in bytes, of each decoder process; an image that needs more is rejected."""

    exif: bool = True
    """Record the coordinates and the capture time that the image's EXIF states."""

    plugins: tuple[str, ...] = ()
    """Modules imported in the decoder process, each to register further Pillow formats."""

    def __post_init__(self) -> None:
        for name, least in (("side", 1), ("max_pixels", 1), ("deadline_s", 0.001), ("memory_bytes", 256 << 20)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name} is {getattr(self, name)}; give at least {least}")

    def decides(self) -> dict[str, Any]:
        """What of it decides a row that has a place. Limits decide only which images are rejected: a standing table takes
        others, and what was rejected by the old ones may be tried again.
        """
        return {"side": self.side, "exif": self.exif, "plugins": list(self.plugins)}


def fit(width: int, height: int, side: int) -> tuple[int, int]:
    """Size in pixels of the picture of a `width` × `height` image: never larger than the image, at least 1 × 1."""
    scale = min(1.0, side / min(width, height), LONGEST * side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
