"""Headers of known formats: whole ones of a kind that nothing here reads, cut ones, and ones that carry much besides."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from geobatch.errors import Rejection
from geobatch.image.config import DecodeConfig
from geobatch.image.picture import Decoder
from tests.image.made import blocks, encoded, pixels_of

DECODER = Decoder(DecodeConfig())


def tiff(bits: Sequence[int], photometric: int = 1, sample_format: int = 1, compression: int = 1) -> bytes:
    """Four by four black pixels of so many samples, one or more than two."""
    count, pixels = len(bits), bytes(2 * sum(bits))
    lists = struct.pack(f"<{2 * count}H", *bits, *[sample_format] * count)
    lists, at = lists.ljust(len(lists) + -len(lists) % 4, b"\0"), 8 + 2 + 10 * 12 + 4
    depths, formats = (at, at + 2 * count) if count > 2 else (bits[0], sample_format)  # a single value stands in the directory
    tags = [(256, 4), (257, 4), (258, depths), (259, compression), (262, photometric), (273, at + len(lists)), (277, count),
            (278, 4), (279, len(pixels)), (339, formats)]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag in (258, 339) else 4, count if tag in (258, 339) else 1, value)
        for tag, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + lists + pixels


def changed(data: bytes, behind: bytes, at: int, value: int) -> bytes:
    """`data` with another byte so far behind the first place where it says `behind`."""
    position = data.index(behind) + at
    return data[:position] + bytes([value]) + data[position + 1 :]


def reason(data: bytes) -> str | None:
    """What `data` is rejected for, or None."""
    try:
        DECODER.decode(data)
    except Rejection as fate:
        return fate.reason
    return None


def test_the_headers_made_here_are_sound() -> None:
    for data in (tiff([8] * 3, 2), tiff([16] * 3, 2), tiff([8] * 4, 5)):
        assert reason(data) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff([16] * 4), "TIFF: unknown pixel mode"),
        (tiff([8] * 5), "TIFF: unknown pixel mode"),
        (tiff([32] * 3, 2, 3), "TIFF: unknown pixel mode"),
        (tiff([8] * 13), "TIFF: Invalid value for samples per pixel"),
        (tiff([8] * 3, 2, 1, 34712), "TIFF: unknown compression 34712"),
        (changed(encoded(blocks(), "JPEG"), b"\xff\xc0", 4, 12), "JPEG: cannot handle 12-bit layers"),
        (changed(encoded(blocks(), "JPEG"), b"\xff\xc0", 9, 2), "JPEG: cannot handle 2-layer images"),
        (changed(encoded(blocks(), "JPEG2000", no_jp2=True), b"\xff\x4f\xff\x51", 41, 5), "unable to determine J2K image mode"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n\0\0\0", "none of JPEG"),
    ],
)
def test_a_known_format_of_an_unread_kind_is_unsupported(data: bytes, words: str) -> None:
    with pytest.raises(Rejection, match=words) as caught:
        DECODER.decode(data)
    assert caught.value.reason == "unsupported"


def test_an_indexed_tiff_without_its_colours_is_broken() -> None:
    assert reason(tiff([8], 3)) == "broken"


def test_no_cut_of_a_sound_file_is_unsupported() -> None:
    small = Image.fromarray(blocks(16, 16))
    whole = [encoded(small, name) for name in ("JPEG", "JPEG2000", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "PPM")]
    with warnings.catch_warnings(action="ignore"):
        for data in (*whole, tiff([8] * 3, 2), encoded(small.convert("RGBA"), "TIFF", compression="tiff_lzw")):
            found = {reason(data[:end]) for end in range(4, len(data), 3)}
            assert "broken" in found and found <= {"broken", "not_an_image", None}


@pytest.mark.parametrize("chunk", ["iCCP", "zTXt", "iTXt"])
def test_a_png_may_carry_megabytes_of_profile_or_text(chunk: str) -> None:
    profile, texts = None, PngInfo()
    if chunk == "iCCP":
        profile = bytes(3 << 20)
    elif chunk == "zTXt":
        texts.add_text("Raw profile type xmp", "0a" * (2 << 20), zip=True)
    else:
        texts.add_itxt("XML:com.adobe.xmp", "ä" * (2 << 20), zip=True)
    data = encoded(blocks(), "PNG", icc_profile=profile, pnginfo=texts)
    assert np.array_equal(pixels_of(DECODER.decode(data)), blocks())


def test_what_inflates_to_more_than_its_share_of_the_memory_is_rejected() -> None:
    texts = PngInfo()
    texts.add_text("bomb", "a" * (9 << 20), zip=True)
    data = encoded(blocks(), "PNG", pnginfo=texts)
    assert reason(data) is None
    with pytest.raises(Rejection, match="too large"):
        Decoder(DecodeConfig(memory_bytes=256 << 20)).decode(data)
