"""The captions job as its users run it: killed and taken up, curated anew, without a teacher, through a real HTTP endpoint."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from geobatch.benchmark.deposit import broken, write_archive, write_broken, write_truth
from geobatch.benchmark.world import World
from geobatch.engine.remote import KEY, Endpoint
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geolocsft.curate import Curation
from geobatch.methods.geolocsft.examples import read as read_examples
from geobatch.methods.geolocsft.prompts import student, tag
from geobatch.pipeline.caption import GeoLocSftCaption, caption, curate_table
from geobatch.schema import CAPTIONS
from geobatch.sink import latest, read
from geobatch.sink.rows import parquet
from geobatch.store import Store
from tests.engine.endpoint import Answer, completion, served
from tests.methods.geolocsft.worded import geo_caption
from tests.river.job import Ended, run_job

CROPS = 48


@dataclass(frozen=True)
class Lesson:
    """An archive, its truth, and a scripted teacher with the fates of some images in it (image_id's ending -> what comes)."""

    folder: Path
    truth: dict[str, tuple[float, float]]
    fates: dict[str, str]

    def job(self, output: str, *arguments: str, **settings: Any) -> Ended:
        """Runs the captions job into a folder below this one."""
        given = ["--archive", str(self.folder / "archive"), "--truth", str(self.folder / "truth.csv")]
        given += ["--output", str(self.folder / output), "--shard-rows", "8", "--workers", "1"]
        return run_job(*given, *arguments, job="geolocsft_caption", **settings)

    def config(self, output: str, **settings: Any) -> GeoLocSftCaption:
        """The same job for this process."""
        here = {name: str(self.folder / where) for name, where in (("archive", "archive"), ("truth", "truth.csv"))}
        return GeoLocSftCaption(**here, output=str(self.folder / output), shard_rows=8, workers=1, **settings)

    def rows(self, output: str) -> dict[str, dict[str, Any]]:
        """The table's rows by name, the part of the image_id that the truth knows."""
        rows = read(str(self.folder / output)).to_pylist()
        found = {row["image_id"].split("/archive/")[1]: row for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """48 crops of the Blue Marble, broken files, and a teacher who gets four of them wrong, each another way."""
    folder = tmp_path_factory.mktemp("lesson")
    world = World()
    latitude, longitude = world.scatter(CROPS, seed=11)
    photographs = world.photograph(latitude, longitude, seed=11)
    truth = write_archive(folder / "archive", photographs, latitude, longitude, seed=11, per_shard=12)
    write_broken(folder / "archive")
    write_truth(folder / "truth.csv", truth)
    chosen = random.Random(11).sample(sorted(truth), 4)
    fates = dict(zip(chosen, ("far", "refused", "cut_off", "crashed"), strict=True))
    replies: dict[str, list[Any]] = {f"*/archive/{name}": [wise(name, *place)] for name, place in truth.items()}
    for name, fate in fates.items():
        replies[f"*/archive/{name}"] = {
            "far": [wise(name, truth[name][0] / 2, truth[name][1] + 3)],
            "refused": ["I'm sorry, I can't."],
            "cut_off": ["{" + "x" * 5000],
            "crashed": [{"dies": True}],
        }[fate]
    (folder / "teacher").mkdir()
    (folder / "teacher/scripted.json").write_text(json.dumps({"replies": replies, "seconds": 0.05}))
    return Lesson(folder, truth, fates)


def wise(name: str, latitude: float, longitude: float) -> str:
    return json.dumps(geo_caption(name, latitude, longitude))


def check_curated(folder: Path, account: dict[str, Any]) -> pa.Table:
    """What lies in `curated/` agrees with itself; returns the kept rows."""
    kept, dropped = (pq.read_table(folder / f"{name}.parquet") for name in ("captions", "dropped"))
    assert (account["kept"], sum(account["dropped"].values())) == (len(kept), len(dropped))
    assert account["captions"] == len(kept) + len(dropped)
    examples = json.loads((folder / "sharegpt.json").read_text())
    assert len(examples) == len(kept)
    for row, example in zip(kept.to_pylist(), examples, strict=True):
        (path,) = example["images"]
        assert (folder / path).read_bytes() == row["image"]
        human, gpt = example["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"] == f"<image>{student('tag').question}" and example["system"] == student("tag").system
        assert gpt["value"].endswith(tag(row["latitude"], row["longitude"]))
        assert f"{row['latitude']:.5f}" not in human["value"] + example["system"]
    assert len(list((folder / "images").iterdir())) == len(kept)
    whole, others = (list(read_examples(Store(), str(folder / name), "tag")) for name in ("captions.parquet", "sharegpt.json"))
    assert [(each.image, each.answer) for each in whole] == [(each.image, each.answer) for each in others]
    return kept


@pytest.mark.torture  # the flow is that of every run, whose driver is killed in test_kills
@pytest.mark.timeout(400)
def test_killed_taken_up_and_curated_anew(lesson: Lesson) -> None:
    output, store = lesson.folder / "out", Store()
    teacher = ("--teacher", str(lesson.folder / "teacher"))

    def some_committed(_: float) -> bool:
        return len(list((output / "runs/000001/commits").glob("*.json"))) >= 2

    killed = lesson.job("out", *teacher, kill_when=some_committed)
    assert killed.status is None or killed.status < 0, killed.output
    before = {path.name: path.stat().st_mtime_ns for path in (output / "places").iterdir()}
    committed = {json.loads(path.read_text())["part"]["path"] for path in (output / "runs/000001/commits").iterdir()}
    assert not (output / "curated").exists() and latest(store, str(output)) is None

    ended = lesson.job("out", *teacher)
    assert ended.status == 0, ended.output
    assert "taking up run" in ended.output
    for path in committed:  # what was written is not asked for again
        name = path.removeprefix("places/")
        assert (output / path).stat().st_mtime_ns == before[name]
    rows = lesson.rows("out")
    assert len(rows) == CROPS + len(broken())
    for name, place in lesson.truth.items():
        row, fate = rows[name], lesson.fates.get(name)
        assert row["reason"] == (None if fate == "far" else fate), name
        if row["reason"] is None:
            assert (row["latitude"], row["longitude"]) == place
            assert json.loads(row["caption"])["image_id"].endswith(name)
    done = json.loads((output / "runs/000001/done.json").read_text())
    assert done["read"] == done["placed"] + done["rejected"] == len(rows)

    account = json.loads((output / "curated/account.json").read_text())
    kept = check_curated(output / "curated", account)
    far = pq.read_table(output / "curated/dropped.parquet").filter(pa.compute.field("reason") == "far")
    assert [name.split("/archive/")[1] for name in far["image_id"].to_pylist()] == [
        name for name, fate in lesson.fates.items() if fate == "far"
    ]
    truth, answers = ([np.asarray(kept[f"{prefix}{axis}"]) for axis in ("latitude", "longitude")] for prefix in ("", "answer_"))
    assert haversine_km(*truth, *answers).max() < 25

    again = caption(lesson.config("out", teacher=teacher[1], curation=Curation(target=5)))
    assert not again["new"]  # the captions stand; only what is kept of them is decided anew
    assert len(check_curated(output / "curated", again["curated"])) == 5
    assert again["curated"]["dropped"]["surplus"] == len(kept) - 5
    assert lesson.rows("out") == rows


@pytest.fixture(scope="module")
def secret() -> Iterator[str]:
    """A key in the environment of Ray's workers; Ray starts with the first job here and ends with the last."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as scratch:
        patch.setenv("RAY_TMPDIR", scratch)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv(KEY, "sk-very-secret")
        yield "sk-very-secret"
        ray.shutdown()


@pytest.mark.timeout(200)
def test_through_an_endpoint_and_the_key_is_written_nowhere(
    lesson: Lesson, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(body: dict[str, Any]) -> Answer:
        if body["max_tokens"] == 1:
            return completion("Hello")
        question = body["messages"][1]["content"][1]["text"]
        name = question.split("/archive/")[1].split('"')[0]
        return completion(wise(name, *lesson.truth[name]))

    with served(answers) as server:
        caption(lesson.config("far", endpoint=Endpoint(url=server.url, model="m"), exclude=("shards/*",)))
    said = capsys.readouterr().out
    assert f"pictures and their coordinates are sent to {server.url}" in said
    asked = [body for body in server.bodies if body["max_tokens"] > 1]
    rows = [row for row in lesson.rows("far").values() if row["reason"] is None]
    assert len(asked) == len(rows) == sum(name.startswith("loose/") for name in lesson.truth)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {secret}"}
    written = b"".join(path.read_bytes() for path in (lesson.folder / "far").rglob("*") if path.is_file())
    assert secret.encode() not in written and secret not in said


@pytest.mark.timeout(200)
def test_without_a_teacher_the_answers_are_the_truth(lesson: Lesson, secret: str) -> None:
    account = caption(lesson.config("none", teacher="none", exclude=("loose/*",)))
    kept = check_curated(lesson.folder / "none/curated", account["curated"])
    assert len(kept) and kept["caption"].null_count == len(kept)
    for row in kept.to_pylist():
        assert (row["answer_latitude"], row["answer_longitude"]) == lesson.truth[row["image_id"].split("/archive/")[1]]


def test_a_table_without_one_caption_is_the_users_to_mend(lesson: Lesson) -> None:
    folder = lesson.folder / "nothing"
    row = {"image_id": "a", "uri": "a", "status": "rejected", "stage": "label", "reason": "no_place"}
    part = parquet(pa.Table.from_pylist([row], schema=CAPTIONS))
    store = Store()
    store.put(str(folder / "places/a.parquet"), part)
    store.put(str(folder / "table/1.json"), json.dumps({"parts": [{"path": "places/a.parquet", "rows": 1}]}).encode())
    with pytest.raises(UserError, match="not one image"):
        curate_table(store, lesson.config("nothing", teacher="none"))
    assert not (folder / "curated").exists()


def test_more_pictures_than_one_object_holds_are_refused(lesson: Lesson, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lesson.config("none", teacher="none", exclude=("loose/*",))
    monkeypatch.setattr("geobatch.pipeline.caption.LARGEST", 10_000)
    with pytest.raises(UserError, match=r"lower --curation\.target"):
        curate_table(Store(), config)


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({}, "name one teacher"),
        ({"teacher": "none", "endpoint": Endpoint(url="http://127.0.0.1:9/v1", model="m")}, "name one teacher"),
        ({"teacher": "/nowhere"}, "there is no base model folder"),
    ],
)
def test_no_teacher_or_two_are_refused_before_anything_is_written(lesson: Lesson, named: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        caption(lesson.config("refused", **named))
    assert not (lesson.folder / "refused").exists()
