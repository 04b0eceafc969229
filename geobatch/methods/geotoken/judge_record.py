"""What the judge did to a run, counted from the marks in its rows.

    chosen_by = "judge", score null     it moved the place
    chosen_by = "judge", score there    it agreed with the selector's place
    fallback = "judge: REASON"          it was asked and its reply decided nothing; chosen_by is the selector's
    neither                             it was not asked

So the record of a run is a function of its table: nothing is counted in workers that may die, and a run taken up again counts
what it did before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: What `chosen_by` says of a place that the judge decided for, and how `fallback` begins where it decided nothing.
JUDGE = "judge"

#: What `judged` reads of a table of PLACE.
COLUMNS = ("reason", "score", "chosen_by", "fallback")

#: Below so many images nothing is called ill, nor a reason that so small a share of them fell back for.
_FEW, _SHARE = 20, 0.05


def judged(tables: Iterable[pa.Table]) -> dict[str, Any]:
    """What the judge did to a run's rows, counted from their marks: the record `runs/RUN/judge.json`.

    Args:
        tables: of PLACE, the columns `COLUMNS` are read; in any order, rejected rows are passed over.

    Returns:
        "placed"; of these "asked" = "answered" + those in "fell_back", which counts by reason; of the answered "changed" and
        "agreed"; "not_asked"; and "ills", a line that ends with what to do for each thing that looks wrong.
    """
    counts: Counter[str] = Counter()
    fell: Counter[str] = Counter()
    for table in tables:
        placed = table.filter(pc.is_null(table["reason"]))
        counts["placed"] += len(placed)
        chose = pc.fill_null(pc.equal(placed["chosen_by"], JUDGE), False)
        counts["answered"] += pc.sum(chose).as_py() or 0
        counts["changed"] += pc.sum(pc.and_(chose, pc.is_null(placed["score"]))).as_py() or 0
        for each in pc.value_counts(placed["fallback"].drop_null()).to_pylist():
            if reason := re.match(rf"{JUDGE}: (\w+)", each["values"]):
                fell[reason[1]] += each["counts"]
    asked = counts["answered"] + sum(fell.values())
    return {
        "placed": counts["placed"],
        "asked": asked,
        "not_asked": counts["placed"] - asked,
        "answered": counts["answered"],
        "changed": counts["changed"],
        "agreed": counts["answered"] - counts["changed"],
        "fell_back": dict(sorted(fell.items())),
        "ills": _ills(asked, counts["answered"], counts["changed"], fell),
    }


def line(record: dict[str, Any]) -> str:
    """A record of `judged` in one line for people."""
    return (
        f"judge: {record['asked']:,} of {record['placed']:,} images went, {record['changed']:,} places changed, "
        f"{sum(record['fell_back'].values()):,} kept the selector's for want of a verdict"
    )


def _ills(asked: int, answered: int, changed: int, fell: Counter[str]) -> list[str]:
    """What of these counts looks wrong; nothing is said of fewer than 20 images."""
    ills = []
    doing = {
        "cut_off": "raise judge.tokens",
        "too_long": "raise judge.generator.context, or tell fewer candidates",
        "timeout": "raise judge.generator.deadline-s, or judge fewer images with judge.below",
    }
    for reason, count in fell.most_common():
        if asked >= _FEW and count > _SHARE * asked:
            todo = doing.get(reason, "use another model or mode")
            ills.append(f"{count:,} of {asked:,} images that went to the judge fell back, {reason}; {todo}")
    if answered >= _FEW and not changed:
        ills.append(f"the judge agreed with all of {answered:,} places; leave it out, or lower judge.below")
    return ills
