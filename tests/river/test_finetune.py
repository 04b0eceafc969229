"""The training job: a worker killed, wrong inputs named (what it learns is in `test_overfit`).

The base is a tiny Gemma 3 in float32, adapters on its language model alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from safetensors.torch import load_file

from geobatch.actors import start
from geobatch.errors import UserError
from geobatch.methods.geolocsft.config import Tuning, Validation
from geobatch.methods.geolocsft.train import HISTORY, Fit
from geobatch.pipeline.finetune import GeoLocSftTrain, Make, finetune
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.train.loop import Loop, Worker, fit
from geobatch.train.lora import LoRA
from tests.engine import tiny
from tests.methods.geolocsft import pupil
from tests.river.job import said

SHORT = Tuning(lora=LoRA(rank=4, alpha=8), batch=4, steps=8, learning_rate=3e-3, warm_up=2, bf16=False, checkpointing=False)


@dataclass(frozen=True)
class Lesson:
    """A base and captions of twelve crops."""

    folder: Path
    base: str
    captions: Path
    crops: list[pupil.Example]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    folder = tmp_path_factory.mktemp("lesson")
    found = pupil.crops(12)
    base = pupil.base(tiny.gemma3, folder / "base")
    return Lesson(folder, base, pupil.captions(folder / "captions.parquet", found), found)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private Ray with room for two workers."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        start([], "local", _temp_dir=folder)
        yield
        ray.shutdown()


class Dying(Fit):
    """A training whose second worker dies once, in the middle of a step."""

    notes: Path
    dies_at: int | None

    def advance(self) -> float:
        """One step, or the end."""
        died = self.notes / "died"
        if self.step == self.dies_at and self.worker.rank == 1 and not died.exists():
            died.touch()
            os._exit(1)
        with (self.notes / f"{self.worker.rank}.log").open("a") as log:
            log.write(f"{self.step}\n")
        return super().advance()


@dataclass(frozen=True)
class MakeDying:
    """Makes it in the worker."""

    make: Make
    notes: Path
    dies_at: int | None

    def __call__(self, worker: Worker) -> Dying:
        torch.set_num_threads(1)
        made = self.make(worker)
        made.__class__ = Dying
        assert isinstance(made, Dying)
        made.notes, made.dies_at = self.notes, self.dies_at
        return made


def test_a_killed_training_is_the_unbroken_one(cluster: None, lesson: Lesson, tmp_path: Path) -> None:
    """Of one worker, which two are up to the order of sums (`test_two_workers_are_one`)."""
    path, _ = pupil.examples(tmp_path, lesson.base, lesson.crops)
    make = Make(lesson.base, str(path), "tag", SHORT, Validation(share=0.2, tokens=5), pupil.DECODE)
    loop = Loop(workers=2, checkpoint_steps=2)
    (tmp_path / "notes").mkdir()
    figures = fit(MakeDying(make, tmp_path / "notes", 5), tmp_path / "killed", name="killed", loop=loop)
    made = [int(line) for line in (tmp_path / "notes/0.log").read_text().split()]
    assert (tmp_path / "notes/died").exists() and made.count(0) == 1 and len(made) > 8
    alone = make(Worker())
    while alone.step < alone.steps:
        alone.advance()
    alone.state()
    alone.save(tmp_path / "unbroken")
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "unbroken"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)
    histories = [json.loads((tmp_path / name / HISTORY).read_text()) for name in ("killed", "unbroken")]
    assert len(histories[0]) == len(histories[1]) == 8
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert figures["validation_loss"] == pytest.approx(alone.figures()["validation_loss"], rel=1e-4)
    assert figures["validation_answered"] == alone.figures()["validation_answered"]


# What is wrong is found before anything is trained


def told(lesson: Lesson, tmp_path: Path, **settings: Any) -> str:
    config = GeoLocSftTrain(
        **{"captions": str(lesson.captions), "output": str(tmp_path / "out"), "base": lesson.base, **settings}
    )
    with pytest.raises(UserError) as raised:
        finetune(config)
    assert not (tmp_path / "out").exists()
    return str(raised.value)


def test_examples_that_cannot_be_used_end_the_job_by_name(lesson: Lesson, tmp_path: Path) -> None:
    rows = pq.read_table(lesson.captions).to_pylist()
    for row in rows[:7]:
        row["image"] = row["image"][:150]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(lesson.captions)), tmp_path / "cut.parquet")
    said = told(lesson, tmp_path, captions=str(tmp_path / "cut.parquet"))
    assert said.startswith("7 examples cannot be used (crop/0: its picture is broken") and "crop/4" in said
    assert "crop/5" not in said and said.endswith("and 2 more); mend them, or pass --leave-out")


def test_what_is_missing_or_of_no_use_is_said(lesson: Lesson, tmp_path: Path) -> None:
    assert "nothing is given as --captions" in told(lesson, tmp_path, captions="")
    assert "give --base or --preset" in told(lesson, tmp_path, base="")
    assert "a batch of 4 cannot be shared equally by 3 workers" in told(lesson, tmp_path, tuning=SHORT, loop=Loop(workers=3))
    assert "there is no base model folder" in told(lesson, tmp_path, base=str(tmp_path / "none"))
    assert "there is no Parquet file" in told(lesson, tmp_path, captions=str(lesson.folder / "base"))
    assert "not one example" in told(lesson, tmp_path, tuning=replace(SHORT, cutoff=50))


def test_the_fingerprint_of_a_base_is_of_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geobatch.pipeline.folder._PIECE", 1000)
    (tmp_path / "base").mkdir()
    weights = bytearray(os.urandom(100_000))
    (tmp_path / "base/model.safetensors").write_bytes(weights)
    (tmp_path / "base/config.json").write_text("{}")
    first = fingerprint_of_base(str(tmp_path / "base"))
    assert first == fingerprint_of_base(str(tmp_path / "base")) != fingerprint_of_base("google/gemma-3-27b-it")
    for place in (0, 99_999):
        changed = bytearray(weights)
        changed[place] ^= 1
        (tmp_path / "base/model.safetensors").write_bytes(changed)
        assert fingerprint_of_base(str(tmp_path / "base")) != first


def test_a_dry_run_needs_neither_weights_nor_captions() -> None:
    ended = said("--dry-run", "--preset", "gemma3_27b", "--loop.workers", "8", job="geolocsft_train")
    assert ended.status == 0 and "27.43 B parameters" in ended.output and "fits: " in ended.output
    assert "8 x 80 GiB, fsdp" in ended.output
    ended = said("--dry-run", job="geolocsft_train")
    assert ended.status == 2 and "give --preset or --base" in ended.output
