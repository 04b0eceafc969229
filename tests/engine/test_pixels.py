"""What models want of their pictures, against Pillow and against what real files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geobatch.engine import pixels
from geobatch.engine.pixels import Pixels
from geobatch.errors import UserError


def read(tmp_path: Path, said: dict[str, object]) -> Pixels:
    path = tmp_path / pixels.FILE
    path.write_text(json.dumps(said))
    return pixels.read(path)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((200, 120), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("mode", "filtered"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)])
@pytest.mark.parametrize("size", [(48, 48), (31, 77), (224, 300)])
def test_resizing_is_pillows(picture: np.ndarray, mode: str, filtered: Image.Resampling, size: tuple[int, int]) -> None:
    ours = Pixels(size=size, filter=mode).resize(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float())
    theirs = np.asarray(Image.fromarray(picture).resize(size[::-1], filtered)).astype(float)
    # Pillow rounds to whole levels between its two passes.
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - theirs).max() <= 1.6


def test_shorter_edge_then_the_middle(picture: np.ndarray) -> None:
    clip = Pixels(size=(60, 0), crop=(60, 60), filter="bicubic", scale=1 / 255, mean=(0.5,) * 3, deviation=(0.25,) * 3)
    values = clip(torch.from_numpy(picture.copy())[None])
    assert values.shape == (1, 3, 60, 60)
    resized = np.asarray(Image.fromarray(picture).resize((100, 60), Image.Resampling.BICUBIC))
    expected = (resized[:, 20:80] / 255 - 0.5) / 0.25
    assert np.abs(values[0].permute(1, 2, 0).numpy() - expected).max() < 0.03


def test_a_crop_beyond_the_picture_is_black(picture: np.ndarray) -> None:
    values = Pixels(size=None, crop=(140, 100), scale=1.0)(torch.from_numpy(picture.copy())[None])[0]
    assert values.shape == (3, 140, 100)
    assert (values[:, :10] == 0).all() and (values[:, -10:] == 0).all()
    assert (values[:, 10:-10].permute(1, 2, 0).numpy() == picture[:, 50:150]).all()


@pytest.mark.parametrize(
    ("said", "size", "crop"),
    [
        ({"size": {"height": 32, "width": 48}}, (32, 48), None),
        (
            {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            (224, 0),
            (224, 224),
        ),
        ({"size": 224, "do_center_crop": True, "crop_size": 224}, (224, 0), (224, 224)),  # older CLIP
        ({"size": 224}, (224, 224), None),  # older ViT
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (256, 0), (224, 224)),  # ConvNeXt
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384), None),
        ({"do_resize": False, "size": {"height": 32, "width": 32}}, None, None),
    ],
)
def test_the_dialects_of_the_file(tmp_path: Path, said: dict[str, object], size: object, crop: object) -> None:
    found = read(tmp_path, said)
    assert (found.size, found.crop) == (size, crop)


def test_levels_and_normalisation_can_be_off(tmp_path: Path) -> None:
    found = read(tmp_path, {"do_rescale": False, "do_normalize": False, "do_resize": False, "image_mean": [9, 9, 9]})
    picture = torch.arange(12, dtype=torch.uint8).reshape(1, 2, 2, 3)
    assert (found(picture)[0].permute(1, 2, 0) == picture[0]).all()


def test_saved_and_read_again(tmp_path: Path) -> None:
    for made in (
        Pixels(size=(48, 48), mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.6)),
        Pixels(size=(60, 0), crop=(48, 40), filter="bicubic", scale=1.0),
        Pixels(size=None, filter="nearest"),
    ):
        made.save(tmp_path)
        assert pixels.read(tmp_path / pixels.FILE) == made


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do_pad"):
        read(tmp_path, {"do_pad": True})
    with pytest.raises(UserError, match="picture size"):
        read(tmp_path, {"size": {"longest_edge": 9}})
    (tmp_path / pixels.FILE).write_text("{")
    with pytest.raises(UserError, match="does not read"):
        pixels.read(tmp_path / pixels.FILE)
