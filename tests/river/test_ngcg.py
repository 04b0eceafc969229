"""The main job by tiles: texts and photographs in S3, killed and taken up, described, and within an area.

Recipe: a tiny SmolVLM with random weights, and a gallery in S3 of 140 crops of the Blue Marble and of the 160 texts in other
words, since no random network brings texts to crops: to crops all texts would find one and the same. What is expected of each
row is what the encoder says in this process, by one product of matrices.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from geobatch.benchmark.deposit import write_archive, write_broken
from geobatch.benchmark.world import World
from geobatch.engine import gallery as galleries
from geobatch.engine.gallery import Gallery
from geobatch.geo.distance import haversine_km
from geobatch.methods.ngcg.area import Area
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.locate import Locate
from geobatch.methods.ngcg.serve import Serving
from geobatch.pipeline.geolocate import GeolocateBucket, decoding
from geobatch.pipeline.methods import choose
from geobatch.pipeline.ngcg_model import open_model
from geobatch.schema import IMAGE, empty_columns
from geobatch.sink import read
from geobatch.store import Store
from tests.conftest import S3Server
from tests.engine import tiny_towers
from tests.methods.ngcg import tiles
from tests.river.conftest import upload
from tests.river.job import Ended, run_job, said

CROPS, TEXTS, PHOTOGRAPHS = 140, 160, 60
TILES = CROPS + TEXTS
ENCODING = Encoding(dimensions=48)
_FACTS = (
    *("desert to the north", "coast to the west", "a river runs east", "mountains in the south", "forest all over"),
    *("fields and roads", "ice", "islands off the coast", "a dense city", "flat plains", "a lake in the middle"),
)


def texts_of(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [f"{', '.join(draw.choice(_FACTS, 3, replace=False))}; {km} km from a town" for km in draw.integers(5, 900, count)]


@dataclass(frozen=True)
class Tiled:
    """A bucket with model, gallery, texts and photographs; what the encoder says of the texts; where the photographs were."""

    bucket: str
    folder: Path
    gallery: Gallery
    texts: list[str]
    similarities: np.ndarray
    truth: dict[str, tuple[float, float]]

    def given(self, s3: S3Server, archive: str, output: str, *more: str) -> list[str]:
        given = ["--archive", f"s3://{self.bucket}/{archive}", "--output", f"s3://{self.bucket}/{output}", "--model",
                 f"s3://{self.bucket}/model", "--shard-rows", "4", "--workers", "1"]  # fmt: skip
        given += ["--ngcg.serving.dtype", "float32", "--store.endpoint", s3.endpoint, "--store.region", "us-east-1"]
        return [*given, *more]

    def job(self, s3: S3Server, archive: str, output: str, *more: str, **settings: Any) -> Ended:
        return run_job(*self.given(s3, archive, output, *more), **{"limit": 400, **settings})

    def rows(self, s3: S3Server, output: str, archive: str) -> dict[str, dict[str, Any]]:
        found = read(f"s3://{self.bucket}/{output}", store=s3.config()).to_pylist()
        rows = {row["image_id"].split(f"/{archive}", 1)[1].lstrip("/#"): row for row in found}
        assert len(rows) == len(found), "an image stands twice in the table"
        return rows

    def committed(self, s3: S3Server, output: str) -> int:
        return sum(map(len, Store(s3.config()).objects(f"s3://{self.bucket}/{output}/runs/000001/commits")))

    def agrees(self, row: dict[str, Any], similarities: np.ndarray) -> bool:
        """Whether a row's place is the best tile, up to what padding and batches round."""
        best = int(np.argmax(similarities))
        names = [each["image_id"] for each in row["neighbours"]]
        tile = int(names[0][1:])
        return (
            abs(row["score"] - similarities[best]) < 1e-4
            and similarities[best] - similarities[tile] < 1e-4
            and (row["latitude"], row["longitude"]) == (self.gallery.latitude[tile], self.gallery.longitude[tile])
            and len(set(names)) == len(row["candidates"]) == 10
        )


