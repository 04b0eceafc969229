"""The record of what a judge did, from the marks alone."""

from __future__ import annotations

import json

import pyarrow as pa

from geobatch.methods.geotoken.judge_record import COLUMNS, judged, line
from geobatch.schema import PLACE

Mark = tuple[str | None, float | None, str | None, str | None]
MOVED: Mark = (None, None, "judge", None)
AGREED: Mark = (None, -1.0, "judge", None)
PASSED: Mark = (None, -1.0, "expected_distance", None)
OTHER: Mark = (None, -1.0, "log_probability", "similarity: nothing to compare with")
REJECTED: Mark = ("broken", None, None, None)


def fell(reason: str, also: str = "") -> Mark:
    return (None, -1.0, "expected_distance", f"judge: {reason}{also}")


def table_of(*marks: Mark) -> pa.Table:
    columns = zip(*marks, strict=True) if marks else [[] for _ in COLUMNS]
    return pa.table(
        {name: pa.array(list(values), PLACE.field(name).type) for name, values in zip(COLUMNS, columns, strict=True)}
    )


def test_every_placed_row_is_counted_once() -> None:
    one = table_of(MOVED, MOVED, AGREED, PASSED, OTHER, REJECTED, fell("unparsed"), fell("cut_off", "; similarity: nothing"))
    two = table_of(MOVED, fell("unparsed"))
    told = judged([one, table_of(), two])
    assert told == {
        "placed": 9,
        "asked": 7,
        "not_asked": 2,
        "answered": 4,
        "changed": 3,
        "agreed": 1,
        "fell_back": {"cut_off": 1, "unparsed": 2},
        "ills": [],
    }
    assert line(told) == "judge: 7 of 9 images went, 3 places changed, 3 kept the selector's for want of a verdict"
    assert judged([two, one]) == told and json.loads(json.dumps(told)) == told
    assert judged([])["asked"] == 0


def test_ills_are_named_with_what_to_do() -> None:
    many = table_of(*[MOVED] * 30, *[fell("cut_off")] * 10, fell("refused"), *[fell("timeout")] * 3)
    ills = judged([many])["ills"]
    assert len(ills) == 2 and "10 of 44" in ills[0] and "judge.tokens" in ills[0] and "deadline" in ills[1]
    assert not judged([table_of(*[fell("cut_off")] * 10)])["ills"], "too few to say"
    assert "agreed with all of 25" in judged([table_of(*[AGREED] * 25)])["ills"][0]
    assert not judged([table_of(*[AGREED] * 25, MOVED)])["ills"]
