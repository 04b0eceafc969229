"""MP16-Pro and OSV-5M in miniature go through align, build_gallery, train, geolocate and evaluate as they were published."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from geobatch.benchmark.world import World
from geobatch.engine.gallery import load
from geobatch.sink import read
from tests.archives.published import Miniature, crops, im2gps3k, mp16_pro, osv_5m
from tests.river.job import ROOT, kill_tree

TRAINING, BENCHMARK = 300, 40
#: Seconds for all jobs on both: 290 of CPU, most of it spent on the imports of a hundred processes.
LIMIT = 900


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Miniature, Miniature]]:
    """Each data set's folder after all jobs, what was trained on, and what was located."""
    folder, world = tmp_path_factory.mktemp("published"), World()
    pictures = [crops(world, count, seed) for seed, count in enumerate((TRAINING, BENCHMARK, TRAINING, BENCHMARK), 70)]
    osv = folder / "osv5m"
    made = {
        "mp16": (mp16_pro(folder / "MP16-Pro", pictures[0]), im2gps3k(folder / "im2gps3k", pictures[1])),
        "osv": (osv_5m(osv, "train", pictures[2]), osv_5m(osv, "test", pictures[3], zips=1)),
    }
    for name, pair in made.items():
        (folder / name).mkdir()
        for use, miniature in zip(("training", "benchmark"), pair, strict=True):
            (folder / name / use).write_text(f"{miniature.archive}\t{miniature.truth}")
    with tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as scratch:
        environment = {**os.environ, "RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "tests.river.published", str(folder), *made]
        log = Path(scratch) / "log"
        with log.open("w") as said, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said) as ran:
            try:
                status = ran.wait(LIMIT)
            except subprocess.TimeoutExpired:
                kill_tree(ran.pid)
                status = None
        assert status == 0, log.read_text()[-4000:]
    return {name: (folder / name, *pair) for name, pair in made.items()}


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", ["mp16", "osv"])
def test_each_image_finds_its_truth_and_none_is_lost(
    published: dict[str, tuple[Path, Miniature, Miniature]], name: str
) -> None:
    folder, training, benchmark = published[name]
    rows = read(str(folder / "gallery")).to_pylist()
    placed = {_own(row["image_id"]): (row["latitude"], row["longitude"]) for row in rows if row["status"] == "placed"}
    assert placed == {_member(each): place for each, place in training.places.items()}
    rejected = [(row["stage"], row["reason"]) for row in rows if row["status"] != "placed"]
    assert rejected == [("label", "no_place")] * training.strangers and len(rows) == TRAINING + training.strangers
    assert len(load(folder / "gallery")) == TRAINING
    account = json.loads((folder / "account.json").read_text())
    assert account["card"]["images"] == TRAINING - round(0.05 * TRAINING)
    assert (account["account"]["read"], account["account"]["placed"]) == (BENCHMARK, BENCHMARK)
    assert {_own(row["image_id"]) for row in read(str(folder / "places")).to_pylist()} == set(map(_member, benchmark.places))


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize(("name", "absent"), [("mp16", 0), ("osv", 5)])
def test_the_figures_are_of_all_images_that_the_benchmark_names(
    published: dict[str, tuple[Path, Miniature, Miniature]], name: str, absent: int
) -> None:
    folder, _, _ = published[name]
    figures: dict[str, Any] = json.loads((folder / "evaluation/evaluation.json").read_text())
    assert figures["images"] == BENCHMARK + absent
    numbers = [value for value in _leaves(figures) if isinstance(value, float)]
    assert len(numbers) > 30 and all(map(math.isfinite, numbers))


def _own(image_id: str) -> str:
    """What an image is called in its archive, without what the archive is called."""
    return image_id.rpartition("/")[2].rpartition("#")[2]


def _member(name: str) -> str:
    return name.replace("/", "_") if "." in name else f"{name}.jpg"


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]
