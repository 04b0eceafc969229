"""The river without Ray: pictures in, places out, and what of the settings decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.engine.vision import HeadConfig, Vision, network
from geobatch.errors import UserError
from geobatch.methods.geoclip.config import Matching
from geobatch.methods.geoclip.locate import Locate, aligned, decides, river
from geobatch.schema import FATE, LOCATED, empty_columns
from tests.methods.geoclip import miniature


@pytest.fixture
def settings(tmp_path: Path) -> Locate:
    return Locate(weights=str(miniature.weights(tmp_path / "weights")), precision="float32")


def test_pictures_become_places(settings: Locate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 30 + 10 * (n % 2), 3), np.uint8) for n in range(5)]
    table = pa.table(
        {
            "image_id": [f"{n}.jpg" for n in range(5)],
            "picture": pa.array([None if n == 3 else each.tobytes() for n, each in enumerate(pictures)], pa.large_binary()),
            "picture_width": pa.array([each.shape[1] for each in pictures], pa.int32()),
            "picture_height": pa.array([each.shape[0] for each in pictures], pa.int32()),
            **empty_columns(FATE[:1], 5),
            "reason": pa.array(["broken" if n == 3 else None for n in range(5)], pa.string()),
            "detail": pa.nulls(5, pa.string()),
        }
    )
    stages = river(str(miniature.clip(tmp_path / "clip")), settings, workers=3)
    assert [(hands.stage.__name__, hands.workers) for hands in stages] == [("Embed", 3), ("Match", 3)]
    for hands in stages:
        table = hands()(table)
    rows = table.to_pylist()
    assert {field.name for field in LOCATED} < set(table.column_names) and "picture" not in table.column_names
    assert [row["reason"] for row in rows] == [None, None, None, "broken", None]
    known = {tuple(place) for place in miniature.places(300).tolist()}
    assert all((row["latitude"], row["longitude"]) in known for n, row in enumerate(rows) if n != 3)
    assert rows[3]["latitude"] is None and rows[3]["candidates"] is None
    assert len({row["score"] for n, row in enumerate(rows) if n != 3}) > 1
    assert len(list((tmp_path / "cache" / "geoclip").glob("*.npy"))) == 1


def test_what_decides_a_row(settings: Locate, tmp_path: Path) -> None:
    before = decides(settings)
    faster = replace(settings, batch=3, gpus=0.5, weights=str(miniature.weights(tmp_path / "elsewhere")))
    assert decides(faster) == before
    assert decides(replace(settings, matching=Matching(choose="expected_distance"))) != before
    assert decides(replace(settings, precision="bfloat16")) != before
    miniature.weights(tmp_path / "weights", seed=1)
    assert decides(settings)["weights"] != before["weights"]


def test_gpus_are_asked_for_by_both_stages(settings: Locate, tmp_path: Path) -> None:
    stages = river("anything", replace(settings, gpus=0.5), workers=1)
    assert [hands.gpus for hands in stages] == [0.5, 0.5] and stages[1].make["device"] == "cuda"


def test_weights_that_are_not_there_are_said_before_anything_starts(settings: Locate, tmp_path: Path) -> None:
    (tmp_path / "weights" / "logit_scale_weights.pth").unlink()
    for asked in (lambda: river("anything", settings, 1), lambda: decides(settings)):
        with pytest.raises(UserError, match=r"lacks logit_scale_weights\.pth"):
            asked()


@pytest.mark.parametrize("views", [("image", "location", "text"), ("location",)])
def test_an_encoder_of_ours_answers_with_any_places(
    views: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded world's way: vectors of an aligned encoder, places of anybody's; the view for places alone counts."""
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))
    clip, folder = str(miniature.clip(tmp_path / "clip")), tmp_path / "encoder"
    sizes = {"location": HeadConfig(size=10, hidden=6), "text": HeadConfig(size=7)}
    head = {name: sizes.get(name) for name in views} if len(views) > 1 else sizes["location"]
    network(clip, head, seed=3).save(folder)
    gps = LocationEncoder(Gps(size=10, width=16, features=8))
    gps.save(folder)
    answers = miniature.places(40)
    (tmp_path / "some.csv").write_text("\n".join(["LAT,LON", *(f"{a},{b}" for a, b in answers.tolist())]))
    rng = np.random.default_rng(0)
    vision = Vision(str(folder), precision="float32")
    vectors = vision.encode([rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(6)])
    table = pa.table({"vector": pa.array(list(vectors), pa.list_(pa.float32())), **empty_columns(FATE, 6)})
    rows = aligned(folder, tmp_path / "some.csv")()(table).to_pylist()
    start = vision.view_sizes[0] if len(views) > 1 else 0
    cosines = vectors[:, start : start + 10] @ gps.encode(*answers.T).T
    assert [(row["latitude"], row["longitude"]) for row in rows] == [tuple(answers[best]) for best in cosines.argmax(axis=1)]
    assert len({row["latitude"] for row in rows}) > 1


def test_a_view_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    network(str(miniature.clip(tmp_path / "clip")), {"image": None, "text": HeadConfig(size=7)}).save(folder)
    with pytest.raises(UserError, match="has the views image, text and no location"):
        aligned(folder, tmp_path / "some.csv")
