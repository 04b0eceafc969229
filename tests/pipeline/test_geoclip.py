"""GeoCLIP chosen by name: CLIP by folder or hub name, weights beside it, both in what decides a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.methods.geoclip.locate import Locate
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.methods import choose
from geobatch.store import Store
from tests.methods.geoclip import miniature


@pytest.fixture
def asked(tmp_path: Path) -> GeolocateBucket:
    weights = miniature.weights(tmp_path / "weights")
    clip = miniature.clip(tmp_path / "clip")
    return GeolocateBucket(archive="a", output="o", model=str(clip), method="geoclip", geoclip=Locate(weights=str(weights)))


def test_a_folder_of_clip_and_one_of_weights(asked: GeolocateBucket) -> None:
    chosen = choose(Store(None), asked, workers=2)
    assert (chosen.method, chosen.side) == ("geoclip", None)
    assert [(hands.stage.__name__, hands.workers) for hands in chosen.river] == [("Embed", 2), ("Match", 2)]
    assert sorted(chosen.decides) == ["base", "matching", "precision", "weights"]
    miniature.clip(Path(asked.model), embedding=12)
    assert choose(Store(None), asked, workers=1).decides["base"] != chosen.decides["base"]


def test_a_hub_name_stays_a_name(asked: GeolocateBucket) -> None:
    named = replace(asked, model="openai/clip-vit-large-patch14")
    chosen = choose(Store(None), named, workers=1)
    assert (
        chosen.river[0].make["model"] == named.model and chosen.decides["base"] != choose(Store(None), asked, 1).decides["base"]
    )


def test_what_is_missing_is_said_before_ray_starts(asked: GeolocateBucket, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no CLIP folder"):
        choose(Store(None), replace(asked, model=str(tmp_path / "nowhere")), workers=1)
    with pytest.raises(UserError, match="there is no GeoCLIP weights folder"):
        choose(Store(None), replace(asked, geoclip=Locate(weights=str(tmp_path / "nowhere"))), workers=1)
    (tmp_path / "weights" / "coordinates_100K.csv").unlink()
    with pytest.raises(UserError, match=r"lacks coordinates_100K\.csv"):
        choose(Store(None), asked, workers=1)
