"""Two systems on the same images: by hand, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.benchmark.against import compare
from geobatch.benchmark.evaluate import Beside, evaluate
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.metrics import geoscore
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
    assert (one.images, one.wins, one.losses, one.ties, one.theirs.placed) == (3, 1, 1, 1, 2)
    assert set(one.regions) == {"country", "region", "city"} and "than them" in found.as_text()
    assert found.as_dict()["against"]["them"]["only_theirs"]["25km"] == 1
    with pytest.raises(UserError, match=r"them holds no image of truth.csv .* name a table of the same images"):
        evaluate(ours, origin("a", "b", "c"), beside=Beside(against={"them": table(row("z", 1.0))}), bootstrap=QUICK)
    with pytest.raises(UserError, match="them holds an image twice"):
        evaluate(ours, origin("a"), beside=Beside(seeds={"them": table(row("a", 1.0), row("a", 2.0))}), bootstrap=QUICK)
