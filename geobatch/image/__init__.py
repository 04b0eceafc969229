"""Bytes to picture, in a process that may die.

Nine in ten photographs of an archive are honest JPEGs, and one in a million is a file that makes some codec loop, eat the
machine or crash. A batch job over ten million images meets a dozen of those, so no codec ever runs in a Ray worker here:

    decode    the stage: an Arrow table of IMAGE in, of PICTURE out
    sandbox   one decoder process at a time, and the verdict when it dies
    process   the parent's hold on it: a full pipe, a deadline
    frames    what the two sides say to each other over plain pipes
    child     the child's side: a clean interpreter with Pillow, numpy and pillow_heif, and a ceiling on its memory
    picture   one image: identify, bound, decode at reduced scale, turn upright
    shrink    any mode to RGB of a given size, in bands
    exif      where and when the camera says it was; never raises
    config    every setting

`Decode` and `DecodeConfig` are imported from here on first use: the child imports this package too and must not meet
pyarrow on its way.

What this does not cover: the sandbox bounds time, memory and blast radius, it is no jail. Code that a codec is tricked
into running has the rights of the worker's user (though not its environment variables). ICC profiles are not applied, nor
does CLIP's own preprocessing: Display P3, Adobe RGB and ProPhoto are taken for sRGB and come out less saturated, and CMYK turns
to RGB by the plain formula.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geobatch.image.config import DecodeConfig
    from geobatch.image.decode import Decode

__all__ = ["Decode", "DecodeConfig"]

_HOMES = {"Decode": "geobatch.image.decode", "DecodeConfig": "geobatch.image.config"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
