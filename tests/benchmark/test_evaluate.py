"""Evaluation: each choice by hand, and that every image counts once in every choice."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.evaluation import Evaluation
from geobatch.benchmark.metrics import Bootstrap
from geobatch.benchmark.truth import Truth, truth_of
from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.distance import haversine_km
from geobatch.schema import CONFIDENCE
from tests.benchmark.places import candidates, neighbours, probabilities, row, table

QUICK = Bootstrap(resamples=200)


def origin(*ids: str) -> Truth:
    return truth_of(ids, np.zeros(len(ids)), np.zeros(len(ids)), "truth.csv")


def whole() -> pa.Table:
    pool = candidates((50, -2.0, "sample"), (10, -9.0, "sample"), (300, -1.0, "sample"), (2, 0.0, "other"))
    return table(
        row("a", 20.0, candidates=pool, neighbours=neighbours(600, 0.5), **probabilities(0, 0.5, 1, 1, 1)),
        row("b", None),
        row("c", 0.4, candidates=candidates((1, -3.0, "sample")), **probabilities(1, 1, 1, 1, 1)),
        row("d", 5000.0, candidates=candidates((9, 1.0, None)), neighbours=[], exif_latitude=0.0, exif_longitude=1.0),
        row("no truth", 1.0),
    )


def near(evaluation: Evaluation, name: str) -> list[float | None]:
    return [None if np.isnan(km) else round(float(km), 6) for km in evaluation.distances[name]]


def test_each_choice_by_hand() -> None:
    found = evaluate(whole(), origin("a", "b", "c", "d", "gone"), bootstrap=QUICK)
    assert list(found.choices) == [
        "chosen",
        "nearest neighbour",
        "log-probability",
        "oracle of the samples",
        "oracle of the pool",
    ]
    assert near(found, "chosen") == [20, None, 0.4, 5000]
    assert near(found, "nearest neighbour") == [600, None, None, None]
    assert near(found, "log-probability") == [300, None, 1, None]
    assert near(found, "oracle of the samples") == [10, None, 1, None]
    assert near(found, "oracle of the pool") == [0.5, None, 1, 9]
    alone = evaluate(whole(), origin("a", "b", "c", "d"), pool_neighbours=1, bootstrap=QUICK)
    assert near(alone, "oracle of the pool") == [2, None, 1, 9]
    assert [one.value for one in found.choices["chosen"].shares] == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert all(one.images == 4 for one in found.choices.values())
    assert (found.images, found.placed, found.without_truth, found.missing) == (4, 4, 1, 1)
    assert found.rejected == {"broken": 1}
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert np.array_equal(np.isnan(found.latitude), [False, True, False, False])
    drawn = haversine_km(found.latitude, found.longitude, found.true_latitude, found.true_longitude)
    assert np.array_equal(drawn, found.distances["chosen"], equal_nan=True)
    assert [one.value for one in found.against_neighbour.values()] == [0.25, 0.5, 0.5, 0.25, 0.25]


def test_calibration_and_exif() -> None:
    found = evaluate(whole(), origin("a", "b", "c", "d"), bootstrap=QUICK)
    assert [one.images for one in found.calibration] == [2] * 5
    assert [one.brier for one in found.calibration] == [0, 0.125, 0, 0, 0]
    assert found.exif is not None and found.exif.images == 1
    assert found.exif.median_km == pytest.approx(5000 - 111.19492664)


def test_doubts_are_held_against_the_truth() -> None:
    here, there = s2.cell_tokens(s2.cell_ids([0.0, 40.0], [0.0, 40.0], 5))
    sure = {"radius_90_km": 25.0, "area": here, "area_probability": 0.95, "chosen_by": "expected_share"}
    rows = [
        row("a", 20.0, **sure),
        row("b", 30.0, **{**sure, "area": there, "chosen_by": "judge"}),
        row("c", 1.0, **{**sure, "area": None, "area_probability": None, "fallback": "judge: refused"}),
        row("d", None),
    ]
    found = evaluate(table(*rows), origin("a", "b", "c", "d"), bootstrap=QUICK)
    radius, area = found.coverage
    assert (radius.images, radius.without, radius.held.value, radius.stated, radius.median_km) == (3, 0, 2 / 3, 0.9, 25)
    assert (area.images, area.without, area.held.value, area.stated) == (2, 1, 0.5, pytest.approx(0.95))
    assert area.median_km == pytest.approx(288, rel=0.01)
    assert (found.chosen_by, found.fallbacks) == ({"expected_share": 2, "judge": 1}, {"judge: refused": 1})
    for words in (
        "radius_90_km holds 66.7 % of 3",
        "area holds 50.0 % of 2",
        "chosen by expected_share 2, judge 1",
        "1 without",
    ):
        assert words in found.as_text()
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_table_without_doubts_is_judged_all_the_same() -> None:
    old = whole().drop_columns([field.name for field in CONFIDENCE])
    found = evaluate(old, origin("a", "b", "c", "d"), bootstrap=QUICK)
    assert (found.coverage, found.chosen_by, found.fallbacks) == ([], {}, {})


def test_the_gap_to_the_oracle_by_hand() -> None:
    near, far = (5, -1.0, "sample"), (90, 0.0, "sample")  # the likelier one is the farther one
    rows = [row("a", 10.0, candidates=candidates(near, far)), row("b", 80.0, candidates=candidates(near, far))]
    found = evaluate(table(*rows, row("c", 3.0, candidates=candidates(near))), origin("a", "b", "c"), bootstrap=QUICK)
    assert found.gap_closed()["chosen"][25] == pytest.approx(0.5) and np.isnan(found.gap_closed()["chosen"][200])
    assert found.against_score["chosen"][25].value == pytest.approx(1 / 3)
    assert set(found.against_score) == {"chosen"} and "% of gap to oracle" in found.as_text()
    assert evaluate(table(row("a", 1.0)), origin("a"), bootstrap=QUICK).gap_closed() == {}


def test_missing_images_are_wrong_where_asked() -> None:
    found = evaluate(whole(), origin("a", "c", "gone"), count_missing=True, bootstrap=QUICK)
    assert (found.images, found.missing) == (3, 1)
    assert found.rows.tolist() == [0, 2, -1]
    assert found.choices["chosen"].shares[1].value == pytest.approx(2 / 3)
    assert near(found, "oracle of the samples") == [10, 1, None]


def test_a_bare_table_has_the_chosen_places_alone() -> None:
    found = evaluate(table(row("a", 3.0), row("b", 30.0)), origin("a", "b"), bootstrap=QUICK)
    assert list(found.choices) == ["chosen"]
    assert (found.calibration, found.exif, found.against_neighbour) == ([], None, {})
    assert "chosen" in found.as_text() and found.as_dict()["exif"] is None


def test_a_table_of_rejections_alone() -> None:
    found = evaluate(table(row("a", None), row("b", None)), origin("a"), bootstrap=QUICK)
    assert (found.placed, found.rejected, found.choices["chosen"].shares[4].value) == (0, {"broken": 2}, 0)
    assert found.as_dict()["choices"]["chosen"]["mean_km"] is None


def test_the_texts_of_one_image_are_judged_each_by_its_place() -> None:
    x = "s3://b/t.json#"
    ours = table(row(f"{x}a@1", 1.0), row(f"{x}a@2", 20.0), row(f"{x}b", 3.0))
    found = evaluate(ours, origin("a", "b"), bootstrap=QUICK)
    assert found.images == 3 and near(found, "chosen") == [1.0, 20.0, 3.0]


def test_order_of_rows_and_of_truth_does_not_matter() -> None:
    here, there = whole(), whole().take([4, 2, 0, 3, 1])
    one = evaluate(here, origin("a", "b", "c", "d"), bootstrap=QUICK)
    other = evaluate(there, origin("d", "c", "b", "a"), bootstrap=QUICK)
    assert one.as_dict() == other.as_dict()
    ids = there["image_id"].to_pylist()
    assert [ids[at] for at in other.rows] == ["c", "a", "d", "b"]


def test_chunks_of_the_table_change_nothing() -> None:
    pieces = pa.concat_tables([whole().slice(at, 1) for at in range(5)])
    truth = origin("a", "b", "c", "d")
    assert evaluate(pieces, truth, bootstrap=QUICK).as_dict() == evaluate(whole(), truth, bootstrap=QUICK).as_dict()


def test_many_images_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for at in range(300):
        pool = candidates(*[(float(km), float(s), "sample") for km, s in rng.normal(0, 900, (rng.integers(0, 6), 2))])
        rows.append(row(str(at), float(rng.normal(0, 900)), candidates=pool or None))
    truth = truth_of([str(at) for at in range(300)], rng.uniform(-60, 60, 300), rng.uniform(-180, 180, 300), "t")
    found = evaluate(table(*rows), truth, bootstrap=QUICK)
    for at, one in enumerate(rows):
        true = (truth.latitude[at], truth.longitude[at])
        pool = one["candidates"] or []
        km = [float(haversine_km(each["latitude"], each["longitude"], *true)) for each in pool]
        best = max(range(len(pool)), key=lambda which: pool[which]["score"], default=None)
        expected = [min(km, default=np.nan), np.nan if best is None else km[best]]
        got = [found.distances[name][at] for name in ("oracle of the samples", "log-probability")]
        assert got == pytest.approx(expected, nan_ok=True)


def test_the_dict_is_json_and_the_text_names_every_choice() -> None:
    found = evaluate(whole(), origin("a", "b", "c", "d"), bootstrap=QUICK)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["choices"]["chosen"]["shares"]["25km"]["value"] == 0.5
    assert plain["rejected"] == {"broken": 1}
    text = found.as_text()
    for words in (*found.choices, "rejected: broken 1", "Brier score", "to EXIF (1)", "over neighbour"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 110


def test_strangers_and_doubles_are_refused() -> None:
    with pytest.raises(UserError, match=r"no image of the table is in truth.csv .*; give the truth"):
        evaluate(whole(), origin("x", "y"))
    with pytest.raises(UserError, match=r"the table holds an image twice \('a'\); leave one row of each"):
        evaluate(table(row("a", 1.0), row("a", 2.0)), origin("a"))
    with pytest.raises(UserError, match=r"greedy holds an image twice \('a'\); leave"):
        evaluate(whole(), origin("a"), beside=Beside(against={"greedy": table(row("a", 1.0), row("a", 2.0))}))
    with pytest.raises(UserError, match="no image of the table"):
        evaluate(table(), origin("a"))
