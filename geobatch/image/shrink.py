"""Any Pillow image to RGB of at most a given size, holding no second whole image beside it.

Averaging in boxes first and a Lanczos filter for the last factor of two to four is what Pillow calls a reducing gap: the
filter alone would read 81 source pixels and more for each of its own. The boxes lie in bands, and each band is
turned to RGB by itself, since Pillow converts only whole images and would hold both: 300 megapixels of RGBA take 1.25 GiB
at their peak, all but 0.1 of it the codec's. Profiles are not asked (see the package).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from geobatch.errors import Rejection

#: Averaging in boxes stops at this many times the wanted size.
GAP = 2

#: Pixels that are turned to RGB at a time.
BAND = 4 << 20

#: What transparent pixels lie on.
WHITE = (255, 255, 255)

_OPAQUE = ("1", "L", "P", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

ToRGB = Callable[[Image.Image], Image.Image]


def shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`image` as RGB, resampled to `size` (width, height), which is not larger than the image.

    Raises:
        Rejection: "unsupported" where the mode has no way to RGB.
    """
    convert = _converter(image)
    if size == image.size:
        return convert(image)
    factor = max(1, int(min(image.width / size[0], image.height / size[1]) / GAP))
    if image.width * image.height <= BAND or (image.mode == "RGB" and not image.has_transparency_data):
        whole = convert(image)
        reduced = whole.reduce(factor) if factor > 1 else whole
    else:
        reduced = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
        for top, band in _bands(image, factor):
            part = convert(band)
            reduced.paste(part.reduce(factor) if factor > 1 else part, (0, top // factor))
    # The last box of a row or column may hold fewer pixels: the filter must not take it for a whole one.
    box = (0.0, 0.0, image.width / factor, image.height / factor)
    return reduced.resize(size, Image.Resampling.LANCZOS, box)


def _bands(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, BAND // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image) -> ToRGB:
    mode = image.mode
    if mode in ("P", "PA") and image.palette is None:
        raise Rejection("broken", "indexed colour without a palette")
    if mode.startswith("I;16"):
        return _from_16_bit
    if mode in ("I", "F"):
        return _stretching(image)
    if mode in _ALPHA or (mode in (*_OPAQUE, "RGB") and image.has_transparency_data):
        return _on_white
    if mode == "RGB":
        return lambda band: band
    if mode in _OPAQUE:
        return lambda band: band.convert("RGB")
    if mode == "LAB":
        return _from_lab()
    raise Rejection("unsupported", f"pixels of mode {mode}")


def _on_white(band: Image.Image) -> Image.Image:
    if band.mode in _PREMULTIPLIED:
        band = band.convert(_PREMULTIPLIED[band.mode])
    band = band.convert("RGBA")
    page = Image.new("RGB", band.size, WHITE)
    page.paste(band, mask=band)
    return page


def _from_16_bit(band: Image.Image) -> Image.Image:
    high = (np.asarray(band) >> 8).astype(np.uint8)
    return Image.fromarray(high).convert("RGB")


def _stretching(image: Image.Image) -> ToRGB:
    """Finite samples of `image` from their least to their greatest, over 0..255; the others are 0."""
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        low, high = 0.0, 65535.0  # these two keep 16-bit samples in 32 bits
    else:
        low, high = _range(image)
    scale = 255.0 / (high - low) if high > low else 0.0

    def convert(band: Image.Image) -> Image.Image:
        samples = np.asarray(band).astype(np.float64)
        samples = np.where(np.isfinite(samples), (samples - low) * scale, 0.0)
        return Image.fromarray((samples.clip(0, 255) + 0.5).astype(np.uint8)).convert("RGB")

    return convert


def _range(image: Image.Image) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for _, band in _bands(image, 1):
        samples = np.asarray(band)
        samples = samples[np.isfinite(samples)]
        if samples.size:
            low, high = min(low, float(samples.min())), max(high, float(samples.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _from_lab() -> ToRGB:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, rgb, "LAB", "RGB")

    def convert(band: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(band, transform)
        assert converted is not None  # it is None only for a transform in place
        return converted

    return convert
