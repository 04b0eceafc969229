"""Against the authors' own package: the same backbone, their head, their encoder, their softmax, their `predict`.

The backbone is a small CLIP with random weights that both sides load from one folder; head, location encoder and scale are
the published ones. Of the 100,000 places one in a hundred is asked, since the package encodes all of them for every picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from geobatch.engine.gps import LocationEncoder
from geobatch.methods.geoclip.embed import ImageEncoder
from geobatch.methods.geoclip.match import Match
from geobatch.methods.geoclip.weights import Weights, find, logit_scale
from geobatch.schema import FATE, empty_columns
from tests.methods.geoclip import miniature, package

SIDE = 224
EVERY = 100


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature.clip(tmp_path_factory.mktemp("clip"), embedding=768, side=SIDE)


@pytest.fixture(scope="module")
def theirs(backbone: Path) -> Any:
    pytest.importorskip("geoclip", reason="the package geoclip is not installed: nothing to compare with")
    with pytest.MonkeyPatch.context() as patch:
        model = package.geoclip(backbone, patch)
    model.gps_gallery = model.gps_gallery[::EVERY].contiguous()
    return model


@pytest.fixture(scope="module")
def files(theirs: Any) -> Weights:
    return find()


@pytest.fixture(scope="module")
def match(theirs: Any, files: Weights, tmp_path_factory: pytest.TempPathFactory) -> Match:
    some = tmp_path_factory.mktemp("places") / "some.csv"
    lines = files.places.read_text().splitlines()
    some.write_text("\n".join([lines[0], *lines[1::EVERY], ""]))
    return Match(str(files.location), str(some), logit_scale(files.scale), cache=str(some.parent))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Five smooth pictures of CLIP's own size, so that no resize stands between the two."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 6, 6, 3), np.uint8)
    return [np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for each in small]


def test_the_location_encoder_is_theirs(theirs: Any, files: Weights) -> None:
    places = theirs.gps_gallery[:600]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(theirs.location_encoder(places), dim=1).numpy()
    ours = LocationEncoder.geoclip(files.location)
    assert np.abs(ours.encode(places[:, 0], places[:, 1], batch=256) - expected).max() < 1e-5
    off = LocationEncoder(type(ours.config)(**{**vars(ours.config), "stretch": 180 / 2.7066}))
    off.load_state_dict(ours.state_dict())
    assert np.abs(off.encode(places[:, 0], places[:, 1]) - expected).max() > 1e-3  # the test sees a map that is 1e-5 too wide


def test_features_and_probabilities_are_theirs(
    theirs: Any, files: Weights, backbone: Path, match: Match, pictures: list[np.ndarray]
) -> None:
    values = theirs.image_encoder.preprocess_image([Image.fromarray(each) for each in pictures])
    with torch.inference_mode():
        features = torch.nn.functional.normalize(theirs.image_encoder(values), dim=1).numpy()
        expected = theirs(values, theirs.gps_gallery).softmax(dim=1).numpy()
    ours = ImageEncoder(str(backbone), files.head, precision="float32").encode(pictures)
    assert np.abs(ours - features).max() < 1e-5
    cosines, found = match.probabilities(ours)
    assert np.abs(found.numpy() - expected).max() < 1e-5
    assert np.abs(found.numpy() / expected - 1).max() < 1e-3
    assert (features @ features.T)[0, 1:].max() < 0.9999 and cosines.std(dim=1).min() > 0.01  # the pictures differ


def test_the_places_are_those_that_predict_names(
    theirs: Any, files: Weights, backbone: Path, match: Match, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    vectors = ImageEncoder(str(backbone), files.head, precision="float32").encode(pictures)
    table = pa.table({"vector": pa.array(vectors.tolist(), pa.list_(pa.float32())), **empty_columns(FATE, len(vectors))})
    for picture, row in zip(pictures[:2], match(table).to_pylist()[:2], strict=True):
        Image.fromarray(picture).save(tmp_path / "picture.png")
        places, probabilities = theirs.predict(str(tmp_path / "picture.png"), 10)
        assert np.allclose([[each["latitude"], each["longitude"]] for each in row["candidates"]], places, atol=1e-5)
        assert np.allclose([each["score"] for each in row["candidates"]], probabilities, atol=1e-5)
        assert (row["latitude"], row["longitude"]) == pytest.approx(tuple(places[0].tolist()), abs=1e-5)
        assert row["score"] == pytest.approx(float(probabilities[0]), abs=1e-5)
