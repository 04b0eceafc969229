"""The NGCG training job: killed and taken up, what no pair comes of, and users' mistakes.

Recipe: 40 crops of the Blue Marble, loose and in a tar, and a CSV of one or two texts each; a tiny SmolVLM in float32 with
random weights, adapters as published but of rank 4 and without dropout, which alone is no function of (seed, step) on two
workers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geobatch.benchmark.deposit import write_tar
from geobatch.benchmark.world import World
from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.small import Small
from geobatch.pipeline.ngcg_train import Make, NgcgTrain, ngcg_train
from geobatch.train.loop import Loop, Worker
from geobatch.train.lora import LoRA
from tests.engine import tiny
from tests.river.job import Ended, run_job, said

TILES, STEPS = 40, 24
#: Tiles that are no pair: cut off, with blank texts, not described.
BROKEN, BLANK, UNTOLD = 3, 4, 5

TUNING = Tuning(
    lora=LoRA(rank=4, alpha=32, vision=True, targets="ngcg", dora=True, gaussian=True),
    batch=8,
    steps=STEPS,
    learning_rate=2e-4,
    bf16=False,
)
VALIDATION = Validation(share=0.15, every=6)

#: The same, typed.
TYPED = [
    *("--tuning.lora.rank", "4", "--tuning.lora.alpha", "32", "--tuning.lora.dropout", "0", "--tuning.batch", "8"),
    *("--tuning.steps", str(STEPS), "--tuning.learning-rate", "2e-4", "--tuning.no-bf16"),
    *("--validation.share", "0.15", "--validation.every", "6"),
    *("--loop.workers", "2", "--loop.checkpoint-steps", "3", "--workers", "1"),
]


@dataclass(frozen=True)
class Lesson:
    """A folder with `tiles`, `texts.csv` and `base`."""

    folder: Path

    def typed(self, output: Path, *more: str) -> list[str]:
        given = {"archive": "tiles", "annotations": "texts.csv", "base": "base"}
        named = [
            word for name, file in given.items() if f"--{name}" not in more for word in (f"--{name}", str(self.folder / file))
        ]
        return [*named, "--output", str(output), *TYPED, *more]

    def job(self, output: Path, *more: str, **settings: Any) -> Ended:
        return run_job(*self.typed(output, *more), job="ngcg_train", **settings)

    def config(self, output: Path) -> NgcgTrain:
        given = {"archive": "tiles", "annotations": "texts.csv", "base": "base"}
        named = {name: str(self.folder / file) for name, file in given.items()}
        return NgcgTrain(**named, output=str(output), tuning=TUNING, validation=VALIDATION, loop=Loop(workers=2))


def name(tile: int) -> str:
    return f"{tile:03d}.jpg"


def described(latitude: float, longitude: float, tile: int) -> list[str]:
    north, east = "north" if latitude > 0 else "south", "east" if longitude > 0 else "west"
    texts = [f"Land in the {north} and {east}, {tile} km from a coast.", f"A river in the {north}, hills in the {east}."]
    return texts[: 1 + tile % 2]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    folder, world = tmp_path_factory.mktemp("lesson"), World()
    latitude, longitude = world.scatter(TILES, seed=11)
    files = world.photograph(latitude, longitude, seed=11)
    files[BROKEN] = files[BROKEN][:300]
    (folder / "tiles").mkdir()
    for tile in range(0, TILES, 2):
        (folder / "tiles" / name(tile)).write_bytes(files[tile])
    write_tar(folder / "tiles/odd.tar", [(name(tile), files[tile]) for tile in range(1, TILES, 2)])
    with (folder / "texts.csv").open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["name", "text", "latitude", "longitude"])
        for tile in range(TILES):
            texts = [" "] if tile == BLANK else [] if tile == UNTOLD else described(latitude[tile], longitude[tile], tile)
            out.writerows([name(tile), text, latitude[tile], longitude[tile]] for text in texts)
        out.writerow(["gone.jpg", "A lake that is nowhere.", 1.0, 2.0])
    tiny.smolvlm(folder / "base")
    return Lesson(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def same_as_unbroken(lesson: Lesson, output: Path, pairs: Path) -> None:
    """Whether the job's adapters are those of one worker that nobody killed, which two are up to the order of sums."""
    (path,) = pairs.glob("*/pairs.arrow")
    torch.set_num_threads(1)
    alone = Make(str(lesson.folder / "base"), str(path), TUNING, VALIDATION, Encoding())(Worker())
    while alone.step < alone.steps:
        alone.advance()
    alone.save(output.parent / "unbroken")
    found, expected = weights(output), weights(output.parent / "unbroken")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
    # Adam makes a step of a gradient that is nothing but rounding; taken together there are few.
    off, moved = (sum(float((one - other[name]).square().sum()) ** 0.5 for name, one in found.items() if "lora_B" in name)
                  for other in (expected, {name: torch.zeros(()) for name in found}))  # fmt: skip
    assert off < 1e-3 * moved
    histories = [json.loads((folder / "history.json").read_text()) for folder in (output, output.parent / "unbroken")]
    assert [row["step"] for row in histories[0]] == list(range(1, STEPS + 1))
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.torture  # three trainings, 70 s; one worker's resuming is tested bit for bit without Ray
@pytest.mark.timeout(600)
def test_killed_and_taken_up_it_is_the_unbroken_one(lesson: Lesson, tmp_path: Path) -> None:
    output, kept = tmp_path / "model", tmp_path / "pairs"
    storage = tmp_path / ".model.training"

    def training(_: float) -> bool:
        return len(list(storage.glob("*/checkpoint_*"))) > 1  # the first of them is committed

    assert lesson.job(output, "--pairs", str(kept), kill_when=training, limit=280).status is None, (
        "it ended before it was killed"
    )
    assert not output.exists()
    ended = lesson.job(output, "--pairs", str(kept), limit=280)
    assert ended.status == 0, ended.output
    assert "nothing new in" in ended.output and "paired" not in ended.output  # the pairs were there
    same_as_unbroken(lesson, output, kept)

    card = json.loads((output / "geobatch.json").read_text())
    assert (card["method"], card["adapter"], card["merged"]) == ("ngcg", "adapter", "merged")
    assert card["temperature"] == 0.03 and card["encoding"] == {
        "pooling": "last", "text_tokens": 300, "end": False, "side": 0, "dimensions": 0,
    }  # fmt: skip
    assert card["pairs"]["images"] == TILES and card["pairs"]["rejected"] == {"no_text": 2, "broken": 1}
    assert card["pairs"]["missing"] == 1 and card["pairs"]["places"] == TILES - 3
    assert card["validation"]["pairs"] == round(0.15 * (TILES - 3)) == TILES - 3 - card["pairs"]["trained"]
    with (output / "pairs/rejected.csv").open() as stream:
        fates = {row["image_id"].rpartition("/")[2]: (row["stage"], row["reason"]) for row in csv.DictReader(stream)}
    assert fates == {
        name(BLANK): ("annotate", "no_text"),
        f"odd.tar#{name(UNTOLD)}": ("annotate", "no_text"),
        f"odd.tar#{name(BROKEN)}": ("decode", "broken"),
    }
    assert (output / "pairs/missing.csv").read_text().split() == ["name,texts", "gone.jpg,1"]
    assert "annotated, but in no archive: 1 of 40 names" in ended.output

    merged, adapted = (
        Encoder.load(str(base), adapter).encode_texts(["A coast in the north.", "A river."])
        for base, adapter in ((output / "merged", None), (lesson.folder / "base", output / "adapter"))
    )
    np.testing.assert_allclose(merged, adapted, atol=1e-5)

    # What is finished is not made again, though the pairs were gone.
    before = (output / "history.json").stat().st_mtime_ns
    again = said(*lesson.typed(output), job="ngcg_train")
    assert again.status == 0 and f"model {output}: {STEPS} steps" in again.output, again.output
    assert (output / "history.json").stat().st_mtime_ns == before
    assert "trained" not in again.output and not (tmp_path / ".model.work").exists()


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_killed_at_any_moment(lesson: Lesson, tmp_path: Path) -> None:
    """As the first pairs are committed, at several checkpoints, and whenever chance has it."""
    output, kept, random = tmp_path / "model", tmp_path / "pairs", np.random.default_rng(0)

    def seen(pattern: str, count: int) -> Callable[[float], bool]:
        return lambda _: sum(1 for _ in tmp_path.glob(pattern)) >= count

    def late(moment: float) -> Callable[[float], bool]:
        return lambda spent: spent > moment

    newest = ".model.training/*/checkpoint_*"
    moments = [
        seen("pairs/*/table/runs/*/commits/*", 1),
        seen(newest, 1),
        seen(newest, 2),
        *map(late, random.uniform(5, 40, 5)),
    ]
    ends = [lesson.job(output, "--pairs", str(kept), kill_when=moment, limit=600).status for moment in moments]
    assert ends[:3] == [None] * 3 and set(ends) <= {None, 0}
    assert lesson.job(output, "--pairs", str(kept), limit=600).status == 0
    same_as_unbroken(lesson, output, kept)


