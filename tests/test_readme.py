"""What the README says of the table and of rejections is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from geobatch.errors import REASONS
from geobatch.schema import PLACE

README = (Path(__file__).parent.parent / "README.md").read_text()


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
