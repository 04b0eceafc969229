"""Which method locates: cards, published models, and what does not fit."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine import gallery as galleries
from geobatch.engine.remote import Endpoint
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import GeoToken, Selection, Selector
from geobatch.methods.geotoken.judge import JudgeSettings
from geobatch.methods.geotoken.locate import Locate
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.ngcg.area import Area
from geobatch.methods.ngcg.locate import Locate as Ngcg
from geobatch.methods.ngcg.serve import Serving
from geobatch.pipeline.folder import fingerprint, fingerprint_of, fingerprint_of_base
from geobatch.pipeline.geolocate import GeolocateBucket, _job
from geobatch.pipeline.methods import Chosen, choose
from geobatch.pipeline.ngcg_model import open_model
from geobatch.schema import GALLERY, empty_columns
from geobatch.store import Store
from tests.engine import tiny_towers
from tests.methods.geotoken.pools import known
from tests.methods.ngcg import tiles


def chosen(model: Path | str, **more: Any) -> Chosen:
    return choose(Store(None), GeolocateBucket(**{"archive": "a", "output": "o", **more}, model=str(model)), workers=1)


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


def test_a_gallery_of_what_the_encoder_was_before_is_refused(network: Path) -> None:
    (network / "encoder").mkdir()
    (network / "encoder/weights").write_text("first")
    record = network.parent / "gallery/gallery.json"
    made = {"source": {"parts": {"a": 0}}, "encoder": fingerprint_of(network / "encoder")}
    record.write_text(json.dumps({**json.loads(record.read_text()), **made}))
    assert chosen(network).method == "geotoken"
    (network / "encoder/weights").write_text("trained again")
    with pytest.raises(UserError, match=r"of another encoder than .* build it again with jobs/build_gallery\.py --relocate"):
        chosen(network)
    record.write_text(json.dumps({**json.loads(record.read_text()), "source": {}}))  # made by hand
    assert chosen(network).method == "geotoken"


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


def test_a_judge_outside_the_cluster_is_spoken_of(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = JudgeSettings(endpoint=Endpoint(url="https://api.example.com/v1", model="m"))
    chosen(network, geotoken=Locate(judge=far))
    assert "sent to https://api.example.com/v1, as --geotoken.judge.endpoint.url asks" in capsys.readouterr().out


def test_limits_may_be_raised_over_a_standing_table_and_what_decides_an_answer_may_not(network: Path) -> None:
    photos = network / "photos"
    photos.mkdir()

    def made(**more: Any) -> str:
        asked = GeolocateBucket(archive=str(photos), output=str(network / "out"), model=str(network), **more)
        return _job(asked)[1].fingerprint

    before = made()
    assert made(max_bytes=1 << 30, retry_rejected=("too_large",)) == before
    raised = DecodeConfig(max_pixels=10**9, deadline_s=60.0, memory_bytes=4 << 30)
    assert made(decode=raised, retry_rejected=("too_many_pixels", "timeout", "out_of_memory")) == before
    others = [made(decode=DecodeConfig(side=224)), made(decode=DecodeConfig(plugins=("p",))), made(no_exif=True)]
    assert len({before, *others, made(coarsen=25.0)}) == 5


def test_methods_that_are_none_or_anothers(student: Path) -> None:
    with pytest.raises(UserError, match="there is no method 'x'; use one of geotoken, geolocsft"):
        chosen(student, method="x")
    with pytest.raises(UserError, match="is a model of geolocsft, not of geotoken"):
        chosen(student, method="geotoken")
    (student / "geobatch.json").write_text('{"method": "later"}')
    with pytest.raises(UserError, match="this version does not have"):
        chosen(student)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multimodal LLM as it was published."""
    return tiny_towers.smolvlm(tmp_path_factory.mktemp("tower") / "model")


@pytest.fixture
def tiled(tower: Path, tmp_path: Path) -> dict[str, Any]:
    """It with a gallery of its own, and texts; as arguments of `chosen`."""
    table = tiles.table(tiles.unit(9, seed=0, size=64), *tiles.scattered(9, seed=0))
    galleries.build(tmp_path / "gallery", [table], encoder=open_model(Store(None), str(tower)).fingerprint)
    (tmp_path / "texts.csv").write_text("id,caption\na,a river\n")
    return {"model": tower, "method": "ngcg", "gallery": str(tmp_path / "gallery"), "archive": str(tmp_path / "texts.csv")}


