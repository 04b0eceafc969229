"""The river of the method as plain callables on small real parts: order of the stages, what travels, what the judge changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geobatch.actors import Hands
from geobatch.engine import gallery as galleries
from geobatch.engine.request import GeneratorConfig
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.methods.geotoken.config import Sampling, Selection
from geobatch.methods.geotoken.judge import JudgeSettings
from geobatch.methods.geotoken.judge_record import judged
from geobatch.methods.geotoken.locate import ENCODER, NETWORK, Locate, decides, river
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import REWARD, RewardModel
from geobatch.pipeline.stages import applied
from geobatch.schema import CONFIDENCE, GALLERY, LOCATED, PICTURE, empty_columns
from tests.engine.clip import write_clip
from tests.methods.geotoken.tiny import TINY, model_of

IMAGES = 12
SMALL = Locate(sampling=Sampling(samples=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, a gallery of thirty random pictures, and a judge that answers from a table."""
    made = tmp_path_factory.mktemp("located")
    write_clip(made / "model" / ENCODER)
    pictures = np.random.default_rng(0).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8)
    vectors = Vision(str(made / "model" / ENCODER)).encode(pictures)
    rows = {
        **empty_columns(list(GALLERY), 30),
        "image_id": [f"g{row}" for row in range(30)],
        "uri": ["g"] * 30,
        "latitude": np.linspace(-60, 60, 30),
        "longitude": np.linspace(-170, 170, 30),
        "vector": list(vectors),
        "status": ["placed"] * 30,
    }
    galleries.build(made / "gallery", [pa.table(rows).cast(GALLERY)])
    model_of(replace(TINY, level=6, views=("image",), vector_size=vectors.shape[1])).save(made / "model" / NETWORK)
    (made / "judge").mkdir()
    table = {"i1": ["hm"], "i2": ['{"choice": 1}'], "*": ['{"choice": 2}']}
    (made / "judge" / "scripted.json").write_text(json.dumps({"replies": table}))
    return made


def pictures() -> pa.Table:
    noise = np.random.default_rng(1).integers(0, 256, (IMAGES, 40, 40, 3), dtype=np.uint8)
    columns = empty_columns(list(PICTURE), IMAGES)
    columns |= {
        "image_id": pa.array([f"i{row}" for row in range(IMAGES)]),
        "uri": pa.array(["u"] * IMAGES),
        "picture": pa.array([each.tobytes() for each in noise], pa.large_binary()),
        "picture_height": pa.array([40] * IMAGES, pa.int32()),
        "picture_width": pa.array([40] * IMAGES, pa.int32()),
    }
    return pa.table(columns)


def through(stages: list[Hands], table: pa.Table) -> pa.Table:
    """The rows after every stage."""
    for hands in stages:
        stage = hands()
        table = stage(table)
        if hasattr(stage, "close"):
            stage.close()
    return table


@pytest.fixture(scope="module")
def selected(folder: Path) -> pa.Table:
    """The rows before the judge."""
    stages = river(folder / "model", folder / "gallery", replace(SMALL, judge=JudgeSettings(model="judge")), 1)
    return through(stages[:-1], pictures())


def names(stages: list[Hands]) -> list[str]:
    return [hands.stage.__name__ for hands in stages]


def test_without_a_judge_the_picture_goes_with_the_embedding(folder: Path) -> None:
    stages = river(folder / "model", folder / "gallery", SMALL, 1)
    assert names(stages) == ["Embed", "Retrieve", "Sample", "Select"]
    assert "picture" not in stages[0]()(pictures()).column_names
    done = through(stages, pictures())
    assert {field.name for field in (*LOCATED, *CONFIDENCE)} <= set(done.column_names)
    assert set(done["chosen_by"].to_pylist()) == {"expected_share"} and done["reason"].null_count == IMAGES


def test_retrieval_knows_the_gallery_it_began_with_and_takes_a_gpu_when_told(folder: Path) -> None:
    told = galleries.read_record(folder / "gallery")["fingerprint"]
    for gpus in (0.0, 0.5):
        settings = replace(SMALL, gallery_gpus=gpus)
        _, retrieve, _, select = river(folder / "model", folder / "gallery", settings, 1)
        assert retrieve.make["fingerprint"] == select.make["fingerprint"] == told
        assert retrieve.make["gpu"] == (gpus > 0) and retrieve.gpus == gpus
        assert decides(settings) == decides(SMALL)  # it decides no row
    with pytest.raises(UserError, match="changed"):
        replace(select, make={**select.make, "fingerprint": "of the night before"})()
    with pytest.raises(UserError, match="not for both"):
        river(folder / "model", folder / "gallery", replace(SMALL, gallery_gpus=1, shards=2), 1)