# What is wrong is found before anything is decoded or trained


def told(lesson: Lesson, tmp_path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        ngcg_train(replace(lesson.config(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.work").exists()
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_what_is_missing_or_does_not_fit_is_said(lesson: Lesson, tmp_path: Path) -> None:
    assert "nothing is given as --archive" in told(lesson, tmp_path, archive="")
    assert "nothing is given as --annotations" in told(lesson, tmp_path, annotations="")
    assert "nothing is given as --output" in told(lesson, tmp_path, output="")
    assert "copy it into the bucket" in told(lesson, tmp_path, output="s3://b/model")
    assert "give --base or --preset" in told(lesson, tmp_path, base="")
    assert "there is no base model folder" in told(lesson, tmp_path, base=str(tmp_path / "none"))
    assert "a batch of 8 cannot be shared equally by 3 workers" in told(lesson, tmp_path, loop=Loop(workers=3))
    assert "leave --loop.parallel at ddp" in told(lesson, tmp_path, loop=Loop(parallel="fsdp"))
    assert "no file of texts" in told(lesson, tmp_path, annotations=str(lesson.folder / "tiles"))
    few = replace(TUNING, batch=64)
    assert "lower --tuning.batch from 64" in told(lesson, tmp_path, tuning=few)
    assert "add --tuning.whole" in told(lesson, tmp_path, base="tiny")
    whole = replace(TUNING, whole=True)
    assert "give --small.side instead" in told(lesson, tmp_path, base="tiny", tuning=whole, encoding=Encoding(side=96))
    assert "cannot be cut to (64,)" in told(lesson, tmp_path, tuning=replace(TUNING, nested=(64,)))
    assert "a multiple of 16" in told(lesson, tmp_path, encoding=Encoding(side=60))
    assert "gives 64 numbers" in told(lesson, tmp_path, encoding=Encoding(dimensions=65))
    if not torch.cuda.is_available():
        assert "2 workers with a GPU each are asked for, and 0 GPUs are here" in told(
            lesson, tmp_path, loop=Loop(workers=2, gpu=True)
        )


@pytest.mark.parametrize("lost", ["tokenizer.json", "processor_config.json", "config.json"])
def test_a_base_without_one_of_its_files_is_said(lesson: Lesson, tmp_path: Path, lost: str) -> None:
    (tmp_path / "base").mkdir()
    for path in (lesson.folder / "base").iterdir():
        if path.name != lost:
            (tmp_path / "base" / path.name).symlink_to(path)
    assert "give the whole folder of a model" in told(lesson, tmp_path, base=str(tmp_path / "base"))


def test_an_output_that_holds_something_else_stays(lesson: Lesson, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else than a model"):
        ngcg_train(lesson.config(tmp_path / "mine"))
    (tmp_path / "mine/geobatch.json").write_text(json.dumps({"method": "geotoken"}))
    with pytest.raises(UserError, match="holds something else than a model"):
        ngcg_train(lesson.config(tmp_path / "mine"))
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_dry_run_needs_neither_weights_nor_pairs() -> None:
    ended = said("--dry-run", "--preset", "smolvlm_256m", "--loop.workers", "2", "--tuning.batch", "64", job="ngcg_train")
    assert ended.status == 0 and "4,136,832 of 260,621,760 parameters" in ended.output and "\nfits: " in ended.output
    ended = said("--dry-run", job="ngcg_train")
    assert ended.status == 2 and "give --preset or --base" in ended.output
    ended = said("--dry-run", "--base", "tiny", "--tuning.whole", "--small.words", "512", job="ngcg_train")
    assert ended.status == 0 and Small(words=512).tokens == 9
