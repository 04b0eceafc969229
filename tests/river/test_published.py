"""MP16-Pro and OSV-5M in miniature go through align, build_gallery, train, geolocate and evaluate as they were published."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from geobatch.benchmark.world import World
from geobatch.engine.gallery import load
from geobatch.sink import read
from tests.archives.published import Miniature, crops, im2gps3k, mp16_pro, osv_5m
from tests.river.job import ROOT, kill_tree

TRAINING, BENCHMARK = 300, 40
#: Seconds for all jobs on one set: 150 of CPU, most of it spent on the imports of fifty processes.
LIMIT = 600


@dataclass(frozen=True)
class Published:
    """A data set's folder after all jobs, what was trained on, what was located, and how many images could not be had."""

    folder: Path
    training: Miniature
    benchmark: Miniature
    absent: int


def mp16(folder: Path) -> Published:
    """MP16-Pro in 19 byte parts, judged on Im2GPS3k."""
    training, benchmark = _pictures(70)
    return Published(folder, mp16_pro(folder / "MP16-Pro", training), im2gps3k(folder / "im2gps3k", benchmark), 0)


def osv(folder: Path) -> Published:
    """OSV-5M's zips, judged on its own test split."""
    training, benchmark = _pictures(72)
    where = folder / "osv5m"
    return Published(folder, osv_5m(where, "train", training), osv_5m(where, "test", benchmark, zips=1), 5)


def _pictures(seed: int) -> tuple[Any, Any]:
    world = World()
    return crops(world, TRAINING, seed), crops(world, BENCHMARK, seed + 1)


#: Two to four minutes of two cores each; tests/archives has their layouts and truths, `make demo` the jobs one after another.
pytestmark = pytest.mark.torture


@pytest.fixture(scope="module", params=[mp16, osv])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """See `Published`."""
    found: Published = request.param(tmp_path_factory.mktemp("published"))
    for use, miniature in (("training", found.training), ("benchmark", found.benchmark)):
        (found.folder / use).write_text(f"{miniature.archive}\t{miniature.truth}")
    with tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as scratch:
        environment = {**os.environ, "RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "tests.river.published", str(found.folder)]
        log = Path(scratch) / "log"
        with log.open("w") as said, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said) as ran:
            try:
                status = ran.wait(LIMIT)
            except subprocess.TimeoutExpired:
                kill_tree(ran.pid)
                status = None
        assert status == 0, log.read_text()[-4000:]
    return found


@pytest.mark.timeout(LIMIT + 60)
def test_each_image_finds_its_truth_and_none_is_lost(published: Published) -> None:
    folder, training = published.folder, published.training
    rows = read(str(folder / "gallery")).to_pylist()
    placed = {_own(row["image_id"]): (row["latitude"], row["longitude"]) for row in rows if row["status"] == "placed"}
    assert placed == {_member(each): place for each, place in training.places.items()}
    rejected = [(row["stage"], row["reason"]) for row in rows if row["status"] != "placed"]
    assert rejected == [("survey", "no_place")] * training.strangers and len(rows) == TRAINING + training.strangers
    assert len(load(folder / "gallery")) == TRAINING
    account = json.loads((folder / "account.json").read_text())
    assert account["card"]["images"] == TRAINING - round(0.05 * TRAINING)
    assert (account["account"]["read"], account["account"]["placed"]) == (BENCHMARK, BENCHMARK)
    located = {_own(row["image_id"]) for row in read(str(folder / "places")).to_pylist()}
    assert located == set(map(_member, published.benchmark.places))


@pytest.mark.timeout(LIMIT + 60)
def test_the_figures_are_of_all_images_that_the_benchmark_names(published: Published) -> None:
    figures: dict[str, Any] = json.loads((published.folder / "evaluation/evaluation.json").read_text())
    assert figures["images"] == BENCHMARK + published.absent
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
