"""The main job asking a multimodal LLM: a table that answers as told, and vLLM serving one with random weights.

Recipe: 120 crops of the Blue Marble as an archive in S3. The table's answers are the truth, moved by some metres, but for the
names in `FATES`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark.deposit import write_archive
from geobatch.benchmark.world import World
from geobatch.geo.distance import haversine_km
from geobatch.sink import read
from geobatch.store import Store
from tests.conftest import S3Server
from tests.engine import tiny as models
from tests.river.conftest import upload
from tests.river.job import Ended, run_job, said

CROPS, DRAWS = 120, 5
#: What the table says of the first images, and the reason it must end as.
FATES: list[tuple[list[Any], str]] = [
    ([{"dies": True}], "crashed"),
    ([{"refuses": "too_long"}], "too_long"),
    (["I am sorry, but I cannot determine where this is."], "refused"),
    (["<answer>\nlat: 123.00000\nlon: 5.00000\n</answer>"], "out_of_range"),
    (["Somewhere with trees."], "unparsed"),
]


def tag(latitude: float, longitude: float) -> str:
    return f"Trees.\n<answer>\nlat: {latitude:.5f}\nlon: {longitude:.5f}\n</answer>"


@dataclass(frozen=True)
class Asked:
    """An archive in S3, where its images are, what becomes of some, and the folder of a table that knows."""

    bucket: str
    truth: dict[str, tuple[float, float]]
    fates: dict[str, str]
    model: Path

    def given(self, s3: S3Server, output: str, *more: str) -> list[str]:
        given = ["--archive", f"s3://{self.bucket}/archive", "--output", f"s3://{self.bucket}/{output}"]
        given += ["--method", "geolocsft", "--shard-rows", "16", "--store.endpoint", s3.endpoint, "--store.region", "us-east-1"]
        if "--model" not in more:
            given += ["--model", str(self.model)]
        return [*given, *more]

    def job(self, s3: S3Server, output: str, *more: str, **settings: Any) -> Ended:
        return run_job(*self.given(s3, output, *more), **settings)

    def rows(self, s3: S3Server, output: str) -> dict[str, dict[str, Any]]:
        found = read(f"s3://{self.bucket}/{output}", store=s3.config()).to_pylist()
        rows = {row["image_id"].split("/archive/")[1]: row for row in found}
        assert len(rows) == len(found) == CROPS
        return rows


@pytest.fixture(scope="module")
def asked(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder, world = tmp_path_factory.mktemp("asked"), World()
    latitude, longitude = world.scatter(CROPS, seed=5)
    truth = write_archive(
        folder / "archive", world.photograph(latitude, longitude, seed=5), latitude, longitude, seed=5, per_shard=30
    )
    names = sorted(truth)
    fates = {name: reason for name, (_, reason) in zip(names, FATES, strict=False)}
    said = dict(zip(names, (told for told, _ in FATES), strict=False))
    replies = {f"*/{name}": said.get(name) or _told(*truth[name]) for name in names}
    # The ladder: this one's first reply is none, its second is.
    replies[f"*/{names[len(FATES)]}"] = ["Hm.", *_told(*truth[names[len(FATES)]])]
    (folder / "model").mkdir()
    (folder / "model/scripted.json").write_text(json.dumps({"replies": replies, "seconds": 0.02}))
    bucket = s3.bucket()
    upload(folder / "archive", f"s3://{bucket}/archive", s3.config())
    return Asked(bucket, truth, fates, folder / "model")


def _told(latitude: float, longitude: float) -> list[str]:
    """The greedy answer and draws: three of four agree with it, one is a landmark on the other side of the Earth."""
    near = [tag(latitude, longitude), tag(latitude + 0.001, longitude), tag(latitude, longitude - 0.001)]
    return [*near, tag(-latitude, (longitude + 360) % 360 - 180)]


def _near(row: dict[str, Any], truth: tuple[float, float]) -> bool:
    return float(haversine_km(row["latitude"], row["longitude"], *truth)) < 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize("output", ["many", pytest.param("again", marks=pytest.mark.torture)])
def test_every_image_once_killed_in_the_middle_or_not_and_each_poison_one_rejection(
    output: str, asked: Asked, s3: S3Server
) -> None:
    """With five answers an image; single ones go the same way in `test_overfit`."""
    store, several = Store(s3.config()), ("--geolocsft.asking.answers", str(DRAWS))

    def some_done(_: float) -> bool:
        return sum(map(len, store.objects(f"s3://{asked.bucket}/{output}/runs/000001/commits"))) >= 2

    if output == "again":
        assert asked.job(s3, output, *several, kill_when=some_done).status is None, "it ended before it was killed"
    ended = asked.job(s3, output, *several)
    assert ended.status == 0, ended.output
    assert ("taking up run" in ended.output) == (output == "again")
    rows = asked.rows(s3, output)
    assert {name: row["reason"] for name, row in rows.items() if row["status"] == "rejected"} == asked.fates
    refused = next(row for row in rows.values() if row["reason"] == "refused")
    assert "I am sorry" in refused["detail"]
    for name, row in rows.items():
        if row["status"] == "rejected":
            continue
        assert _near(row, asked.truth[name]) and row["method"] == "geolocsft" and row["chosen_by"] == "consensus"
        assert sum(each["count"] for each in row["candidates"]) >= DRAWS - 2  # the one that said "Hm." twice
        assert {each["origin"] for each in row["candidates"]} == {"reply"}
        assert 0.5 < row["probability_25km"] <= 1
    well = json.loads(store.get(f"s3://{asked.bucket}/{output}/runs/000001/health.json"))
    assert not well["ills"] and well["placed"] == CROPS - len(FATES), well
    other = said(*asked.given(s3, output))
    assert other.status == 2 and "--relocate" in other.output, "another way of asking may not mix with this table"


@pytest.mark.torture  # test_overfit sends a model that has learnt something the same way
@pytest.mark.timeout(300)
def test_vllm_serves_a_random_model_through_the_whole_job(asked: Asked, s3: S3Server, vllm_there: None, tmp_path: Path) -> None:
    """What a random model says is no place, unless it is guided: then it is one, anywhere."""
    model = models.gemma3(tmp_path / "model")
    ended = asked.job(
        s3, "served", "--model", str(model), "--geolocsft.asking.guided", "--geolocsft.asking.tokens", "300",
        "--geolocsft.generator.context", "2048", "--geolocsft.generator.cpu-cache-gib", "1", "--geolocsft.asking.attempts", "1",
        "--geolocsft.generator.dtype", "float32", "--include", "*/0*.jpg", "--shard-rows", "8",
    )  # fmt: skip
    assert ended.status == 0, ended.output
    table: pa.Table = read(f"s3://{asked.bucket}/served", store=s3.config())
    assert len(table) > 4
    fates = set(table["reason"].to_pylist())
    assert fates <= {None, "cut_off"}, fates
    placed = np.asarray(table["latitude"].drop_null())
    assert np.all(np.abs(placed) <= 90)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "geoguess"], "there is no method 'geoguess'"),
        (["--model", "nobody/nothing-here"], "the Hugging Face hub did not give it"),
        (["--geolocsft.hints", "3"], "give --gallery and --geolocsft.hint-encoder"),
        (["--geolocsft.asking.answers", "0"], "at least 1"),
    ],
)
def test_a_bad_argument_is_one_line(arguments: list[str], says: str, asked: Asked, s3: S3Server,
                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # which a process reads when it begins
    own = "nobody/nothing-here" in arguments
    ended = asked.job(s3, "never", *arguments) if own else said(*asked.given(s3, "never", *arguments))
    assert ended.status == 2
    assert says in ended.output and "Traceback" not in ended.output
    assert len(ended.output.strip().splitlines()) == 1, ended.output
