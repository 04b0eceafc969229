"""Every mode to RGB, and large images to small ones, against the slow way."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geobatch.image import shrink
from geobatch.image.config import DecodeConfig, fit
from geobatch.image.picture import Decoder
from tests.image.made import Pixels, blocks, encoded, off, pixels_of, waves

DECODER = Decoder(DecodeConfig())


@pytest.mark.parametrize("mode", ["LA", "La", "RGBa", "PA", "YCbCr", "HSV", "RGBX", "I;16B"])
def test_modes_no_encoder_writes_here_turn_to_rgb(mode: str) -> None:
    image = Image.fromarray(blocks()).convert("L" if mode == "I;16B" else "RGB")
    for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA"), "I;16B": ("I", "I;16B")}.get(mode, (mode,)):
        image = image.convert(step)
    assert shrink.shrunk(image, image.size).mode == "RGB"


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 1000))
def test_pictures_fit(width: int, height: int, side: int) -> None:
    small = fit(width, height, side)
    assert 1 <= small[0] <= width and 1 <= small[1] <= height
    assert min(small) <= side and max(small) <= 4 * side
    if min(width, height) <= side and max(width, height) <= 4 * side:
        assert small == (width, height)
    elif max(width, height) <= 4 * min(width, height):
        assert min(small) == side
    assert fit(height, width, side) == small[::-1]


def by_area(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """The slow reference: a full decode, turned to RGB as a whole and resampled in one step."""
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))


@pytest.mark.parametrize("size", [(1000, 750), (901, 2003), (2003, 700), (337, 336), (3000, 337)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_scaled_decoding_equals_a_full_decode_resampled(format: str, size: tuple[int, int]) -> None:
    # The codec's own scaling passes a little more of what is finer than the picture's pixels than a filter would.
    options, texture = ({"quality": 92}, 5) if format == "JPEG" else ({}, 20)
    data = encoded(waves(*size, texture), format, **options)
    picture = DECODER.decode(data)
    reference = by_area(Image.open(io.BytesIO(data)), (picture.picture_width, picture.picture_height))
    assert off(pixels_of(picture), reference) < 2.5


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "I;16", "F", "1"])
def test_bands_join_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(waves(701, 1103))
    if mode == "I;16":
        image = Image.fromarray(waves(701, 1103)[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(waves(701, 1103)[..., 0].astype(np.float32))
    else:
        image = image.convert(mode)
    whole = np.asarray(shrink.shrunk(image, (70, 110)))
    monkeypatch.setattr(shrink, "BAND", 10_000)
    assert np.array_equal(np.asarray(shrink.shrunk(image, (70, 110))), whole)


def test_one_pixel_and_long_strips() -> None:
    assert pixels_of(DECODER.decode(encoded(np.full((1, 1, 3), 7, np.uint8), "PNG"))).tolist() == [[[7, 7, 7]]]
    picture = DECODER.decode(encoded(waves(20_000, 2), "PNG"))
    assert (picture.picture_width, picture.picture_height, picture.width) == (1344, 1, 20_000)
