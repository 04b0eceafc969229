"""What is said of an evaluation claims no more than its intervals carry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geobatch.benchmark import published, sentences
from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.published import Published
from geobatch.benchmark.truth import truth_of
from tests.benchmark.places import candidates, row, table
from tests.benchmark.test_evaluate import QUICK, origin
from tests.benchmark.towns import regions


def test_published_rows_inside_the_interval_are_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"i{number}" for number in range(400)]
    found = evaluate(
        table(*(row(name, 1.0 if at < 160 else 5000.0) for at, name in enumerate(names))), origin(*names), bootstrap=QUICK
    )
    # 40 % of 400: a deviation of 2.4 points.
    rows = tuple(
        Published(system=f"s{share}", figures=(1, share, 50, 60, 70), source="x", date="2025")
        for share in (30.0, 39.0, 42.0, 50.0)
    )
    monkeypatch.setitem(published.PUBLISHED, "im2gps3k", rows)
    monkeypatch.setitem(published.IMAGES, "im2gps3k", 400)
    said = sentences.of(replace(found, benchmark="im2gps3k"))["published"]
    assert (
        said.startswith("With 40.0 % [")
        and "surely above 1 of 4 published rows of im2gps3k, none of which was measured" in said
    )
    assert said.endswith("within its interval, undecided, are s39.0, s42.0.")


def test_nothing_is_ranked_where_nobody_can_tell_a_part_from_the_whole() -> None:
    found = replace(evaluate(table(row("a", 1.0)), origin("a"), bootstrap=QUICK), benchmark="osv5m")
    said = sentences.of(found)["published"]
    assert said.startswith("osv5m: the size of its test set is not known here; figures of 1 images") and "above" not in said
    assert "the size of its test set is not known here" in found.as_text()


def test_positions_that_no_place_is_compared_with_are_not_told() -> None:
    own = {"exif_latitude": 0.0, "exif_longitude": 1.0}
    found = evaluate(table(row("a", None, **own), row("b", 1.0)), origin("a", "b"), bootstrap=QUICK)
    assert found.exif is not None and found.exif.placed == 0 and "exif" not in sentences.of(found)
    one = evaluate(table(row("a", None, **own), row("b", 1.0, **own)), origin("a", "b"), bootstrap=QUICK)
    assert sentences.of(one)["exif"].startswith(
        "2 images carry a GPS position of their own; the places of 1 of them lie 110.2 km"
    )


def test_the_gap_closed_is_told_with_its_interval_where_there_is_one() -> None:
    names = [f"i{number}" for number in range(100)]
    # The likeliest draw is 300 km off, the other 5 km; half the images chose that.
    pool = candidates((300, -1.0, "sample"), (5, -2.0, "sample"))
    rows = [row(name, 5.0 if at < 50 else 300.0, candidates=pool) for at, name in enumerate(names)]
    found = evaluate(table(*rows), origin(*names), bootstrap=QUICK)
    gap = found.gap[25]
    assert gap.value == 0.5 and gap.low == pytest.approx(0.4, abs=0.03) and gap.high == pytest.approx(0.6, abs=0.03)
    assert "the chosen place closes 50.0 % [" in sentences.of(found)["gap_closed"]
    assert found.as_dict()["gap_closed_by_chosen"]["25km"]["value"] == 0.5 and np.isnan(found.gap[1].value)
    # Of one image among 100 there may be no gap at all.
    few = [row(name, 5.0, candidates=candidates((5 if at else 300, -1.0, "sample"), (5, -2.0, "sample"))) for at, name in
           enumerate(names)]  # fmt: skip
    assert "gap_closed" not in sentences.of(evaluate(table(*few), origin(*names), bootstrap=QUICK))


def test_a_neighbour_without_a_place_is_nobodys_answer() -> None:
    near = [
        {"image_id": "lost", "latitude": None, "longitude": None, "similarity": 0.9},
        {"image_id": "berlin", "latitude": 52.52, "longitude": 13.4, "similarity": 0.8},
    ]
    truth = truth_of(["a"], np.array([48.857]), np.array([2.352]), "t")
    found = evaluate(
        table(row("a", 1.0, neighbours=near)), truth, beside=Beside(regions=regions()), bootstrap=QUICK, analyses=("masked",)
    ).findings[0]
    rows = {each["masked"]: each for each in found.rows}
    assert rows["its country"]["with_a_neighbour_left"] == 1 and rows["its country"]["within_2500km"]["value"] == 1
    assert rows["its continent"]["with_a_neighbour_left"] == 0
