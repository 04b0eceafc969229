"""Towns by number, and people around a place."""

from __future__ import annotations

import numpy as np
import pytest

from geobatch.benchmark.against import right
from geobatch.benchmark.continents import CONTINENT_OF, CONTINENTS
from geobatch.engine.geocode import country_names
from geobatch.geo import cell
from tests.benchmark.towns import Towns, regions


def test_places_belong_to_their_nearest_town() -> None:
    known = regions()
    true = known.of(np.array([48.86, 48.86, 48.86, np.nan, -3.0]), np.array([2.35, 2.35, 2.35, 1.0, -60.0]))
    guessed = known.of(np.array([48.81, 45.7, 52.5, 48.86, np.nan]), np.array([2.11, 4.8, 13.3, 2.35, 1.0]))
    assert right(true, guessed, "country").tolist() == [True, True, False, False, False]
    assert right(true, guessed, "region").tolist() == [True, False, False, False, False]
    assert right(true, true, "city").tolist() == [True, True, True, False, True]
    assert [CONTINENTS[at] if at >= 0 else None for at in true.continent] == ["Europe"] * 3 + [None, "South America"]
    assert known.name(48.8, 2.1) == "Versailles (France)"


def test_people_are_those_of_the_cell() -> None:
    towns, known = Towns(), regions()
    area = cell.edge_km(8) ** 2
    found = known.density(np.append(towns.latitude, 0.0), np.append(towns.longitude, 0.0))
    assert found[3] == pytest.approx(3_500_000 / area) and found[5] == 0
    assert found[0] in (pytest.approx(2_085_000 / area), pytest.approx(2_000_000 / area))


def test_every_country_of_the_gazetteer_has_a_continent() -> None:
    gone = {"AN"}  # the Netherlands Antilles, still in old lists
    assert set(CONTINENT_OF) - gone <= set(country_names())
    assert set(country_names()) <= set(CONTINENT_OF)
    counted = sum(len(set(each)) for each in ([c for c, on in CONTINENT_OF.items() if on == name] for name in CONTINENTS))
    assert counted == len(CONTINENT_OF)  # none on two
    assert CONTINENT_OF["FJ"] == "Oceania" and CONTINENT_OF["EG"] == "Africa"