def test_gpus_by_the_flag_for_stages_are_those_of_the_settings(folder: Path) -> None:
    plain = river(folder / "model", folder / "gallery", SMALL, 2)
    asked = river(folder / "model", folder / "gallery", replace(SMALL, gpus=0.5, gallery_gpus=1.0), 2)
    assert plain != asked
    assert applied(plain, ["Embed:gpus=0.5", "Sample:gpus=0.5", "Retrieve:gpus=1"]) == asked


@pytest.mark.parametrize("below", [1.0, 0.4])
def test_a_judge_sees_the_picture_and_overrules_the_selector(folder: Path, selected: pa.Table, below: float) -> None:
    judge = JudgeSettings(model=str(folder / "judge"), below=below, merge_km=0.0)
    stages = river(folder / "model", folder / "gallery", replace(SMALL, judge=judge), 1)
    assert names(stages) == ["Embed", "Retrieve", "Sample", "Select", "Judge"]
    assert (stages[-1].gpus, stages[-1].workers, stages[-1].at_once) == (0, 1, 3)
    plain, done = selected, through(stages[-1:], selected)
    assert "picture" in plain.column_names and "picture" not in done.column_names
    sure = np.array(plain["probability_200km"].to_pylist())
    asked = (sure < np.float32(below)) | (below == 1)
    assert 2 < asked.sum() <= IMAGES and asked.all() == (below == 1), "the threshold splits nothing"
    told = judged([done])
    assert told["asked"] == asked.sum() and told["placed"] == IMAGES
    for row, name in enumerate(done["image_id"].to_pylist()):
        same = all(done[axis][row].as_py() == plain[axis][row].as_py() for axis in ("latitude", "longitude"))
        by, why = done["chosen_by"][row].as_py(), done["fallback"][row].as_py()
        if not asked[row]:
            assert (same, by, why) == (True, "expected_share", None)
        elif name == "i1":
            assert (same, by, why) == (True, "expected_share", "judge: unparsed")
        else:
            assert (same, by, why) == (name == "i2", "judge", None)


def test_the_judge_as_selector_judges_what_the_default_chose(folder: Path) -> None:
    named = replace(SMALL, selection=Selection(selector="judge"))
    with pytest.raises(UserError, match=r"judge\.model"):
        river(folder / "model", folder / "gallery", named, 1)
    with pytest.raises(UserError, match=r"judge\.model"):
        decides(named)
    judge = JudgeSettings(model=str(folder / "judge"))
    asked = river(folder / "model", folder / "gallery", replace(named, judge=judge), 1)
    usual = river(folder / "model", folder / "gallery", replace(SMALL, judge=judge), 1)
    assert asked == usual


def test_rewards_are_computed_where_they_decide(folder: Path, tmp_path: Path) -> None:
    asked = replace(SMALL, selection=Selection(selector="reward"))
    with pytest.raises(UserError, match="no reward model"):
        river(folder / "model", folder / "gallery", asked, 1)
    shutil.copytree(folder / "model", tmp_path / "model")
    RewardModel(GeoTokenModel.load(folder / "model" / NETWORK).config, hidden=8).save(tmp_path / "model" / REWARD)
    stages = river(tmp_path / "model", folder / "gallery", asked, 1)
    assert names(stages) == ["Embed", "Retrieve", "Sample", "Reward", "Select"]
    done = through(stages, pictures())
    assert set(done["chosen_by"].to_pylist()) == {"reward"} and done["fallback"].null_count == IMAGES
    assert not {"rewards", "neighbour_vectors"} & set(done.column_names)


def test_what_decides_a_row_and_what_does_not() -> None:
    judge = JudgeSettings(model="m", mode="free")
    assert decides(SMALL) == decides(replace(SMALL, batch=7, gpus=0.5, judge=JudgeSettings(below=0.2)))
    assert decides(SMALL) != decides(replace(SMALL, sampling=Sampling(samples=9)))
    assert decides(SMALL) != decides(replace(SMALL, judge=judge)) != decides(replace(SMALL, judge=replace(judge, below=0.5)))
    slower = replace(judge, engines=2, generator=GeneratorConfig(in_flight=1))
    assert decides(replace(SMALL, judge=judge)) == decides(replace(SMALL, judge=slower))
    json.dumps(decides(replace(SMALL, judge=judge)))