@pytest.fixture(scope="module")
def tiled(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Tiled:
    folder, world = tmp_path_factory.mktemp("tiled"), World()
    tiny_towers.smolvlm(folder / "model/merged", sharpness=3)
    card = {"method": "ngcg", "base": "nobody/knows", "adapter": None, "merged": "merged", "encoding": asdict(ENCODING)}
    (folder / "model/geobatch.json").write_text(json.dumps({**card, "gallery": "../gallery"}))
    encoder = Encoder.load(str(folder / "model/merged"), encoding=ENCODING)
    latitude, longitude = world.scatter(TILES, seed=1)
    texts = texts_of(TEXTS, seed=3)
    crops = encoder.encode_pictures(world.cut(latitude[:CROPS], longitude[:CROPS]))
    vectors = np.concatenate([crops, encoder.encode_texts([text.replace(", ", " and ") for text in texts])])
    table = tiles.table(vectors, latitude, longitude, np.full(TILES, 576.0))
    signed = open_model(Store(None), str(folder / "model")).fingerprint
    gallery = galleries.build(folder / "gallery", [table], encoder=signed)
    _write_texts(folder / "texts.csv", texts)
    latitude, longitude = world.scatter(PHOTOGRAPHS, seed=2)
    files = world.photograph(latitude, longitude, seed=2)
    truth = write_archive(folder / "photographs", files, latitude, longitude, seed=2, per_shard=20)
    write_broken(folder / "photographs")
    bucket = s3.bucket()
    for name in ("model", "gallery", "photographs"):
        upload(folder / name, f"s3://{bucket}/{name}", s3.config())
    Store(s3.config()).put(f"s3://{bucket}/texts.csv", (folder / "texts.csv").read_bytes())
    similarities = encoder.encode_texts(texts) @ vectors.T
    assert len(set(similarities.argmax(axis=1))) > TEXTS // 2, "the texts find too few tiles to tell anything"
    return Tiled(bucket, folder, gallery, texts, similarities, truth)


def _write_texts(path: Path, texts: list[str]) -> None:
    """A CSV of them, a blank one and one that is no UTF-8."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["id", "caption", "source"])
    table.writerows([f"q{row}", text, "made up"] for row, text in enumerate(texts))
    table.writerow(["blank", "  ", ""])
    path.write_bytes(out.getvalue().encode() + b"bytes,\xff\xfe\xfa,\r\n")


def killing_an_actor(stage: str, when: Callable[[], bool]) -> tuple[Callable[[float], bool], list[int]]:
    """SIGKILL to one actor of a stage that is made, once, when it is time; the job itself is left alive."""
    killed: list[int] = []

    def look(_: float) -> bool:
        if killed or not when():
            return False
        for process in psutil.Process(os.getpid()).children(recursive=True):
            try:
                named = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if named.startswith("ray::") and stage in named and "__init__" not in named:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                break
        return False

    return look, killed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("output", ["texts", pytest.param("again", marks=pytest.mark.torture)])
def test_texts_stand_once_though_an_actor_dies_and_the_driver_before_it(output: str, tiled: Tiled, s3: S3Server) -> None:
    if output == "again":
        first = tiled.job(s3, "texts.csv", output, kill_when=lambda _: tiled.committed(s3, output) >= 2)
        assert first.status is None, f"it ended before it was killed: {first.output}"
    done = tiled.committed(s3, output)
    look, killed = killing_an_actor("Embed", lambda: tiled.committed(s3, output) > done)
    ended = tiled.job(s3, "texts.csv", output, kill_when=look)
    assert ended.status == 0 and ("taking up run" in ended.output) == (output == "again"), ended.output
    assert killed, "no actor was there to be killed"
    rows = tiled.rows(s3, output, "texts.csv")
    assert len(rows) == TEXTS + 2
    assert {name: row["reason"] for name, row in rows.items() if row["status"] == "rejected"} == {
        "blank": "empty",
        "bytes": "not_a_text",
    }
    for row, text in enumerate(tiled.texts):
        found = rows[f"q{row}"]
        assert found["text"] == text and found["footprint_km"] == 576.0 and found["method"] == "ngcg"
        assert tiled.agrees(found, tiled.similarities[row]), found
        assert found["probability_1km"] is None and {each["origin"] for each in found["candidates"]} == {"tile"}


def _alone(tiled: Tiled, names: list[str], to_the_end: bool = True, **settings: Any) -> pa.Table:
    """What the river makes of photographs in this process; the last stage is left out unless `to_the_end`."""
    config = GeolocateBucket(archive=str(tiled.folder / "photographs"), output="o", model=str(tiled.folder / "model"),
                             ngcg=Locate(serving=Serving(dtype="float32"), **settings))  # fmt: skip
    chosen = choose(Store(None), config, workers=1)
    data = [(tiled.folder / "photographs" / name).read_bytes() for name in names]
    columns = {**empty_columns(list(IMAGE), len(names)), "image_id": names, "uri": names, "bytes": data}
    table = pa.table([pa.array(columns[field.name], field.type) for field in IMAGE], schema=IMAGE)
    for hands in (decoding(replace(config.decode, side=chosen.side or 0), 1), *chosen.river[: None if to_the_end else -1]):
        stage = hands()
        table = stage(table)
        getattr(stage, "close", lambda: None)()
    return table


def _photographed(tiled: Tiled, names: list[str]) -> np.ndarray:
    """Similarities (N, tiles) of photographs."""
    table = _alone(tiled, names, to_the_end=False)
    return np.stack(table["vector"].to_numpy()) @ tiled.gallery.vectors(np.arange(TILES)).T


@pytest.mark.torture  # a minute and a half; areas and the side of tiles are tested stage by stage
@pytest.mark.timeout(450)
def test_photographs_find_the_tile_they_look_like_among_the_nearest_to_a_hint(tiled: Tiled, s3: S3Server) -> None:
    """Half of the photographs have a hint some 200 km off, the others none, which is a rejection. An actor is killed."""
    hinted = sorted(tiled.truth)[::2]
    lines = [f"{name},{tiled.truth[name][0] + 2:.4f},{tiled.truth[name][1]:.4f}" for name in hinted]
    Store(s3.config()).put(f"s3://{tiled.bucket}/hints.csv", "\n".join(["image_id,lat,lon", *lines]).encode())
    area = ["--ngcg.area.file", f"s3://{tiled.bucket}/hints.csv", "--ngcg.area.nearest", "12"]
    look, killed = killing_an_actor("Embed", lambda: tiled.committed(s3, "near") >= 1)
    ended = tiled.job(s3, "photographs", "near", *area, kill_when=look)
    assert ended.status == 0 and killed, ended.output
    rows = tiled.rows(s3, "near", "photographs")
    assert len(rows) == PHOTOGRAPHS + 14
    reasons = {name: rows[name]["reason"] for name in tiled.truth}
    assert {name for name, reason in reasons.items() if reason == "no_tile"} == set(tiled.truth) - set(hinted)
    assert all(reasons[name] is None for name in hinted)
    singles = [name for name in hinted if name.startswith("loose/")]
    for name, similarities in zip(singles, _photographed(tiled, singles), strict=True):
        latitude, longitude = tiled.truth[name]
        near = tiled.gallery.near([round(latitude + 2, 4)], [round(longitude, 4)], 12)[1][0]
        narrowed = np.full(TILES, -1.0)
        narrowed[near] = similarities[near]
        assert tiled.agrees(rows[name], narrowed), rows[name]
        assert rows[name]["text"] is None and rows[name]["width"] == rows[name]["height"] == 48


@pytest.fixture(scope="module")
def described(tiled: Tiled) -> tuple[list[str], str]:
    """Photographs, and the folder of a model that says the n-th text of the n-th; one kills it, one it declines."""
    names = sorted(tiled.truth)
    told: dict[str, list[Any]] = {f"*{name}": [text] for name, text in zip(names, tiled.texts, strict=False)}
    told[f"*{names[0]}"], told[f"*{names[1]}"] = [{"dies": True}], ["I'm sorry, I can't help with that."]
    (tiled.folder / "describer").mkdir()
    (tiled.folder / "describer/scripted.json").write_text(json.dumps({"replies": told, "seconds": 0.02}))
    return names, str(tiled.folder / "describer")


def _as_told(tiled: Tiled, rows: list[dict[str, Any]]) -> None:
    """The photographs' rows, in the order of their names, are found by what was said of them, north of the equator."""
    assert (rows[0]["reason"], rows[1]["reason"]) == ("crashed", "refused")
    north = np.where(tiled.gallery.latitude >= 0, 0.0, -3.0)
    for row, found in list(enumerate(rows))[2:]:
        assert found["text"] == tiled.texts[row] and found["footprint_km"] == 576.0, found
        assert tiled.agrees(found, tiled.similarities[row] + north)


def test_photographs_described_first_are_searched_for_by_the_description_within_a_box(
    tiled: Tiled, described: tuple[list[str], str]
) -> None:
    """The stages of the job's own river, without Ray."""
    singles = [name for name in described[0] if name.startswith("loose/")]
    assert singles == described[0][: len(singles)]
    _as_told(tiled, _alone(tiled, singles, describe=described[1], area=Area(box="0,-180,90,180")).to_pylist())


@pytest.mark.torture  # the same by the whole job
@pytest.mark.timeout(450)
def test_the_job_describes_photographs(tiled: Tiled, described: tuple[list[str], str], s3: S3Server) -> None:
    names, model = described
    box = ["--ngcg.area.box", "0,-180,90,180", "--include", "*.jpg"]
    ended = tiled.job(s3, "photographs", "described", "--ngcg.describe", model, *box)
    assert ended.status == 0, ended.output
    rows = tiled.rows(s3, "described", "photographs")
    _as_told(tiled, [rows[name] for name in names])


@pytest.mark.torture  # the texts' run goes the same way
@pytest.mark.timeout(900)
def test_photographs_killed_and_taken_up(tiled: Tiled, s3: S3Server) -> None:
    assert tiled.job(s3, "photographs", "direct", kill_when=lambda _: tiled.committed(s3, "direct") >= 2).status is None
    look, killed = killing_an_actor("Embed", lambda: True)  # few slices are left: later it may be gone
    ended = tiled.job(s3, "photographs", "direct", kill_when=look)
    assert ended.status == 0 and "taking up run" in ended.output and killed, ended.output
    rows = tiled.rows(s3, "direct", "photographs")
    assert len(rows) == PHOTOGRAPHS + 14
    singles = [name for name in sorted(tiled.truth) if name.startswith("loose/")]
    for name, similarities in zip(singles, _photographed(tiled, singles), strict=True):
        assert tiled.agrees(rows[name], similarities)
    km = [haversine_km(rows[name]["latitude"], rows[name]["longitude"], *tiled.truth[name]) for name in tiled.truth]
    assert np.isfinite(km).all()


@pytest.mark.parametrize(
    ("archive", "arguments", "says"),
    [
        ("texts.csv", ["--gallery", "nowhere"], "there is no gallery folder nowhere"),
        ("texts.csv", ["--ngcg.describe", "x"], "which need no --ngcg.describe"),
        ("texts.csv", ["--ngcg.area.nearest", "5"], "give the points with --ngcg.area.file"),
        ("texts.csv", ["--ngcg.area.countries", "Atlantis"], "'Atlantis' is no country"),
        ("texts.csv", ["--ngcg.area.box", "1,2"], "is no box"),
        ("texts.csv", ["--ngcg.column", "words"], "no column 'words', only id, caption, source"),
        ("texts.csv", ["--method", "geolocsft"], "is a model of ngcg, not of geolocsft"),
        ("photographs", ["--ngcg.queries", "texts"], "is a CSV, TSV, JSONL, JSON or Parquet file"),
        ("photographs", ["--ngcg.describe", "nobody/nothing-here"], "the Hugging Face hub did not give it"),
        ("photographs", ["--ngcg.area.file", "nowhere.csv", "--ngcg.area.nearest", "5"], "there is no file of points"),
    ],
)
def test_a_bad_argument_is_one_line(
    archive: str, arguments: list[str], says: str, tiled: Tiled, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = said(*tiled.given(s3, archive, "never", *arguments))
    assert ended.status == 2
    assert says in ended.output and "Traceback" not in ended.output
    assert len(ended.output.strip().splitlines()) == 1, ended.output


def test_texts_are_nothing_for_a_method_that_reads_photographs(tiled: Tiled, s3: S3Server) -> None:
    (tiled.folder / "vlm").mkdir()
    (tiled.folder / "vlm/scripted.json").write_text('{"replies": {}}')
    ended = said(*tiled.given(s3, "texts.csv", "never", "--model", str(tiled.folder / "vlm"), "--method", "geolocsft"))
    assert ended.status == 2 and "holds texts, and geolocsft reads photographs" in ended.output