def stages(found: Chosen) -> list[str]:
    return [hands.stage.__name__ for hands in found.river]


def test_texts_and_photographs_are_told_apart_by_the_archive_or_by_the_settings(tiled: dict[str, Any], tmp_path: Path) -> None:
    texts = chosen(**tiled)
    assert texts.texts == "auto" and stages(texts) == ["Embed", "Match"] and texts.river[0].make["side"] == "texts"
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/a.jpg").write_bytes(b"")
    photographs = chosen(**{**tiled, "archive": str(tmp_path / "photographs")})
    assert photographs.texts == "" and photographs.side == 64 and photographs.river[0].make["side"] == "pictures"
    (tmp_path / "images.csv").write_text("uri,caption\na.jpg,a river\n")
    assert chosen(**{**tiled, "archive": str(tmp_path / "images.csv")}).texts == ""
    assert chosen(**tiled, ngcg=Ngcg(queries="photographs")).texts == ""
    assert chosen(**tiled, ngcg=Ngcg(column="caption")).texts == "caption"
    assert chosen(**{**tiled, "archive": "anything"}, ngcg=Ngcg(queries="texts")).texts == "auto"


def test_photographs_may_be_described_before_they_are_embedded(tiled: dict[str, Any], student: Path, tmp_path: Path) -> None:
    base = str(student.parent / "base")
    photographs = {**tiled, "archive": str(tmp_path)}
    found = chosen(**photographs, ngcg=Ngcg(queries="photographs", describe=base))
    assert stages(found) == ["Describe", "Embed", "Match"] and found.side == 896 and found.far
    assert found.river[1].make["side"] == "texts" and "describes" in found.decides
    with pytest.raises(UserError, match=r"holds texts, which need no --ngcg\.describe"):
        chosen(**tiled, ngcg=Ngcg(describe=base))
    with pytest.raises(UserError, match=r"photographs are described by one"):
        chosen(**photographs, ngcg=Ngcg(queries="photographs", describe=str(tmp_path)))


def test_an_engine_is_given_several_slices_at_once_and_is_alone_on_cpus(tiled: dict[str, Any]) -> None:
    plain, engine = (chosen(**tiled, ngcg=Ngcg(serving=Serving(backend=each))).river[0] for each in ("auto", "vllm"))
    assert plain.at_once == 1
    assert (engine.at_once > 1) == (importlib.util.find_spec("vllm") is not None) and engine.workers == 1


def test_area_and_tiles_decide_a_row_and_how_it_is_served_does_not(tiled: dict[str, Any], tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("id,lat,lon\na,1,2\n")
    area = Area(file=str(points), nearest=3)
    asked = [Ngcg(), Ngcg(k=5), Ngcg(area=Area(box="0,0,9,9")), Ngcg(area=area), Ngcg(serving=Serving(dtype="float32"))]
    found = [fingerprint(chosen(**tiled, ngcg=each).decides) for each in asked]
    points.write_text("id,lat,lon\na,1,3\n")
    found.append(fingerprint(chosen(**tiled, ngcg=Ngcg(area=area)).decides))
    assert len(set(found)) == len(found)
    same = [Ngcg(serving=Serving(batch=3)), Ngcg(engines=2)]
    assert {fingerprint(chosen(**tiled, ngcg=each).decides) for each in same} == {found[0]}


def test_a_gallery_of_another_encoder_or_none_is_one_line(tiled: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no gallery is named; give --gallery"):
        chosen(**{**tiled, "gallery": None})
    other = tiny_towers.smolvlm(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"is a gallery of another encoder \(of other weights"):
        chosen(**{**tiled, "model": other})
    nowhere = np.full(9, np.nan)
    galleries.build(tmp_path / "gallery", [tiles.table(tiles.unit(9, seed=0, size=64), nowhere, nowhere)])
    with pytest.raises(UserError, match=r"9 of the 9 tiles .* have no place"):
        chosen(**tiled)
