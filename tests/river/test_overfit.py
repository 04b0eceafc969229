"""The method whole: crops learnt by heart by the training job, asked for by the main job, answered by vLLM.

The base is a tiny Gemma 3 in float32, under the names of the published files, which vLLM wants.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geobatch.engine.answer import Answer, parse
from geobatch.engine.opening import serve
from geobatch.engine.request import Request, Sampling
from geobatch.geo.distance import haversine_km
from geobatch.methods.geolocsft.prompts import messages, student
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.sink import read
from tests.engine import tiny
from tests.engine.test_served import Causal
from tests.engine.tiny import CONFIG
from tests.methods.geolocsft import pupil
from tests.river.job import run_job, said

# Warnings are those of vLLM and its libraries. A training of two workers and two engines: five minutes of two cores.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900), pytest.mark.torture]

TRAINING = [
    *("--tuning.batch", "12", "--tuning.micro-batch", "6", "--tuning.steps", "260", "--tuning.learning-rate", "4e-3"),
    *("--tuning.warm-up", "10", "--tuning.no-bf16", "--tuning.no-checkpointing", "--validation.share", "0"),
    *("--loop.workers", "2", "--merge"),
]
ASKING = [
    *("--geolocsft.generator.dtype", "float32", "--geolocsft.generator.context", "2048", "--geolocsft.asking.attempts", "1"),
    *("--geolocsft.generator.cpu-cache-gib", "1", "--geolocsft.asking.tokens", "60", "--geolocsft.generator.backend", "vllm"),
]


@dataclass(frozen=True)
class Learnt:
    """A folder with `base`, `archive` and `student`, the crops, and what the training job said."""

    folder: Path
    crops: list[pupil.Example]
    told: str


def arguments(folder: Path) -> list[str]:
    """Of the training job."""
    paths = (
        "--captions",
        str(folder / "captions.parquet"),
        "--base",
        str(folder / "base"),
        "--output",
        str(folder / "student"),
    )
    return [*paths, *TRAINING]


@pytest.fixture(scope="module")
def learnt(vllm_there: None, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    folder = tmp_path_factory.mktemp("learnt")
    found = pupil.crops(12)
    pupil.base(tiny.gemma3, folder / "base")
    tiny.published_names(folder / "base/model.safetensors")
    pupil.captions(folder / "captions.parquet", found)
    (folder / "archive").mkdir()
    for each in found:
        (folder / "archive" / f"{each.image_id.replace('/', '_')}.png").write_bytes(each.image)
    ended = run_job(*arguments(folder), job="geolocsft_train", limit=600)
    assert ended.status == 0, ended.output
    return Learnt(folder, found, ended.output)


def test_vllm_with_the_adapter_returns_the_coordinates_of_crops_learnt_by_two_workers(learnt: Learnt) -> None:
    given = ["--archive", str(learnt.folder / "archive"), "--model", str(learnt.folder / "student")]
    ended = run_job(*given, "--method", "geolocsft", "--output", str(learnt.folder / "places"), *ASKING)
    assert ended.status == 0, ended.output
    rows = {row["image_id"].rsplit("/", 1)[-1]: row for row in read(str(learnt.folder / "places")).to_pylist()}
    assert len(rows) == 12
    off = [
        haversine_km(row["latitude"], row["longitude"], each.latitude, each.longitude)
        for each in learnt.crops
        if (row := rows[f"{each.image_id.replace('/', '_')}.png"])["status"] == "placed"
    ]
    assert (np.array(off) <= 1).sum() >= 10, off


def test_the_folder_and_the_job_say_what_was_done(learnt: Learnt) -> None:
    base, output = learnt.folder / "base", learnt.folder / "student"
    card = json.loads((output / "geobatch.json").read_text())
    assert (card["method"], card["adapter"], card["merged"], card["form"]) == ("geolocsft", "adapter", "merged", "tag")
    assert (card["base"], card["images"], card["validation"]) == (str(base), 12, {})
    assert card["base_fingerprint"] == fingerprint_of_base(str(base)) and card["training"]["steps"] == 260
    lora = card["config"]["tuning"]["lora"]
    assert {name: lora[name] for name in ("rank", "alpha", "dropout", "vision")} == {
        "rank": 32,
        "alpha": 64,
        "dropout": 0.0,
        "vision": False,
    }
    assert (lora["targets"], lora["dora"]) == ("projections", False)
    readme = (output / "adapter/README.md").read_text()
    assert f"base_model: {base}" in readme and "12 pictures" in readme and "rank 32" in readme
    assert "base: 77,824 of " in learnt.told and " %), in down_proj × 2, gate_proj × 2" in learnt.told
    assert "training on 12 images, 0 kept out: 260 steps of 12, 2 workers, ddp" in learnt.told
    assert not (learnt.folder / ".student.work").exists()


def test_the_same_command_does_not_train_again(learnt: Learnt) -> None:
    before = (learnt.folder / "student/adapter/adapter_model.safetensors").stat().st_mtime_ns
    ended = said(*arguments(learnt.folder), job="geolocsft_train")
    assert ended.status == 0 and "trained:" not in ended.output, ended.output
    assert (learnt.folder / "student/adapter/adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_merged_checkpoint_loads_in_vllm_and_says_what_transformers_says(learnt: Learnt) -> None:
    merged = str(learnt.folder / "student/merged")
    prompt = messages(student("tag"))
    strange = pupil.crops(8, seed=77)
    pictures = [np.asarray(Image.open(io.BytesIO(each.image)).convert("RGB")) for each in [*learnt.crops, *strange]]
    asked = [Request(f"{row}", prompt, picture) for row, picture in enumerate(pictures)]
    config = replace(CONFIG, context=2048)
    ours, theirs = serve(merged, config), serve(merged, replace(config, backend="transformers"))
    theirs.backend.chat.processor = Causal(theirs.backend.chat.processor)  # type: ignore[attr-defined]
    said = [[reply.samples[0].text for reply in each.ask(asked, Sampling(max_tokens=60))] for each in (ours, theirs)]
    ours.close()
    theirs.close()
    assert said[0] == said[1]
    assert len(set(said[0])) >= 10
    found = [parse(text) for text in said[0][:12]]
    off = [
        haversine_km(one.latitude, one.longitude, each.latitude, each.longitude)
        for one, each in zip(found, learnt.crops, strict=True)
        if isinstance(one, Answer)
    ]
    assert (np.array(off) <= 1).sum() >= 10, off
