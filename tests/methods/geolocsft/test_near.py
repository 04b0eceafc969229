"""The difference hash on pictures, and the search against comparing all."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from geobatch.methods.geolocsft.near import MOST_BITS, dhash, near_earlier, near_pairs

#: Clusters of hashes a few bits apart, so that every distance from 0 on occurs.
HASHES = st.lists(
    st.builds(
        lambda base, flips: base ^ sum(1 << bit for bit in flips),
        st.sampled_from([0, (1 << 64) - 1, 0x0123456789ABCDEF, 0x8000000000000001]),
        st.sets(st.integers(0, 63), max_size=6),
    ),
    max_size=30,
)


def apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@settings(deadline=None)
@given(HASHES, st.integers(0, MOST_BITS))
def test_pairs_equal_comparing_all(hashes: list[int], bits: int) -> None:
    expected = [
        [one, other]
        for one in range(len(hashes))
        for other in range(one + 1, len(hashes))
        if apart(hashes[one], hashes[other]) <= bits
    ]
    assert near_pairs(np.array(hashes, np.uint64), bits).tolist() == expected


@settings(deadline=None)
@given(HASHES, st.integers(0, MOST_BITS))
def test_what_is_left_is_apart_and_all_else_is_near_it(hashes: list[int], bits: int) -> None:
    gone = near_earlier(np.array(hashes, np.uint64), bits)
    kept: list[int] = []
    for at, value in enumerate(hashes):
        assert gone[at] == any(apart(value, other) <= bits for other in kept)
        if not gone[at]:
            kept.append(value)


def test_two_thousand_hashes_equal_comparing_all() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (2000, 9), dtype=np.uint64), axis=1)
    hashes = base[rng.integers(0, 300, 2000)] ^ (flips * (rng.random(2000) < 0.7))
    far = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = np.argwhere(np.triu(far <= 7, 1))
    assert len(expected) > 100
    np.testing.assert_array_equal(near_pairs(hashes, 7), expected)


def test_many_equal_hashes_cost_no_pairs() -> None:
    gone = near_earlier(np.zeros(200_000, np.uint64), 7)
    assert not gone[0] and gone[1:].all()


@pytest.mark.parametrize("bits", [-1, MOST_BITS + 1])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits are 0 to 7"):
        near_pairs([1, 2], bits)


def slow_dhash(picture: NDArray[np.uint8]) -> int:
    height, width, _ = picture.shape
    grey = picture.astype(np.float64) @ [0.299, 0.587, 0.114]

    def mean(row: int, column: int) -> float:
        top, left = row * height // 8, column * width // 9
        bottom, right = max((row + 1) * height // 8, top + 1), max((column + 1) * width // 9, left + 1)
        return float(np.mean(grey[top:bottom, left:right]))

    out = 0
    for row in range(8):
        means = [mean(row, column) for column in range(9)]
        for column in range(8):
            out = out << 1 | (means[column + 1] > means[column] + 1e-9)
    return out


@settings(deadline=None)
@given(st.integers(9, 40), st.integers(9, 40), st.integers(0, 1000))
def test_the_hash_equals_its_definition(height: int, width: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert dhash(picture) == slow_dhash(picture)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (7, 8, 3)])
def test_tiny_pictures_have_hashes_too(shape: tuple[int, int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert 0 <= dhash(picture) < 1 << 64


def test_brightness_to_the_right_sets_every_bit() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None], (64, 90, 3))
    assert dhash(ramp) == (1 << 64) - 1
    assert dhash(ramp[:, ::-1]) == 0 == dhash(np.full((64, 90, 3), 200, np.uint8))


def scene(seed: int) -> Image.Image:
    """A smooth random picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


def test_reencoded_and_scaled_pictures_stay_near_and_others_far() -> None:
    hashes = []
    for seed in range(20):
        picture = scene(seed)
        buffer = BytesIO()
        picture.resize((200, 150)).save(buffer, "JPEG", quality=60)
        one, other = dhash(np.asarray(picture)), dhash(np.asarray(Image.open(buffer)))
        assert apart(one, other) <= 3
        hashes.append(one)
    assert not len(near_pairs(np.array(hashes, np.uint64), 7))


def test_real_photographs_and_their_other_revisions(realdata: Path) -> None:
    def hashed(name: Path) -> int:
        picture = Image.open(name)
        picture.draft("RGB", (400, 400))
        return dhash(np.asarray(picture.convert("RGB")))

    photos = {name.stem: hashed(name) for name in sorted((realdata / "geotagged_photos").glob("OpenSfM__lund_*.jpg"))}
    assert len(photos) == 29
    assert not len(near_pairs(np.array(list(photos.values()), np.uint64), 4)), "29 different photographs of one square"
    for name in sorted((realdata / "dup_pairs").glob("OpenSfM__old__*.jpg")):
        assert apart(hashed(name), photos[name.stem.replace("old__", "lund_")]) <= 4
