"""Hints: the nearest places of a gallery, told in words and kept as neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine import gallery as galleries
from geobatch.engine.answer import Unparsed, parse
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.methods.geolocsft.hint import Hint, line
from geobatch.schema import GALLERY, PICTURE, empty_columns
from tests.river.conftest import make_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An encoder, a gallery of thirty random pictures at latitude = row, and the pictures."""
    folder = tmp_path_factory.mktemp("hints")
    make_encoder(folder / "encoder")
    pictures = np.random.default_rng(0).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8)
    vectors = Vision(str(folder / "encoder")).encode(pictures)
    rows = {
        **empty_columns(list(GALLERY), 30),
        "image_id": [f"g{row}" for row in range(30)],
        "uri": ["g"] * 30,
        "latitude": np.arange(30.0),
        "longitude": -np.arange(30.0),
        "vector": list(vectors),
        "status": ["placed"] * 30,
    }
    galleries.build(folder / "gallery", [pa.table(rows).cast(GALLERY)])
    return folder, pictures


def test_the_nearest_come_first_and_the_picture_stays(made: tuple[Path, np.ndarray]) -> None:
    folder, pictures = made
    columns = empty_columns(list(PICTURE), 3)
    columns |= {
        "image_id": pa.array(["a", "b", "c"]),
        "uri": pa.array(["u"] * 3),
        "picture": pa.array([picture.tobytes() for picture in pictures[[4, 9, 21]]], pa.large_binary()),
        "picture_height": pa.array([48] * 3, pa.int32()),
        "picture_width": pa.array([48] * 3, pa.int32()),
    }
    with pytest.raises(UserError, match="changed"):
        Hint(str(folder / "encoder"), str(folder / "gallery"), fingerprint="of the night before")
    done = Hint(str(folder / "encoder"), str(folder / "gallery"), count=4)(pa.table(columns))
    near = done["neighbours"].to_pylist()
    assert [row[0]["image_id"] for row in near] == ["g4", "g9", "g21"]
    assert all(len(row) == 4 and row[0]["similarity"] == pytest.approx(1, abs=1e-3) for row in near)
    assert all(row[0]["similarity"] >= row[1]["similarity"] >= row[3]["similarity"] for row in near)
    assert done["hints"][1].as_py()[0] == "lat: 9.0000, lon: -9.0000 (similarity 1.00)"
    assert "picture" in done.column_names


def test_a_hint_is_a_place_that_can_be_read_back() -> None:
    found = parse(line(latitude=-33.85681, longitude=151.2153, similarity=0.25, image_id="x"))
    assert not isinstance(found, Unparsed)
    assert (found.latitude, found.longitude) == (-33.8568, 151.2153)
