"""A page that is too large gives way image by image, as if so many had been asked for to begin with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geobatch.errors import UserError
from geobatch.report.fit import fitted, lessened
from geobatch.report.page import Page, document
from tests.report.made import page


def words(one: Page) -> str:
    return f"{len(one.images)} and {len(one.pictures)}"


def test_a_small_page_stays_as_it_is() -> None:
    one = page(50)
    assert fitted(one, 10_000_000, words) == (replace(one, sample="50 and 8"), document(replace(one, sample="50 and 8")))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_large_page_is_cut_until_it_fits(runs: int) -> None:
    one = page(4000, runs=runs, pictures=400)
    whole, least = len(document(one)), len(document(lessened(one, 0.0)))
    for part in (0.9, 0.5, 0.1):
        most = int(least + part * (whole - least))
        made, data = fitted(one, most, words)
        assert len(data) <= most and 0.8 * part < len(made.images) / 4000 < 1.1 * part
        assert 0 < len(made.pictures) / 400 < 1.1 * part and made.sample == words(made)
        assert len(document(made)) == len(data)


def test_rows_keep_what_belongs_to_them() -> None:
    one = page(600, runs=2, pictures=60)
    less = lessened(one, 0.25)
    assert len(less.images) == 150
    names = {name: row for row, name in enumerate(one.images["image_id"].to_pylist())}
    rows = [names[name] for name in less.images["image_id"].to_pylist()]
    for before, after in zip(one.runs, less.runs, strict=True):
        for name in ("image_id", "latitude", "probability_25km"):
            assert after.places[name].to_pylist() == before.places[name].take(rows).to_pylist()
        assert after.totals == before.totals
    assert less.pictures and all(one.pictures[rows[at]] == picture for at, picture in less.pictures.items())
    assert all(one.details[rows[at]] == detail for at, detail in less.details.items())
    # The farthest and the nearest stay.
    error = np.array(one.runs[0].places["error_km"].to_pylist(), np.float64)
    assert {int(np.nanargmax(error)), int(np.nanargmin(error))} <= set(rows)


def test_a_sentence_that_grows_as_a_page_shrinks_is_reckoned_with() -> None:
    one = page(50)
    noise = np.random.default_rng(0).bytes(400).hex()

    def longer(few: Page) -> str:
        return "" if len(few.images) == 50 else noise

    least = len(document(replace(lessened(one, 0.0), sample=noise)))
    made, data = fitted(one, least, longer)
    assert len(made.images) == 1 and len(data) == least and made.sample == noise
    with pytest.raises(UserError, match="beside its images"):
        fitted(one, least - 1, longer)


def test_what_cannot_give_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"MB beside its images.*--compare"):
        fitted(page(50), 1000, words)
