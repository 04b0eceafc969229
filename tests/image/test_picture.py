"""One image at a time, in this process: formats, modes, orientation, scale, limits."""

from __future__ import annotations

import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from geobatch.errors import Rejection
from geobatch.image.config import DecodeConfig
from geobatch.image.picture import Decoder
from tests.image.made import Pixels, blocks, encoded, off, pixels_of, waves

DECODER = Decoder(DecodeConfig())


def decoded(data: bytes, **settings: Any) -> Pixels:
    """The pixels of the picture of `data`."""
    return pixels_of((Decoder(DecodeConfig(**settings)) if settings else DECODER).decode(data))


def rejection(data: bytes, **settings: Any) -> Rejection:
    """What `data` is rejected for."""
    with pytest.raises(Rejection) as caught:
        Decoder(DecodeConfig(**settings)).decode(data)
    return caught.value


# Formats


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "big_tiff": True}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_back_every_pixel(format: str, options: dict[str, Any]) -> None:
    picture = DECODER.decode(encoded(blocks(), format, **options))
    assert (picture.width, picture.height) == (48, 32)
    assert np.array_equal(pixels_of(picture), blocks())


@pytest.mark.parametrize(
    ("format", "options", "levels"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 1.0),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}, 1.0),
        ("MPO", {"quality": 95, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (9, 9))]}, 1.0),
        ("WEBP", {"quality": 95}, 6.0),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 2.0),
        ("HEIF", {"quality": 95, "chroma": 444}, 2.0),
        ("GIF", {}, 1.0),
    ],
)
def test_lossy_formats_come_close(format: str, options: dict[str, Any], levels: float) -> None:
    assert off(decoded(encoded(blocks(), format, **options)), blocks()) < levels


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_frames_the_first_counts(format: str) -> None:
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "AVIF" else {}
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    picture = decoded(encoded(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert off(picture, np.asarray(frames[0])) < 1


# Modes


def quantized() -> Image.Image:
    """`blocks` by a palette."""
    return Image.fromarray(blocks()).quantize(64, dither=Image.Dither.NONE)


def test_palette() -> None:
    assert off(decoded(encoded(quantized(), "PNG")), blocks()) < 1


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(format: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(16, 256)
    picture = decoded(encoded(ramp, format))
    assert np.array_equal(picture[..., 0], ramp >> 8)
    assert np.array_equal(picture[..., 0], picture[..., 2])


def test_floating_point_is_stretched_over_its_finite_range() -> None:
    samples = np.linspace(-3, 7, 64, dtype=np.float32).reshape(8, 8)
    samples[0, 0], samples[7, 7], samples[3, 3] = np.nan, np.inf, -np.inf
    low, high = samples[0, 1], samples[7, 6]
    picture = decoded(encoded(Image.fromarray(samples), "TIFF"))[..., 0]
    expected = np.where(np.isfinite(samples), np.round((samples - low) / (high - low) * 255), 0)
    assert np.abs(picture - expected).max() <= 1
    assert (picture.min(), picture.max()) == (0, 255)


def test_a_flat_floating_point_image_is_black() -> None:
    assert not decoded(encoded(Image.fromarray(np.full((4, 4), 5, np.float32)), "TIFF")).any()


def test_bilevel_and_grey() -> None:
    bits = Image.fromarray(blocks()[..., 0] > 100)
    assert np.array_equal(decoded(encoded(bits, "PNG"))[..., 1], np.where(blocks()[..., 0] > 100, 255, 0))
    assert np.array_equal(decoded(encoded(blocks()[..., 0], "PNG"))[..., 2], blocks()[..., 0])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(format: str) -> None:
    inks = np.dstack([255 - blocks(), np.zeros((32, 48), np.uint8)])
    options = {"quality": 95} if format == "JPEG" else {}
    assert off(decoded(encoded(Image.fromarray(inks, "CMYK"), format, **options)), blocks()) < 2


def test_lab() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(blocks()), to_lab)
    assert image is not None
    assert off(decoded(encoded(image, "TIFF")), blocks()) < 2


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_transparency_lies_on_white(format: str) -> None:
    options: dict[str, Any] = {
        "WEBP": {"lossless": True, "exact": True},
        "AVIF": {"quality": 100},
        "HEIF": {"quality": -1, "chroma": 444},
    }
    alpha = np.repeat(np.array([0, 64, 128, 255], np.uint8), 12)[None].repeat(32, 0)
    rgba = np.dstack([blocks(), alpha])
    expected = blocks() * (alpha[..., None] / 255.0) + 255 * (1 - alpha[..., None] / 255.0)
    picture = decoded(encoded(rgba, format, **options.get(format, {})))
    assert off(picture, expected.astype(np.uint8)) < (1 if format in ("PNG", "WEBP", "TIFF") else 2)


def test_transparency_of_a_palette_and_of_one_colour() -> None:
    palette = quantized()
    index = palette.getpixel((0, 0))
    picture = decoded(encoded(palette, "PNG", transparency=index))
    assert (picture[0, 0] == 255).all()
    assert off(picture[:, 12:], blocks()[:, 12:]) < 2
    picture = decoded(encoded(blocks(), "PNG", transparency=tuple(int(level) for level in blocks()[0, 0])))
    assert (picture[:8, :12] == 255).all()
    assert np.array_equal(picture[8:], blocks()[8:])


# Orientation

ORIENTED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[:, ::-1][::-1, ::-1],
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}
"""How the sensor saw an upright scene (EXIF 2.32, tag 274): what stands first in a row or column of the file."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_every_orientation_shows_the_same_upright_pixels(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95, "subsampling": "4:4:4"},
        "HEIF": {"quality": 95, "chroma": 444},
    }
    sensor = np.ascontiguousarray(ORIENTED[orientation](blocks()))
    picture = DECODER.decode(encoded(sensor, format, exif=exif.tobytes(), **options.get(format, {})))
    assert (picture.width, picture.height) == (48, 32)
    assert off(pixels_of(picture), blocks()) < 2


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(encoded(blocks(), "PNG", exif=exif.tobytes())), blocks())


def test_a_large_turned_jpeg_states_the_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = DECODER.decode(encoded(waves(1600, 1200), "JPEG", exif=exif.tobytes()))
    assert (picture.width, picture.height) == (1200, 1600)
    assert (picture.picture_width, picture.picture_height) == (336, 448)


# Limits and errors


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_pixels_are_counted_before_decoding() -> None:
    assert rejection(png(100_000, 100_000)).reason == "too_many_pixels"
    assert rejection(png(2000, 1000), max_pixels=1_999_999).reason == "too_many_pixels"
    assert rejection(png(2000, 1000), max_pixels=2_000_000).reason == "broken"
    assert rejection(encoded(blocks(), "JPEG"), max_pixels=48 * 32 - 1).reason == "too_many_pixels"
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        assert decoded(encoded(blocks(), "JPEG"), max_pixels=48 * 32).shape == (32, 48, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_rejected_and_never_half_grey(format: str, share: float) -> None:
    data = encoded(waves(200, 150), format)
    assert rejection(data[: int(len(data) * share)]).reason in ("broken", "not_an_image")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>404</html>", "not_an_image"),
        (b"\0", "not_an_image"),
        (b"\xff\xd8\xff", "broken"),
        (b"\x89PNG\r\n\x1a\n", "broken"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "broken"),
        (b"GIF89a", "broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "unsupported"),
        (b"8BPS\0\1" + bytes(30), "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
    ],
)
def test_foreign_and_empty_headers(data: bytes, reason: str) -> None:
    assert rejection(data).reason == reason


def test_other_formats_of_pillow_stay_shut() -> None:
    for format in ("TGA", "PCX", "SGI", "ICO", "PSD", "EPS"):
        if format == "PSD":
            continue  # Pillow only reads it
        assert rejection(encoded(blocks(), format)).reason in ("unsupported", "not_an_image")


# EXIF through the formats


def camera_exif() -> bytes:
    """A position and a time, as a camera writes them."""
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 51.0, 24.5), 3: "E", 4: (151.0, 12.0, 54.25)})
    exif.get_ifd(0x8769).update({0x9003: "2024:05:07 09:33:04", 0x9291: "046", 0x9011: "+10:00"})
    return exif.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_exif_is_read_from_every_format_that_carries_it(format: str) -> None:
    options: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]} if format == "MPO" else {}
    data = encoded(blocks(), format, exif=camera_exif(), **options)
    picture = DECODER.decode(data)
    assert (picture.latitude, picture.longitude) == pytest.approx((-33.8568055555, 151.2150694444), abs=1e-9)
    assert picture.time == "2024-05-07T09:33:04.046+10:00"
    bare = Decoder(DecodeConfig(exif=False)).decode(data)
    assert np.isnan([bare.latitude, bare.longitude]).all() and not bare.time


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_broken_exif_block_never_fails_the_image(at: int, noise: bytes) -> None:
    exif = bytearray(camera_exif())
    at = 6 + at % (len(exif) - 6)
    exif[at : at + len(noise)] = noise
    with warnings.catch_warnings(action="ignore"):
        picture = DECODER.decode(encoded(blocks(), "JPEG", exif=bytes(exif)))
    assert sorted((picture.width, picture.height)) == [32, 48]
