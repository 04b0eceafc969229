"""One image: identify, bound, decode at reduced scale, turn upright.

- Only the formats of `FORMATS` and of plugins are tried: Pillow knows forty more, among them EPS, which starts Ghostscript.
- A large JPEG is decoded at 1/2, 1/4 or 1/8 by the codec, which then does a smaller inverse transform for each block.
  With eight times and a little more left, as from 12 megapixels to 336 pixels, that is 3 to 5 × faster than a full decode,
  and the least cosine between MobileNet's embeddings of both pictures of real photographs was 0.9987.
- Of an animation or a multi-page file the first frame counts.
- Transparent pixels lie on white, as on the page of most viewers, and are composited before anything is averaged.
- 16-bit samples lose their low byte, as Pillow has it for 16-bit colour. 32-bit and floating-point samples have no white
  of their own: their finite range is stretched over 0..255.

Errors: always `Rejection`. Decoders raise two dozen types of exception on broken data, so every type is taken for the
data's fault here; what is the machine's fault never shows as an exception of a decoder in a process of its own.
"""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Mapping
from typing import Any

import pillow_heif
from PIL import AvifImagePlugin, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from geobatch.errors import Rejection
from geobatch.image import exif
from geobatch.image.config import DecodeConfig, fit
from geobatch.image.frames import Picture
from geobatch.image.shrink import shrunk

#: Pillow's names of what is decoded, the likeliest first; MPO comes as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM")

#: The codec of a JPEG leaves at least this many times the picture's size, so that the last filter has something to do.
DRAFT = 1.0

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: How files of `FORMATS` begin: one that does and yet opens as none of them is broken, not foreign.
_OURS = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II[*+]\0|MM\0[*+]|GIF8[79]a|BM|\xff\x4f\xff\x51|\0\0\0\x0cjP  |P[1-6][\s#]"
    rb"|....ftyp(?:avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)",
    re.DOTALL,
)

#: How images begin that nothing here reads: PostScript, PSD, icons, DDS, BLP, SGI, EXR, Radiance, PCX, WMF, XCF, JPEG XL,
#: JPEG XR, BPG, QOI, SVG, PAM, camera raws that are no TIFF.
_FOREIGN = re.compile(
    rb"%!PS|\xc5\xd0\xd3\xc6|8BPS|icns|\0\0[\x01\x02]\0|DDS |BLP[12]|\x01\xda[\0\x01]|v/1\x01|#\?R|\x0a[\0-\x05]\x01"
    rb"|\xd7\xcd\xc6\x9a|gimp xcf|\xff\x0a|\0\0\0\x0cJXL |II\xbc\x01|BPG\xfb|qoif|\s*<(?:\?xml[^>]*>\s*<)?svg|FUJIFILMCCD"
    rb"|IIU\0|P7\s|....ftypcrx ",
    re.DOTALL,
)

#: What formats say of a whole header of a kind that they do not read, where they have not looked a TIFF's pixels or compression
#: up in vain. No cut of a sound file made any of them say so.
_UNREAD = re.compile(r"unsupported|cannot handle \d+-(?:bit|layer)|samples per pixel|unable to determine J2K image mode", re.I)

#: What a PNG's inflated profile or text, and all its texts, may be of the decoder's memory. Pillow's own bound of 1 MiB rejects
#: sound pictures that carry the profile of a printer, or XMP as ImageMagick writes it.
_TEXT, _TEXTS = 1 / 32, 1 / 16

Tags = Mapping[int, Any]


