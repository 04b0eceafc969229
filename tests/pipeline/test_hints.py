"""The river of a student that is told hints, as the job's arguments make it: gallery, question, answers, place, table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine import gallery as galleries
from geobatch.engine.request import Reply, Request, Sampling
from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.methods.geolocsft import locate as geolocsft
from geobatch.methods.geolocsft.ask import Ask, Asking
from geobatch.methods.geolocsft.prompts import tag
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.methods import choose
from geobatch.schema import GALLERY, PICTURE, empty_columns
from geobatch.sink.rows import Stamp, as_written
from geobatch.store import Store
from tests.river.conftest import make_encoder

NAMES = ("told", "torn", "mute", "dead")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeolocateBucket, np.ndarray]:
    """The arguments of a job with hints, and the thirty pictures of its gallery, the one of row r at latitude r."""
    folder = tmp_path_factory.mktemp("hinted")
    make_encoder(folder / "encoder")
    pictures = np.random.default_rng(0).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8)
    rows = {
        **empty_columns(list(GALLERY), 30),
        "image_id": [f"g{row}" for row in range(30)],
        "uri": ["g"] * 30,
        "latitude": np.arange(30.0),
        "longitude": -np.arange(30.0),
        "vector": list(Vision(str(folder / "encoder")).encode(pictures)),
        "status": ["placed"] * 30,
    }
    galleries.build(folder / "gallery", [pa.table(rows).cast(GALLERY)])
    (folder / "model").mkdir()
    replies: dict[str, list[Any]] = {
        "told": [tag(4, -4), tag(4.001, -4), tag(60, 60)],
        "torn": [tag(9, -9), tag(9, -9), tag(9, -9.0001)],
        "mute": ["I see a road."],
        "dead": [{"dies": True}],
    }
    (folder / "model/scripted.json").write_text(json.dumps({"replies": {**replies, "*": [""]}}))
    settings = geolocsft.Locate(hints=3, hint_encoder=str(folder / "encoder"), asking=Asking(answers=3))
    archive, output, model, gallery = (str(folder / name) for name in ("archive", "out", "model", "gallery"))
    config = GeolocateBucket(
        archive=archive, output=output, model=model, gallery=gallery, method="geolocsft", geolocsft=settings
    )
    return config, pictures


def test_hints_go_from_the_gallery_through_the_question_into_the_table(
    job: tuple[GeolocateBucket, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, pictures = job
    chosen = choose(Store(), config, workers=1)
    assert [hands.stage.__name__ for hands in chosen.river] == ["Hint", "Ask", "Agree"]
    hint, ask, agree = (hands() for hands in chosen.river)
    assert isinstance(ask, Ask)
    asked, answer = dict[str, Request](), ask.generator.ask

    def overheard(requests: list[Request], sampling: Sampling) -> list[Reply]:
        asked.update({request.key: request for request in requests})
        return answer(requests, sampling)

    monkeypatch.setattr(ask.generator, "ask", overheard)
    columns = empty_columns(list(PICTURE), len(NAMES))
    columns |= {
        "image_id": pa.array(NAMES),
        "uri": pa.array(NAMES),
        "picture": pa.array([picture.tobytes() for picture in pictures[[4, 9, 12, 21]]], pa.large_binary()),
        "picture_height": pa.array([48] * len(NAMES), pa.int32()),
        "picture_width": pa.array([48] * len(NAMES), pa.int32()),
    }
    done = agree(ask(hint(pa.table(columns))))
    ask.close()
    table = as_written(done, Stamp(run="000001", method=chosen.method, model="m")).to_pylist()
    rows = {row["image_id"]: row for row in table}
    for name, latitude in zip(NAMES, (4, 9, 12, 21), strict=True):
        question = asked[name].messages[-1]["content"][-1]["text"]
        near = rows[name]["neighbours"]
        assert len(near) == 3 and near[0]["image_id"] == f"g{latitude}"
        told = [f"lat: {each['latitude']:.4f}, lon: {each['longitude']:.4f}" for each in near]
        assert [question.find(line) for line in told] == sorted(question.find(line) for line in told)
        assert all(line in question for line in told), question
    assert (rows["told"]["latitude"], rows["told"]["longitude"], rows["told"]["chosen_by"]) == (4.0, -4.0, "consensus")
    assert rows["torn"]["radius_90_km"] < 0.02 < rows["told"]["radius_90_km"]
    assert [rows[name]["reason"] for name in NAMES] == [None, None, "unparsed", "crashed"]


def test_the_gallery_and_its_encoder_decide_a_row(job: tuple[GeolocateBucket, np.ndarray]) -> None:
    config, _ = job
    found = choose(Store(), config, workers=1).decides
    assert found["hints"] == 3 and {"gallery", "encoder"} <= set(found)
    encoder = Path(str(config.geolocsft.hint_encoder))
    (encoder / "notes.txt").write_text("another encoder")
    assert choose(Store(), config, workers=1).decides["encoder"] != found["encoder"]
    record = Path(str(config.gallery)) / "gallery.json"
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "source": {"parts": {}}, "encoder": found["encoder"]}))
    with pytest.raises(UserError, match="is a gallery of another encoder"):
        choose(Store(), config, workers=1)
    record.write_text(before)
    (encoder / "notes.txt").unlink()
