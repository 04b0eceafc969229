"""The alignment job: its settings, and killed in the middle with its checkpoints in a bucket."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from geobatch.engine.vision import Vision
from geobatch.errors import UserError
from geobatch.methods.geotoken.align import Align
from geobatch.methods.geotoken.alignment import Alignment
from geobatch.methods.geotoken.features import index
from geobatch.pipeline.align import GeoTokenAlign, _settings, _what, align_encoder
from geobatch.sink import Snapshot
from geobatch.store import Store
from geobatch.train.loop import Loop
from tests.conftest import S3Server
from tests.engine.clip import write_clip, write_towns
from tests.river.job import run_job


def table(folder: Path, count: int = 96) -> list[tuple[Path, list[int]]]:
    """A finished table of vectors of 12 numbers that tell of their place, as build_gallery.py leaves it; returns its parts."""
    rng = np.random.default_rng(2)
    places = np.column_stack([rng.uniform(35, 60, count), rng.uniform(-5, 40, count)])
    vectors = np.tanh((places - places.mean(axis=0)) / 10 @ rng.normal(size=(2, 12)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (folder / "places").mkdir(parents=True)
    (folder / "table").mkdir()
    parts = []
    for number, at in enumerate(range(0, count, 32)):
        rows = slice(at, at + 32)
        columns = {
            "vector": pa.array(list(vectors[rows].astype(np.float32)), pa.list_(pa.float32())),
            "latitude": places[rows, 0],
            "longitude": places[rows, 1],
            "status": ["placed"] * 32,
        }
        pq.write_table(pa.table(columns), folder / f"places/{number}.parquet")
        parts.append((folder / f"places/{number}.parquet", []))
    said = {"parts": [{"path": f"places/{number}.parquet"} for number in range(len(parts))], "fingerprint": "known"}
    (folder / "table/1.json").write_text(json.dumps(said))
    return parts


def test_settings_override_the_preset() -> None:
    paper = _settings(GeoTokenAlign(archive="a", output="b", encoder="clip"))
    assert paper == Align.paper()
    changed = _settings(
        GeoTokenAlign(
            archive="a", output="b", encoder="clip", text=False, lora_rank=8, epochs=3, batch=64, micro_batch=16, same_cell=9
        )
    )
    assert changed == replace(
        Align.paper(text=False), lora_rank=8, epochs=3, batch=64, micro_batch=16,
        gps_contrast=replace(paper.gps_contrast, same_cell=9),
    )  # fmt: skip
    assert _settings(GeoTokenAlign(archive="a", output="b", preset="small")) == Align()
    assert _settings(GeoTokenAlign(archive="a", output="b", preset="small", epochs=2)).length(5120) == 20
    assert _settings(GeoTokenAlign(archive="a", output="b", encoder="clip", epochs=2, steps=7)).length(5120) == 7


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"preset": "large"}, "there is no preset"),
        ({"encoder": "small"}, "give --encoder FOLDER of a CLIP, or --preset small"),
        ({"archive": ""}, "give --archive, or --features"),
        ({"batch": 9}, "cannot be shared by 2 workers"),
        ({"preset": "small", "lora_rank": 4}, "set frozen"),
        ({"encoder": "nowhere"}, "there is no encoder folder"),
        ({"towns": "nowhere"}, "there is no towns folder"),
        ({"gps": "nowhere.pth"}, "there is no nowhere.pth"),
        ({"features": "empty"}, "holds no finished table of vectors"),
    ],
)
def test_what_must_be_resolved_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip").mkdir()
    settings = {
        "archive": "images",
        "output": "encoder",
        "encoder": "clip",
        "towns": str(write_towns(tmp_path / "towns")),
        **wrong,
    }
    with pytest.raises(UserError, match=why):
        align_encoder(GeoTokenAlign(**settings))  # type: ignore[arg-type]


def test_a_trainings_name_tells_one_archive_from_another_decoded_by_the_same_settings() -> None:
    def named(path: str, **more: object) -> str:
        return _what(
            Snapshot(output="out", version=1, record={"parts": [{"path": path, **more}], "fingerprint": "same settings"})
        )

    one = named("places/000001-0-0-aa.parquet")
    assert one == named("places/000001-0-0-aa.parquet", removed=[])
    assert len({one, named("places/000001-0-0-bb.parquet"), named("places/000001-0-0-aa.parquet", removed=[4])}) == 3


@pytest.mark.torture
def test_a_killed_job_goes_on_from_the_bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, killed after a checkpoint and started again, end where one process without Ray and a pause does."""
    clip, towns, parts = write_clip(tmp_path / "clip"), write_towns(tmp_path / "towns"), table(tmp_path / "features")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    checkpoints = f"s3://{s3.bucket()}/checkpoints"
    asked = GeoTokenAlign(
        features=str(tmp_path / "features"), output=str(tmp_path / "encoder"), encoder=str(clip), towns=str(towns),
        gps="random", steps=30, batch=32, precision="float32",
        loop=Loop(workers=2, checkpoint_steps=3, storage=checkpoints),
    )  # fmt: skip
    flags = [
        *(f"--{name}={getattr(asked, name)}" for name in ("features", "output", "encoder", "towns", "gps", "steps", "batch")),
        "--precision=float32", "--loop.workers=2", "--loop.checkpoint-steps=3", f"--loop.storage={checkpoints}",
    ]  # fmt: skip
    store = Store(s3.config())

    def saved() -> int:
        return sum(item.uri.endswith("state.pt") for page in store.objects(checkpoints + "/") for item in page)

    killed = run_job(*flags, job="geotoken_align", kill_when=lambda spent: saved() > 1, limit=600)
    # One checkpoint is committed once the next is on its way.
    assert killed.status is None, killed.output
    assert not (tmp_path / "encoder").exists() and saved()
    ended = run_job(*flags, job="geotoken_align", limit=600)
    assert ended.status == 0, ended.output
    steps = [int(step) for step in re.findall(r"aligned: (\d+) of 30", ended.output)]
    assert steps[0] > 3  # it began where a checkpoint was
    index(parts, tmp_path / "index")
    alone = Alignment(_settings(asked), str(clip), tmp_path / "index", towns=towns)
    losses = [alone.advance() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1
    alone.save(tmp_path / "alone")
    for name in ("head.safetensors", "gps.safetensors"):
        ours, expected = load_file(tmp_path / "encoder" / name), load_file(tmp_path / "alone" / name)
        assert ours.keys() == expected.keys()
        assert max(float((ours[part] - expected[part]).abs().max()) for part in ours) < 1e-4
    assert Vision(str(tmp_path / "encoder")).views == ("image", "location", "text")
