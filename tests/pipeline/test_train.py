"""What the training job makes of its arguments, and what its workers make of its files; Ray itself is the river's tests'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from geobatch.engine.gallery import Gallery, collect
from geobatch.engine.surface import Surface
from geobatch.errors import UserError
from geobatch.methods.geotoken import arrays as files
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Training
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import RewardModel
from geobatch.pipeline import train as job
from geobatch.pipeline.align import GeoTokenAlign, align_encoder
from geobatch.pipeline.train import GeoTokenTrain, _measured, _name, _network, _rewarded, _shared, _split, _training, train
from geobatch.pipeline.trainees import Make, MakeReward, _who, part
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


def test_images_kept_out_leave_a_batch_to_learn_from() -> None:
    kept, held = _split(100, 0.2, Training(batch=64))
    assert len(held) == 20 and sorted([*kept, *held]) == list(range(100))
    assert len(_split(100, 0.9, Training(batch=64))[1]) == 36
    assert not np.array_equal(held, _split(100, 0.2, Training(batch=64, seed=1))[1])


def test_a_trainings_name_is_all_that_decides_it() -> None:
    names = {
        _name("x", "y", GeoToken.small(), training, config)
        for training, config in [
            (Training.small(), asked()),
            (Training.small(), asked(validation=0.1)),
            (Training.small(), asked(exclude_above=0.9)),
            (Training(smoothing_km=3.0), asked()),
        ]
    }
    assert len(names) == 4
    assert _name("x", "y", GeoToken.small(), Training.small(), asked(workers=3)) in names


def test_workers_train_both_models_from_files(tmp_path: Path) -> None:
    network = GeoToken.small(8)
    gallery, known = collect(tables(60)), files.write_images(tables(50, name="b"), tmp_path)
    files.write_neighbours(gallery, known, files.Search(count=10, surface=Surface(neighbours=6)), tmp_path)
    kept, held = _split(len(known), 0.3, Training(batch=8))
    np.save(tmp_path / "kept.npy", kept)
    np.save(tmp_path / "held.npy", held)
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


def test_figures_and_calibration_are_added_to_a_card_that_lacks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, arrays = tmp_path / "model", tmp_path / "arrays"
    GeoTokenModel(GeoToken.small(8)).save(output / "geotoken")
    gallery, known = collect(tables(60)), files.write_images(tables(50, name="b"), arrays)
    files.write_neighbours(gallery, known, files.Search(count=5, surface=Surface(neighbours=6)), arrays)
    np.save(arrays / "held.npy", np.arange(12))
    monkeypatch.setattr(job, "MEASURED", 7)
    card = {"trained": "x"}
    _measured(output, arrays, 12, card)
    written = json.loads((output / "geobatch.json").read_text())
    assert written == card and card["validation"]["images"] == 7 and 0 <= card["validation"]["greedy_200km"] <= 1
    assert card["calibration"] == {}  # of twelve images there is none
    fit(*pooled(250, seed=1)).save(output)  # killed between the calibration and its line in the card
    del card["calibration"]
    _measured(output, arrays, 12, card)
    assert card["calibration"]["error_25km"] < 0.2 and card["validation"] == written["validation"]
    shutil.rmtree(output / "geotoken")  # nothing is opened again where nothing is missing
    _measured(output, arrays, 12, card)


def test_the_reward_model_has_a_batch_that_its_workers_can_share() -> None:
    assert [_shared(256, *told) for told in ((1000, 2), (1000, 3), (100, 3), (2, 3))] == [256, 255, 99, 3]


def test_the_reward_trainings_name_is_all_that_decides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "kept.npy", np.arange(600))
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward/config.json").write_text('{"history": []}')
    names = list[str]()
    monkeypatch.setattr(job, "taught", lambda make, output, name, training, loop: names.append(name))
    for decides in (["net", "images"], ["net", "other images"], ["net", "images"]):
        _rewarded(asked(preset="small"), tmp_path, tmp_path, decides)
    assert names[0] == names[2] != names[1]


def test_parts_of_layers_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(UserError, match=r"leave --loop\.parallel at ddp"):
        train(asked(loop=Loop(parallel="fsdp")))
    with pytest.raises(UserError, match="holds the whole network"):
        _who("nowhere", Worker(sharded=True))


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
