"""Pairs that a tiny encoder can learn in seconds: the colour of a tile and words that go with it.

A place is a colour; its tiles are that colour under noise, its texts three ways of saying it, in words that the tiny tokenizers
know. Noise and wordings differ from pair to pair, so that a place is recognised and not a picture.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from geobatch.methods.ngcg import pairs
from geobatch.schema import PAIRS, empty_columns

WORDS = ["forest", "desert", "grassland", "mountains", "river", "lake", "coast", "snow", "tundra", "islands", "valley"]
WORDS += ["plains", "delta", "hills", "farmland", "wetland", "steppe", "plateau", "bay", "cliffs", "beaches", "trees"]


def said(place: int, number: int) -> list[str]:
    """One to three texts of a pair."""
    first, second = WORDS[place % len(WORDS)], WORDS[(place * 7 + 3) % len(WORDS)]
    ways = [f"The tile shows {first} and {second}.", f"{first} north of the {second}", f"There is {second}, and also {first}"]
    return ways[number % 3 :][: 1 + number % 2] + ways[: number % 3][:1]


def table(groups: list[int], side: int = 64, seed: int = 5) -> pa.Table:
    """A table of PAIRS, one row for each number of `groups`."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(7).integers(0, 256, (max(groups) + 1, 4, 3))
    images = []
    for place in groups:
        corners = np.repeat(np.repeat(colours[place].reshape(2, 2, 3), side // 2, axis=0), side // 2, axis=1)
        encoded = io.BytesIO()
        pixels = np.clip(corners + random.normal(0, 12, corners.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(encoded, "PNG")
        images.append(encoded.getvalue())
    rows = len(groups)
    columns = {
        **empty_columns(list(PAIRS), rows),
        "image_id": [f"tile/{row}.png" for row in range(rows)],
        "uri": ["tiles"] * rows,
        "image": pa.array(images, pa.large_binary()),
        "texts": [said(place, row) for row, place in enumerate(groups)],
        "group": [f"place {place}" for place in groups],
        "status": ["paired"] * rows,
    }
    return pa.table(columns).select(PAIRS.names).cast(PAIRS)


def written(folder: Path, groups: list[int], side: int = 64) -> pairs.Pairs:
    """The same as a file, opened."""
    pairs.write([table(groups, side)], folder / "pairs.arrow")
    return pairs.Pairs(folder / "pairs.arrow")
