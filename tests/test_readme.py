"""What the README says of the table and of rejections is what the code does."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import tyro

from geobatch.errors import REASONS
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.prices import HERE
from geobatch.schema import PLACE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def settings(command: str) -> Any:
    """What a job makes of a command line."""
    words = shlex.split(command)
    spec = importlib.util.spec_from_file_location(Path(words[1]).stem, ROOT / words[1])
    assert spec is not None and spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    return tyro.cli(inspect.signature(job.main).parameters["config"].annotation, args=words[2:])


def blocks(title: str) -> list[Any]:
    """The settings of each whole command in the fenced blocks of a section, in their order."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0].replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"```\n(.*?)```", section, re.DOTALL))
    return [settings(line) for line in fenced.splitlines() if line.startswith("python jobs/") and "…" not in line]


def test_commands_are_taken_as_they_are_typed_and_each_model_has_an_output_of_its_own() -> None:
    found = blocks("Your own bucket")
    located = [each for each in found if isinstance(each, GeolocateBucket)]
    assert len(found) == 15 and len({each.output for each in located}) == len(located) == 5
    judged = blocks("Judging and seeing")
    assert judged and all(each.places == located[0].output for each in judged)


def test_a_night_s_budget_knows_what_this_machine_costs() -> None:
    (night, *_) = blocks("Every night")
    written = re.search(r"echo '(.*)' > (\S+)", README)
    assert night.max_cost is not None and written is not None and night.prices == written[2]
    assert HERE in json.loads(written[1])["hours"]


def test_all_that_sends_pictures_away_is_named() -> None:
    endpoints = re.findall(r"--[\w.-]*endpoint\.url", README)
    assert {*endpoints} == {"--endpoint.url", "--geotoken.judge.endpoint.url"}


def test_every_reason_is_explained() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", README, re.M))
    assert {reason: rows.get(reason) for reason in REASONS} == REASONS


def test_every_column_is_explained() -> None:
    section = README.split("## The table")[1].split("\n## ")[0]
    named = {name for cell in re.findall(r"^\| ([^|]+) \|", section, re.M) for name in cell.split(", ")}
    named = {
        each
        for name in named
        for each in ([f"probability_{km}km" for km in (1, 25, 200, 750, 2500)] if "…" in name else [name])
    }
    assert set(PLACE.names) == named - {"column", "---"}
