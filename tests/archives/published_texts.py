"""The published data sets of texts and tiles in miniature, each in its true form, filled with crops of the embedded world.

- GeoText-1652: `train.json` and `test_951_version.json`, lists of objects with `image_id` (`0839/image-43.jpeg`), `image`,
  `caption`, `sentences` and `bboxes`; in train a caption is a string and an image has three entries, in test it is a list of
  three strings. Boxes have nulls. Images lie in a folder a building, `train/0839/` and `test/query(701)/0001/` or
  `test/gallery_no_train(250)/0702/`: several drone views, a satellite view, a street view.
- CVG-Text: `annotation/<City>/train.json` and `test.json`, mappings of a tile's file name to one text; the name
  `<latitude>,<longitude>_<YYYY-MM>_<panoid>_d<yaw>_z<zoom>.png` carries the place. Satellite tiles and maps have the same names
  in folders of their own.

What a text says is true of its picture: where it is dark, bright, green, brown or blue, by ninths. So a model can learn it, and
a hit is no accident. A building's views are crops within some 30 km of each other; a city's tiles lie some 40 m apart by their
names, though each shows another part of the world.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geobatch.benchmark.world import World

Pictures = NDArray[np.uint8]

_NINTHS = (
    *("north-west", "north", "north-east", "west", "middle", "east", "south-west", "south", "south-east"),
)  # fmt: skip
_OPENINGS = ("The image shows {}.", "In this place there is {}.", "Seen from above: {}.")


@dataclass(frozen=True)
class TextsAndTiles:
    """One split.

    Attributes:
        tiles: folder of the pictures.
        annotations: the JSON file.
        texts: what it says of each image, by its name there.
        images: files below `tiles`.
    """

    tiles: Path
    annotations: Path
    texts: dict[str, list[str]]
    images: int


def captions(picture: Pictures, count: int = 3) -> list[str]:
    """Different texts `(count,)` of one picture (H, W, 3)."""
    height, width = (side // 3 for side in picture.shape[:2])
    ninths = picture[: 3 * height, : 3 * width].reshape(3, height, 3, width, 3).mean(axis=(1, 3)).reshape(9, 3)
    said = [f"{_colour(colour)} in the {where}" for where, colour in zip(_NINTHS, ninths, strict=True)]
    mean = " ".join(str(round(float(level))) for level in picture.mean(axis=(0, 1)))  # no two pictures read alike
    return [f"{_OPENINGS[at % 3].format(', '.join(said[at:] + said[:at]))} On the whole {mean}." for at in range(count)]


def _colour(colour: NDArray[np.float64]) -> str:
    red, green, blue = colour
    if colour.min() > 180:
        return "white"
    if blue > 1.2 * max(red, green):
        return "deep blue" if blue < 90 else "pale blue"
    shade = "dark" if colour.mean() < 60 else "bright" if colour.mean() > 140 else "plain"
    return f"{shade} {'green' if green >= red else 'sand' if red > 1.35 * blue else 'brown'}"


def geotext(
    folder: Path, world: World, train: int, test: int, views: int = 3, seed: int = 0
) -> tuple[TextsAndTiles, TextsAndTiles]:
    """GeoText-1652 below `folder` with so many buildings in train and in test, each of `views` views and a satellite's."""
    rng = np.random.default_rng([seed, 1652])
    splits = []
    for split, buildings, first in (("train", train, 839), ("test", test, 1)):
        latitude, longitude = world.scatter(buildings, seed=seed + first)
        entries, texts = [], {}
        for building in range(buildings):
            number = f"{first + building:04}"
            part = "train" if split == "train" else "test/query(701)" if building % 2 else "test/gallery_no_train(250)"
            names = [f"image-{view + 1:02}.jpeg" for view in range(views)] + [f"{number}.jpg"]
            near = latitude[building] + rng.normal(0, 0.15, len(names)), longitude[building] + rng.normal(0, 0.15, len(names))
            (folder / part / number).mkdir(parents=True)
            for name, picture in zip(names, world.cut(*near), strict=True):
                (folder / part / number / name).write_bytes(_encoded(picture, "JPEG"))
                said = captions(picture)
                texts[f"{number}/{name}"] = said
                entries += _entries(f"{number}/{name}", f"{part}/{number}/{name}", said, lists=split == "test")
        if split == "train":
            entries = [entries[at] for at in rng.permutation(len(entries))]
        path = folder / ("train.json" if split == "train" else "test_951_version.json")
        path.write_text(json.dumps(entries))
        splits.append(TextsAndTiles(folder / split, path, texts, len(texts)))
    return splits[0], splits[1]


def _entries(image_id: str, image: str, said: list[str], *, lists: bool) -> list[dict[str, object]]:
    boxes: list[object] = [
        [0.408688485622406, 0.6883664131164551, 0.38859522342681885, 0.6234817504882812],
        None,
        [0.5, None, 0.1, 0.1],
    ]
    rest = {"sentences": [each.split(",")[0] for each in said], "bboxes": boxes}
    if lists:
        return [{"image_id": image_id, "image": image, "caption": said, **rest}]
    return [{"image_id": image_id, "image": image, "caption": each, **rest} for each in said]


#: Cities as CVG-Text has them, by a corner of theirs.
_CITIES = {"NewYork": (40.70, -74.01), "Brisbane": (-27.47, 153.02), "Tokyo": (35.68, 139.76)}


def cvg_text(
    folder: Path, world: World, train: int, test: int, city: str = "NewYork", seed: int = 0
) -> tuple[TextsAndTiles, TextsAndTiles]:
    """CVG-Text below `folder`: a city with so many places in train and test; satellite tiles, and maps under the same names."""
    rng = np.random.default_rng([seed, 30_000])
    south, west = _CITIES[city]
    side = int(np.ceil(np.sqrt(train + test)))
    grid = rng.permutation(side * side)[: train + test]
    pictures = world.cut(*world.scatter(train + test, seed=seed + 17))
    splits = []
    for split, chosen in (("train", slice(0, train)), ("test", slice(train, train + test))):
        texts = {}
        for kind in ("satellite", "osm"):
            (folder / "images" / city / split / kind).mkdir(parents=True)
        for cell, picture in zip(grid[chosen], pictures[chosen], strict=True):
            latitude, longitude = south + (cell // side) * 4e-4, west + (cell % side) * 5e-4
            panorama = "".join(rng.choice(list("ABCabc019-_"), 22))
            month = f"20{rng.integers(10, 24)}-{rng.integers(1, 13):02}"
            name = f"{latitude:.7f},{longitude:.7f}_{month}_{panorama}_d{rng.integers(360)}_z3.png"
            texts[name] = captions(picture, 1)
            (folder / "images" / city / split / "satellite" / name).write_bytes(_encoded(picture, "PNG"))
            (folder / "images" / city / split / "osm" / name).write_bytes(_encoded(255 - picture // 2, "PNG"))
        path = folder / "annotation" / city / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({name: said[0] for name, said in texts.items()}, indent=4, ensure_ascii=False))
        splits.append(TextsAndTiles(folder / "images" / city / split / "satellite", path, texts, len(texts)))
    return splits[0], splits[1]


def _encoded(picture: Pictures, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form)
    return buffer.getvalue()
