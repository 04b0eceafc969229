"""Two systems on the same images: by hand, and against themselves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark.against import compare
from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.metrics import geoscore
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from tests.benchmark.places import row, table
from tests.benchmark.test_evaluate import QUICK, origin
from tests.benchmark.towns import regions


def test_by_hand() -> None:
    ours = np.array([0.5, 30.0, 100.0, np.nan, np.nan, 5.0])
    theirs = np.array([0.9, 20.0, 900.0, 3.0, np.nan, np.nan])
    found = compare(ours, theirs, QUICK)
    assert (found.wins, found.losses, found.ties) == (2, 2, 2) and found.sign_test == 1
    assert (found.only_ours[25], found.only_theirs[25]) == (1, 2)
    assert (found.only_ours[200], found.only_theirs[200]) == (2, 1)
    assert found.shares[25].value == pytest.approx(-1 / 6) and found.shares[1].value == 0
    assert found.geoscore.value == pytest.approx(geoscore(ours).mean() - geoscore(theirs).mean())
    assert (found.theirs.placed, found.theirs.images) == (4, 6)
    assert "nearer to the truth for 2 images, farther for 2 and the same for 2" in found.sentence("x")


def test_a_sure_difference_is_said_to_be_one() -> None:
    ours, theirs = np.full(200, 10.0), np.full(200, 100.0)
    found = compare(ours, theirs, QUICK)
    assert "+100.0 points [+100.0, +100.0] more often than x, surely better at 25 km;" in found.sentence("x")
    assert found.sign_test < 1e-50
    assert "surely better at no radius and surely worse at 25 km" in compare(theirs, ours, QUICK).sentence("x")
    assert "surely better at no radius;" in compare(ours, ours, QUICK).sentence("x")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 20_000) | st.just(float("nan"))] * 2), min_size=1, max_size=30))
def test_the_other_way_round_is_the_negative(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    how = Bootstrap(resamples=20)
    one, other = compare(ours, theirs, how), compare(theirs, ours, how)
    assert (one.wins, one.losses, one.ties) == (other.losses, other.wins, other.ties)
    assert one.wins + one.losses + one.ties == one.images
    assert one.only_ours == other.only_theirs
    assert all(one.shares[km].value == pytest.approx(-other.shares[km].value) for km in one.shares)
    assert one.geoscore.value == pytest.approx(-other.geoscore.value)


def test_tables_are_compared_over_our_images() -> None:
    ours = table(row("x/a", 10.0), row("b", 500.0), row("c", None))
    theirs = table(row("stranger", 0.0), row("b", 3.0), row("y/a", 20.0))
    found = evaluate(
        ours, origin("a", "b", "c"), beside=Beside(against={"them": theirs}, regions=regions()), bootstrap=QUICK, analyses=()
    )
    one = found.against["them"]
    assert (one.images, one.wins, one.losses, one.ties, one.theirs.placed, one.left_out) == (2, 1, 1, 0, 2, (1, 0))
    assert set(one.regions) == {"country", "region", "city"} and "than them" in found.as_text()
    assert found.as_dict()["against"]["them"]["only_theirs"]["25km"] == 1
    with pytest.raises(UserError, match=r"them holds no image of truth.csv .* name a table of the same images"):
        evaluate(ours, origin("a", "b", "c"), beside=Beside(against={"them": table(row("z", 1.0))}), bootstrap=QUICK)
    with pytest.raises(UserError, match="them holds an image twice"):
        evaluate(ours, origin("a"), beside=Beside(seeds={"them": table(row("a", 1.0), row("a", 2.0))}), bootstrap=QUICK)


def half() -> tuple[pa.Table, pa.Table, Truth]:
    """100 images of which ours has the first 50 right; theirs holds ten alone, each right, where ours is wrong."""
    names = [f"i{number}" for number in range(100)]
    ours = table(*(row(name, 1.0 if at < 50 else 5000.0) for at, name in enumerate(names)))
    theirs = table(*(row(name, 1.0) for name in names[50:60]), row("more", 1.0), row("stranger", 1.0))
    return ours, theirs, origin(*names, "more")


def test_an_image_that_one_table_lacks_is_nobodys_miss() -> None:
    ours, theirs, truth = half()
    one = evaluate(ours, truth, beside=Beside(against={"them": theirs}), bootstrap=QUICK, analyses=()).against["them"]
    assert (one.images, one.left_out, one.only_ours[25], one.only_theirs[25]) == (10, (90, 1), 0, 10)
    assert one.shares[25].value == -1 and (one.wins, one.losses, one.ties) == (0, 10, 0)
    assert "surely worse at 1/25/200/750/2500 km" in one.sentence("them")
    assert "Left out are 90 images that only ours and 1 that only theirs holds." in one.sentence("them")
    whole = evaluate(
        ours, truth, beside=Beside(against={"them": theirs}), count_missing=True, bootstrap=QUICK, analyses=()
    ).against["them"]
    assert (whole.images, whole.left_out, whole.only_ours[25], whole.only_theirs[25]) == (101, (0, 0), 50, 11)
    nobody = table(row("more", 1.0))
    with pytest.raises(UserError, match=r"them and the table have no image of truth.csv in common"):
        evaluate(ours, truth, beside=Beside(against={"them": nobody}), bootstrap=QUICK, analyses=())


def test_a_rejected_image_is_a_miss() -> None:
    ours, theirs = table(row("a", 1.0), row("b", 1.0)), table(row("a", None), row("b", 2.0))
    one = evaluate(ours, origin("a", "b"), beside=Beside(against={"x": theirs}), bootstrap=QUICK, analyses=()).against["x"]
    assert (one.images, one.left_out, one.only_ours[25], one.theirs.placed) == (2, (0, 0), 1, 1)


def test_runs_of_other_seeds_are_compared_over_the_images_that_all_hold() -> None:
    names = [f"i{number}" for number in range(40)]
    ours = table(*(row(name, 1.0) for name in names))
    some = table(*(row(name, 1.0) for name in names[:10]), row(names[10], None))
    for counting, compared, flipping in ((False, 11, 1 / 11), (True, 40, 30 / 40)):
        found = evaluate(
            ours, origin(*names), beside=Beside(seeds={"2": some}), count_missing=counting, bootstrap=QUICK, analyses=("seeds",)
        ).findings[0]
        assert (found.figures["compared"], found.figures["left_out"]) == (compared, 40 - compared)
        assert found.rows[1]["flipping"] == pytest.approx(flipping)
    assert "29 images that not all runs hold are left out" in evaluate(
        ours, origin(*names), beside=Beside(seeds={"2": some}), bootstrap=QUICK, analyses=("seeds",)
    ).findings[0].sentence  # fmt: skip


def test_few_images_are_no_sure_difference() -> None:
    ours, theirs = np.full(3000, 500.0), np.full(3000, 500.0)
    ours[:4] = 10.0
    assert "surely better at no radius;" in compare(ours, theirs, QUICK).sentence("x")
    ours[:6] = 10.0
    assert "surely better at 25/200 km;" in compare(ours, theirs, QUICK).sentence("x")


def test_the_texts_of_one_image_are_compared_each_with_its_own() -> None:
    x = "s3://b/t.json#"
    ours = table(row(f"{x}a@1", 1.0), row(f"{x}a@2", 20.0), row(f"{x}b", 3.0))
    other = table(row(f"{x}a@2", 300.0), row(f"{x}b", 400.0), row(f"{x}a@1", 9.0))
    found = evaluate(ours, origin("a", "b"), beside=Beside(against={"other": other}), bootstrap=QUICK, analyses=())
    one = found.against["other"]
    assert (one.images, one.wins, one.only_ours[25], one.only_ours[200]) == (3, 3, 2, 2)
    images = table(row("a", 1.0), row("b", 1.0))
    for one_side, another in ((ours, images), (images, ours)):
        with pytest.raises(UserError, match="of them and the table one names texts"):
            evaluate(one_side, origin("a", "b"), beside=Beside(against={"them": another}), bootstrap=QUICK, analyses=())


def test_a_second_row_of_one_name_is_an_image_of_its_own() -> None:
    ours = table(row("t.tar#a", 1.0), row("t.tar#a~2", 1.0))
    one = evaluate(
        ours, origin("a"), beside=Beside(against={"csv": table(row("a", 2.0))}), bootstrap=QUICK, analyses=()
    ).against["csv"]
    assert (one.images, one.left_out) == (1, (1, 0))
