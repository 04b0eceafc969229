"""A dry run of the main job on the tiny world against the run itself; two jobs, a minute or more of two cores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.river.conftest import Tiny
from tests.river.job import run_job

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]

#: Images a second after the first slice, estimated over measured, at most, and at least one over it. The sample is a third of
#: the archive, in which pools are still growing; both share two cores with whatever else runs.
FACTOR = 3.0


def test_the_rate_that_is_foretold_is_the_rate(tiny: Tiny, tmp_path: Path) -> None:
    common = [
        *("--archive", str(tiny.archive), "--output", str(tmp_path / "out"), "--model", str(tiny.model)),
        *("--shard-rows", "16"),
    ]
    before = {path: path.stat().st_mtime_ns for path in (*tiny.folder.rglob("*"), *tmp_path.rglob("*"))}
    dry = run_job(*common, "--dry-run", "--sample.images", "200", limit=600)
    assert dry.status == 0, dry.output
    assert {path: path.stat().st_mtime_ns for path in (*tiny.folder.rglob("*"), *tmp_path.rglob("*"))} == before
    print(dry.output)
    images = re.search(r"dry run: (about )?([\d,]+) images", dry.output)
    rates = re.search(r"([\d.,]+) images a second as measured, ([\d.,]+) at best", dry.output)
    assert images and rates, dry.output
    foretold, at_best = (float(rate.replace(",", "")) for rate in rates.groups())
    assert int(images[2].replace(",", "")) == pytest.approx(len(tiny.names), rel=0.25)  # tars are counted by their bytes
    ran = run_job(*common, "--log", str(tmp_path / "log"), limit=600)
    assert ran.status == 0, ran.output
    commits = sorted((tmp_path / "out/runs/000001/commits").iterdir(), key=lambda path: path.stat().st_mtime)
    read = [json.loads(path.read_text())["read"] for path in commits]
    measured = sum(read[1:]) / (commits[-1].stat().st_mtime - commits[0].stat().st_mtime)
    print(
        dry.output, ran.output, f"foretold {foretold:.1f} to {at_best:.1f}, measured {measured:.1f} images a second", sep="\n"
    )
    assert 1 / FACTOR < foretold / measured < FACTOR
    assert at_best >= measured / FACTOR
    again = run_job(*common, "--dry-run", limit=600)
    assert again.status == 0 and "dry run: nothing new" in again.output and "already in the table" in again.output
