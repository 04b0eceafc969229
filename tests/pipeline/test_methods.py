"""Which method locates: cards, published models, and what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine import gallery as galleries
from geobatch.errors import UserError
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import GeoToken, Selection, Selector
from geobatch.methods.geotoken.locate import Locate
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.methods import Chosen, choose
from geobatch.schema import GALLERY, empty_columns
from geobatch.store import Store
from tests.methods.geotoken.pools import known


def chosen(model: Path | str, **more: Any) -> Chosen:
    return choose(Store(None), GeolocateBucket(archive="a", output="o", model=str(model), **more), workers=1)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A card, an adapter's files and a base that answers from a table."""
    base, model = tmp_path / "base", tmp_path / "model"
    (model / "adapter").mkdir(parents=True)
    base.mkdir()
    (base / "scripted.json").write_text('{"replies": {"*": [""]}}')
    (model / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    card = {"method": "geolocsft", "base": str(base), "base_fingerprint": fingerprint_of_base(str(base)), "adapter": "adapter",
            "form": "json"}  # fmt: skip
    (model / "geobatch.json").write_text(json.dumps(card))
    return model


def test_a_card_names_method_form_and_base(student: Path) -> None:
    found = chosen(student)
    assert found.method == "geolocsft" and found.decides["form"] == "json"
    assert [hands.stage.__name__ for hands in found.river] == ["Ask", "Agree"]
    assert found.river[0].make["adapter"] == str(student / "adapter") and found.river[0].at_once > 1


def test_what_decides_a_row_is_in_its_fingerprint_and_what_does_not_is_not(student: Path) -> None:
    before = chosen(student).decides
    (student / "adapter/README.md").write_text("a card")
    assert chosen(student).decides == before
    (student / "adapter/adapter_model.safetensors").write_bytes(b"others")
    assert chosen(student).decides != before


def test_pictures_are_as_large_as_the_student_was_trained_at(student: Path) -> None:
    assert chosen(student).side == 896 and chosen(student.parent / "base", method="geolocsft").side == 896
    card = json.loads((student / "geobatch.json").read_text())
    (student / "geobatch.json").write_text(json.dumps({**card, "config": {"decode": {"side": 448}}}))
    assert chosen(student).side == 448


def test_an_adapter_on_another_base_is_refused(student: Path) -> None:
    (student.parent / "base/scripted.json").write_text('{"replies": {"*": ["changed"]}}')
    with pytest.raises(UserError, match=r"is not the base that .* was trained on"):
        chosen(student)


def test_a_published_model_needs_its_method_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="add --method geolocsft"):
        chosen(tmp_path)
    assert chosen(tmp_path, method="geolocsft").river[0].make["adapter"] is None
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        chosen(tmp_path, method="geolocsft")


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit(*known(220, seed=1))


@pytest.fixture
def network(tmp_path: Path, fitted: Calibration) -> Path:
    """A calibrated model of GeoToken with a reward model, and its gallery."""
    model, rows = tmp_path / "model", 12
    vectors = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    columns = {
        **empty_columns(list(GALLERY), rows),
        "image_id": [f"g{row}" for row in range(rows)],
        "uri": ["g"] * rows,
        "latitude": np.arange(float(rows)),
        "longitude": np.zeros(rows),
        "vector": list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
        "status": ["placed"] * rows,
    }
    galleries.build(tmp_path / "gallery", [pa.table(columns).cast(GALLERY)])
    GeoTokenModel(GeoToken.small(8)).save(model / "geotoken")
    (model / "reward").mkdir()
    (model / "reward/weights").write_text("of one training")
    fitted.save(model)
    (model / "geobatch.json").write_text(json.dumps({"method": "geotoken", "gallery": "../gallery"}))
    return model


def by(selector: Selector, calibrated: bool = True) -> Locate:
    return Locate(selection=Selection(selector=selector, calibrated=calibrated))


def test_parts_of_a_model_that_nobody_opens_decide_no_row(network: Path, fitted: Calibration) -> None:
    asked = [by("expected_share"), by("reward"), by("expected_share", calibrated=False), by("reward", calibrated=False)]

    def decided() -> list[str]:
        return [chosen(network, geotoken=settings).decides["model"] for settings in asked]

    before = decided()
    (network / "reward/weights").write_text("of another")
    rewarded = decided()
    assert [one == other for one, other in zip(before, rewarded, strict=True)] == [True, False, True, False]
    replace(fitted, radius=2 * fitted.radius).save(network)
    assert [one == other for one, other in zip(rewarded, decided(), strict=True)] == [False, False, True, True]
    (network / "geotoken/notes.txt").write_text("another network")
    assert not set(decided()) & set(before)


def test_a_calibration_for_anothers_places_is_spoken_of(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (by("expected_share"), by("log_probability", calibrated=False)):
        chosen(network, geotoken=quiet)
        assert not capsys.readouterr().out
    chosen(network, geotoken=by("log_probability"))
    assert "calibrated for places chosen by expected_share: what is stated of places chosen by log_probability" in (
        capsys.readouterr().out
    )


def test_methods_that_are_none_or_anothers(student: Path) -> None:
    with pytest.raises(UserError, match="there is no method 'x'; use one of geotoken, geolocsft"):
        chosen(student, method="x")
    with pytest.raises(UserError, match="is a model of geolocsft, not of geotoken"):
        chosen(student, method="geotoken")
    (student / "geobatch.json").write_text('{"method": "later"}')
    with pytest.raises(UserError, match="this version does not have"):
        chosen(student)