class Decoder:
    """Pillow, set up once for a process.

    Args:
        config: limits, and the plugins to import.

    Raises:
        Exception: whatever the import of a plugin raises.
    """

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        # One CPU is what Ray gives an actor, and each thread of a codec costs address space of the limit.
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        self._formats: tuple[str, ...] = FORMATS
        if config.plugins:
            Image.init()
            before = set(Image.ID)
            for plugin in config.plugins:
                importlib.import_module(plugin)
            self._formats += tuple(name for name in Image.ID if name not in before)

    def decode(self, data: bytes) -> Picture:
        """The picture of one encoded image.

        Raises:
            Rejection: "not_an_image", "unsupported", "broken", "too_many_pixels" or "out_of_memory".
        """
        try:
            with self._open(data) as image:
                return self._read(image)
        except Rejection:
            raise
        except MemoryError as error:
            raise Rejection("out_of_memory", "its decoder met the limit") from error
        except Exception as error:
            raise _rejection(error) from error

    def _open(self, data: bytes) -> Image.Image:
        # Pillow raises at twice this, also for frames and tiles that only show while loading.
        Image.MAX_IMAGE_PIXELS = max(1, self._config.max_pixels // 2)
        PngImagePlugin.MAX_TEXT_CHUNK = int(_TEXT * self._config.memory_bytes)
        PngImagePlugin.MAX_TEXT_MEMORY = int(_TEXTS * self._config.memory_bytes)
        try:
            return Image.open(io.BytesIO(data), formats=self._formats)
        except UnidentifiedImageError as error:
            if _OURS.match(data):
                if words := self._unread(data):
                    raise Rejection("unsupported", words) from error
                raise Rejection("broken", "begins as a known format, but has no valid header") from error
            if _FOREIGN.match(data):
                raise Rejection("unsupported", f"none of {', '.join(self._formats)}") from error
            raise Rejection("not_an_image", f"begins with {data[:8].hex(' ')}") from error

    def _unread(self, data: bytes) -> str | None:
        """What a format says of a header that it knows and does not read; `Image.open` keeps that to itself."""
        for name in self._formats:
            factory, accepts = Image.OPEN[name]
            if accepts is None or not accepts(data[:16]):
                continue
            try:
                factory(io.BytesIO(data), "")
            except SyntaxError as error:
                words, cause = str(error), error.__cause__
                if isinstance(cause, KeyError) and cause.args != (TiffImagePlugin.COLORMAP,):
                    return f"{name}: unknown compression {words}" if words.isdigit() else f"{name}: {words}"
                if _UNREAD.search(words):
                    return f"{name}: {words}"
            except Exception:  # noqa: BLE001  it says nothing of a kind that it does not read
                continue
        return None

    def _read(self, image: Image.Image) -> Picture:
        config, size = self._config, image.size
        if math.prod(size) > config.max_pixels:
            raise Rejection("too_many_pixels", f"{size[0]} × {size[1]}")
        if image.format in ("JPEG", "MPO"):
            small = fit(*size, config.side)
            image.draft(None, (math.ceil(small[0] * DRAFT), math.ceil(small[1] * DRAFT)))
            image.load()
        else:
            image.load()
            size = image.size  # a TIFF turns itself upright while loading
        tags = _tags(image)
        orientation = _value(tags, _ORIENTATION)
        picture = shrunk(image, fit(*size, config.side))
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
            size = size[::-1] if orientation >= 5 else size
        gps = _directory(tags, exif.GPS_IFD) if config.exif else {}
        camera = _directory(tags, exif.EXIF_IFD) if config.exif else {}
        latitude, longitude = exif.position(gps)
        return Picture(
            width=size[0],
            height=size[1],
            picture_width=picture.width,
            picture_height=picture.height,
            latitude=latitude,
            longitude=longitude,
            time=exif.capture_time(camera, gps),
            pixels=picture.tobytes(),
        )


def _rejection(error: Exception) -> Rejection:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, Image.DecompressionBombError):
        return Rejection("too_many_pixels", words)
    if "memory" in words.lower():  # codecs that ran into the limit say so in words
        return Rejection("out_of_memory", words)
    if isinstance(error, NotImplementedError) or "unsupported" in words.lower():
        return Rejection("unsupported", words)
    return Rejection("broken", words)


def _tags(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # noqa: BLE001  a broken EXIF block is an absent one
        return Image.Exif()


def _value(tags: Image.Exif, tag: int) -> Any:
    try:
        return tags.get(tag)
    except Exception:  # noqa: BLE001  the value is decoded only now
        return None


def _directory(tags: Image.Exif, offset_tag: int) -> Tags:
    try:
        return tags.get_ifd(offset_tag)
    except Exception:  # noqa: BLE001  the directory is read only now
        return {}
