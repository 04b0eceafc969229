"""What the training job makes of its arguments, and what its workers make of its files; Ray itself is the river's tests'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geobatch.engine.gallery import Gallery, build, collect
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken import arrays as files
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Training
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import RewardModel
from geobatch.pipeline import build_gallery
from geobatch.pipeline import train as job
from geobatch.pipeline import train_card as cards
from geobatch.pipeline.align import GeoTokenAlign, _data, _settings, align_encoder
from geobatch.pipeline.build_gallery import embedded
from geobatch.pipeline.train import (
    GeoTokenTrain,
    _name,
    _network,
    _parted,
    _rewarded,
    _rewarding,
    _shared,
    _training,
    train,
)
from geobatch.pipeline.train_card import kept_to, measured, ours
from geobatch.pipeline.trainees import Make, MakeReward, _who, part
from geobatch.store import Store
from geobatch.train.loop import Loop, Worker
from tests.methods.geotoken.pools import known as pooled
from tests.methods.geotoken.test_arrays import tables


def asked(**more: object) -> GeoTokenTrain:
    return GeoTokenTrain(**{"archive": "a", "output": "o", "encoder": "e", "gallery": "g", **more})  # type: ignore[arg-type]


def gallery_of(views: dict[str, int]) -> Gallery:
    found = collect(tables(30, size=sum(views.values())))
    found.record["views"] = views
    return found


def test_the_network_reads_the_views_that_the_gallery_has() -> None:
    one = gallery_of({"image": 16})
    assert _network(asked(preset="small"), one) == GeoToken.small(16)
    assert _network(asked(), one) == GeoToken(views=("image",), vector_size=16)
    three = {"image": 6, "location": 6, "text": 6}
    assert _network(asked(), gallery_of(three)) == GeoToken(vector_size=6)
    unequal = _network(asked(group_size=2, neighbours=3), gallery_of({"image": 8, "location": 4}))
    assert (unequal.views, unequal.view_sizes, unequal.vector_size) == (("image", "location"), (8, 4), 8)
    assert (unequal.length, unequal.neighbours) == (11, 3)


def test_what_is_named_overrides_the_preset_and_nothing_else() -> None:
    assert _training(asked()) == Training.paper() and _training(asked(preset="small")) == Training.small()
    named = {"steps": 7, "batch": 32, "micro_batch": 4, "smoothing_km": 25.0, "blackout": 0.2, "keep": "best", "bf16": False}
    found = _training(asked(preset="small", **named))
    assert all(getattr(found, name) == value for name, value in named.items())
    assert found.learning_rate == Training.small().learning_rate
    passes = _training(asked(preset="small", epochs=3))
    assert (passes.epochs, passes.steps) == (3, None)  # the preset's 500 steps would be made instead
    assert _training(asked(preset="small", epochs=3, steps=9)).steps == 9


def test_images_kept_out_leave_a_batch_to_learn_from(tmp_path: Path) -> None:
    gallery, known = collect(tables(60)), files.write_images(tables(125, name="b"), tmp_path)
    files.write_neighbours(gallery, known, files.Search(count=5), tmp_path)

    def held(**split: float) -> list[int]:
        said, one_by_one = _parted(tmp_path, {"validation": 0.2, "seed": 0, "batch": 64, **split})
        assert said["images"] == 100 and one_by_one
        kept, out = (np.load(tmp_path / f"{name}.npy").tolist() for name in ("kept", "held"))
        assert sorted([*kept, *out]) == list(range(100))
        return list(out)

    assert len(held()) == 20 and len(held(validation=0.9)) == 36 and held() == held(images=100) != held(seed=1)
    with pytest.raises(UserError, match=r"an archive of 90 images and this is one of 100.*give its own --archive"):
        held(images=90)


def test_a_reward_model_is_measured_on_what_its_network_has_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    asked, network = ({"validation": share, "seed": seed, "batch": 64} for share, seed in ((0.1, 0), (0.1, 7)))
    assert kept_to({"split": network}, asked) == network
    with pytest.raises(UserError, match=r"kept 0\.1 of its images out .* give --validation 0\.1$"):
        kept_to({"split": network}, asked | {"validation": 0.05})
    with pytest.raises(UserError, match="train one with --reward also"):
        kept_to({}, asked)
    assert not capsys.readouterr().out
    assert kept_to({"trained": "before"}, asked) == asked and "does not say which images" in capsys.readouterr().out


def test_a_trainings_name_is_all_that_decides_it() -> None:
    names = {
        _name("x", "y", GeoToken.small(), training, config, one_by_one)
        for training, config, one_by_one in [
            (Training.small(), asked(), True),
            (Training.small(), asked(), False),
            (Training.small(), asked(validation=0.1), True),
            (Training.small(), asked(exclude_above=0.9), True),
            (Training(smoothing_km=3.0), asked(), True),
        ]
    }
    assert len(names) == 5
    assert _name("x", "y", GeoToken.small(), Training.small(), asked(workers=3), True) in names


def test_workers_train_both_models_from_files(tmp_path: Path) -> None:
    network = GeoToken.small(8)
    gallery, known = collect(tables(60)), files.write_images(tables(50, name="b"), tmp_path)
    files.write_neighbours(gallery, known, files.Search(count=10, surface=Surface(neighbours=6)), tmp_path)
    _parted(tmp_path, {"validation": 0.3, "seed": 0, "batch": 8})
    assert set(part(tmp_path, "kept").places()[0]).isdisjoint(part(tmp_path, "held").places()[0])
    training = Training(batch=8, steps=2, bf16=False, blackout=0.5, smoothing_km=90.0)
    trainee = Make(str(tmp_path), network, training)(Worker())
    while trainee.step < trainee.steps:
        trainee.advance()
    trainee.save(tmp_path / "geotoken")
    assert GeoTokenModel.load(tmp_path / "geotoken").config == network
    said = json.loads((tmp_path / "geotoken/config.json").read_text())
    assert said["history"][0]["step"] == 2 and said["training"]["blackout"] == 0.5
    rewarding = Rewarding(samples=4, hidden=16, training=Training(batch=8, steps=2, bf16=False))
    judge = MakeReward(str(tmp_path), rewarding, str(tmp_path / "geotoken"))(Worker())
    while judge.step < judge.steps:
        judge.advance()
    judge.save(tmp_path / "reward")
    assert RewardModel.load(tmp_path / "reward").config == network
    assert json.loads((tmp_path / "reward/config.json").read_text())["training"]["samples"] == 4


def test_figures_and_calibration_are_added_to_a_card_that_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, arrays = tmp_path / "model", tmp_path / "arrays"
    GeoTokenModel(GeoToken.small(8)).save(output / "geotoken")
    gallery, known = collect(tables(60)), files.write_images(tables(50, name="b"), arrays)
    files.write_neighbours(gallery, known, files.Search(count=5, surface=Surface(neighbours=6)), arrays)
    np.save(arrays / "held.npy", np.arange(12))
    monkeypatch.setattr(cards, "MEASURED", 7)
    card: dict[str, Any] = {"trained": "x"}
    measured(output, arrays, 12, card)
    written = json.loads((output / "geobatch.json").read_text())
    assert written == card and card["validation"]["images"] == 7 and 0 <= card["validation"]["greedy_200km"] <= 1
    assert card["calibration"] == {}  # of twelve images there is none
    fit(*pooled(250, seed=1)).save(output)  # killed between the calibration and its line in the card
    del card["calibration"]
    measured(output, arrays, 12, card)
    assert card["calibration"]["error_25km"] < 0.2 and card["validation"] == written["validation"]
    shutil.rmtree(output / "geotoken")  # nothing is opened again where nothing is missing
    measured(output, arrays, 12, card)
    del card["calibration"]
    (output / "calibration.json").unlink()
    np.save(arrays / "held.npy", np.repeat(np.arange(19), 20))  # many images, of too few places
    measured(output, arrays, 380, card)
    assert card["calibration"] == {} and "of 19 places do not calibrate, 20 are needed" in capsys.readouterr().out


def test_the_reward_model_has_a_batch_that_its_workers_can_share() -> None:
    assert [_shared(256, *told) for told in ((1000, 2), (1000, 3), (100, 3), (2, 3))] == [256, 255, 99, 3]


def test_a_reward_model_is_trained_again_where_what_decides_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "kept.npy", np.arange(600))
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward/config.json").write_text('{"history": []}')
    names, card, config = list[str](), dict[str, Any](), asked(preset="small")
    monkeypatch.setattr(job, "taught", lambda make, output, name, training, loop: names.append(name))
    for decides in (["net", "images"], ["net", "images"], ["net", "other images"], ["net", "images"]):
        _rewarded(config, _rewarding(config), tmp_path, tmp_path, decides, card)
    assert len(names) == 3 and names[0] == names[2] != names[1]
    assert card["reward"]["trained"] == names[2] and json.loads((tmp_path / "geobatch.json").read_text()) == card
    shutil.rmtree(tmp_path / "reward")
    with pytest.raises(FileNotFoundError):  # what is gone is trained again, whatever the card says
        _rewarded(config, _rewarding(config), tmp_path, tmp_path, ["net", "images"], card)


def test_parts_of_layers_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(UserError, match=r"leave --loop\.parallel at ddp"):
        train(asked(loop=Loop(parallel="fsdp")))
    with pytest.raises(UserError, match="holds the whole network"):
        _who("nowhere", Worker(sharded=True))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"validation": -0.1}, "give --validation from 0"),
        ({"validation": 1.0}, "give --validation from 0"),
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"validate_steps": -1}, "validate_steps is -1; give at least 0"),
        ({"blackout": 1.5}, "shares"),
        ({"learning_rate": 0.0}, "learning_rate is above 0"),
        ({"reward_steps": 0}, "steps is 0"),
        ({"batch": 9}, "cannot be shared by 2 workers"),
        ({"loop": {"workers": 0}}, r"loop\.workers is 0; give at least 1"),
        ({"loop": {"checkpoint_steps": 0}}, r"loop\.checkpoint_steps is 0; give at least 1"),
        ({"loop": {"keep": 0}}, r"loop\.keep is 0; give at least 1"),
        ({"loop": {"failures": -2}}, "correct them"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_opened(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        train(asked(**{**wrong, **({"loop": Loop(**wrong["loop"])} if "loop" in wrong else {})}))


def test_neighbours_that_cannot_be_are_refused_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "gallery", tables(60))
    (tmp_path / "encoder").mkdir()
    monkeypatch.setattr(job, "embedded", None)
    folders = {name: str(tmp_path / name) for name in ("gallery", "encoder", "output")}
    with pytest.raises(UserError, match="cannot leave near-duplicates out"):
        train(asked(preset="small", exclude_above=0.9, **folders))


def test_vectors_of_another_encoder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    build(tmp_path / "gallery", tables(60), source={"parts": {}}, encoder="of another")
    folders = {name: str(tmp_path / name) for name in ("encoder", "output")}
    with pytest.raises(UserError, match="is a gallery of another encoder than"):
        train(asked(gallery=str(tmp_path / "gallery"), **folders))
    learns = GeoTokenAlign(features=str(tmp_path / "gallery"), **folders)
    with pytest.raises(UserError, match="is a gallery of another encoder than"):
        _data(learns, _settings(learns), tmp_path / "work", tmp_path / "encoder", Store())
    (tmp_path / "encoder/head.json").touch()  # of one that was aligned the vectors are wanted as they were before
    with pytest.raises(UserError, match="holds no finished table"):
        _data(learns, _settings(learns), tmp_path / "work", tmp_path / "encoder", Store())


def test_what_a_killed_attempt_embedded_binds_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    outputs = list[Path]()
    monkeypatch.setattr(build_gallery, "embed_archive", lambda config, by: outputs.append(Path(config.output)))
    monkeypatch.setattr(build_gallery, "latest", lambda store, output: output)
    others = ({"truth": "t.csv"}, {"archive": "b"}, {"exclude": ("*.tif",)}, {"decode": DecodeConfig(side=224)})
    for more in ({}, {}, {"steps": 3}, *others):
        embedded(asked(**more), tmp_path / "work", tmp_path / "encoder")
    (tmp_path / "encoder/weights").touch()
    embedded(asked(), tmp_path / "work", tmp_path / "encoder")
    assert {each.parent for each in outputs} == {tmp_path / "work"}
    assert outputs[0] == outputs[1] == outputs[2] and len(set(outputs)) == 2 + len(others)


def test_a_model_takes_the_place_of_a_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/encoder").mkdir(parents=True)
    with pytest.raises(UserError, match="models holds something else than a model of this job; choose another --output"):
        train(asked(output="models"))
    assert ours(tmp_path / "models", "models/encoder")  # a model's parts may be made where they are to lie
    (tmp_path / "models/geotoken").mkdir()
    assert not ours(tmp_path / "models", "models/encoder")
    (tmp_path / "models/geotoken/config.json").write_text("{}")
    assert ours(tmp_path / "models", "e")
    (tmp_path / "models/geobatch.json").write_text('{"method": "ngcg"}')
    assert not ours(tmp_path / "models", "e")


def test_an_encoder_takes_the_place_of_an_aligned_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/clip").mkdir(parents=True)
    said = {"archive": "a", "output": "models", "encoder": "nowhere"}
    with pytest.raises(UserError, match="models holds something else than an encoder of this job; choose another --output"):
        align_encoder(GeoTokenAlign(**said))
    (tmp_path / "models/head.json").touch()
    with pytest.raises(UserError, match="there is no encoder folder"):
        align_encoder(GeoTokenAlign(**said))


def test_an_unknown_preset_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UserError, match='"paper" or "small"'):
        train(asked(preset="large"))


def test_a_model_is_no_object_of_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a model is written to a folder, not to s3://models/a; copy it into the bucket"):
        train(asked(output="s3://models/a"))
    with pytest.raises(UserError, match="an encoder is written to a folder, not to s3://models/a; copy it into the bucket"):
        align_encoder(GeoTokenAlign(archive="a", output="s3://models/a", preset="small"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="there is no encoder folder"):
        train(asked(output=f"file://{tmp_path}/model"))
    assert not list(tmp_path.iterdir())
