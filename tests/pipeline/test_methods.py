"""Which method locates: cards, published models, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geobatch.errors import UserError
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.methods import Chosen, choose
from geobatch.store import Store


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


def test_methods_that_are_none_or_anothers(student: Path) -> None:
    with pytest.raises(UserError, match="there is no method 'x'; use one of geotoken, geolocsft"):
        chosen(student, method="x")
    with pytest.raises(UserError, match="is a model of geolocsft, not of geotoken"):
        chosen(student, method="geotoken")
    (student / "geobatch.json").write_text('{"method": "later"}')
    with pytest.raises(UserError, match="this version does not have"):
        chosen(student)
