"""Country, region (a state or province) and city of places, as numbers to compare; how many people live around one.

A place belongs to its nearest town (GeoNames' 155,210, `engine.geocode.Geocoder`), and with it to a state, a country and a
continent. "The right city" is therefore the same nearest town's name in the same state, which in a metropolis may be a
suburb's;
a point just across a border gets the nearer town's country, and one at sea the nearest shore's. Published accuracies by
country, region and city come from other gazetteers and may differ by some points.

People around a place are those of all towns in its S2 cell of level 8, some 36 km wide, over the cell's mean area: a proxy from
towns above 1,000 inhabitants, blind to who lives between them.

A million places take 2 s of one core.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.continents import CONTINENT_OF, CONTINENTS
from geobatch.geo import cell, s2

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

#: Level of the cells that people are counted in.
PEOPLE_LEVEL = 8
#: Places looked up at once.
_BLOCK = 1 << 18


class Named(Protocol):
    """A town that people have a name for."""

    @property
    def city(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def country(self) -> str: ...


class Gazetteer(Protocol):
    """Towns that can be asked for the nearest; `engine.geocode.Geocoder` is one."""

    latitude: Floats
    longitude: Floats

    def nearest(self, latitude: Floats, longitude: Floats) -> NDArray[np.int64]:
        """Which town each point in degrees is nearest to, (N,)."""

    def __getitem__(self, index: int) -> Named: ...


class Census(Gazetteer, Protocol):
    """A gazetteer that knows how many people live in its towns."""

    people: NDArray[np.int64]


@dataclass(frozen=True)
class Where:
    """Of N places the town `(N,)` and the numbers of what it belongs to, -1 where there is no place."""

    town: NDArray[np.int64]
    city: Codes
    region: Codes
    country: Codes
    continent: Codes

    def at(self, some: NDArray[np.bool_]) -> Where:
        """Of those places `(N,)` alone."""
        return Where(self.town[some], self.city[some], self.region[some], self.country[some], self.continent[some])


class Regions:
    """A gazetteer by numbers.

    Args:
        towns: the gazetteer.
        codes: names of countries, as its towns say them, by ISO code; for the continents.
    """

    def __init__(self, towns: Census, codes: Mapping[str, str]) -> None:
        self.towns = towns
        named = [towns[at] for at in range(len(towns.latitude))]
        country, self.countries = _numbered([town.country for town in named])
        state, _ = _numbered([(town.country, town.state) for town in named])
        city, _ = _numbered([(town.country, town.state, town.city) for town in named])
        lies = {name: CONTINENTS.index(CONTINENT_OF[code]) for code, name in codes.items() if code in CONTINENT_OF}
        #: Continent, by position in `CONTINENTS`, of each country; -1: unknown.
        self.continent_of = np.array([lies.get(str(name), -1) for name in self.countries], np.int32)
        self._codes = (city, state, country)

    def of(self, latitude: Floats, longitude: Floats) -> Where:
        """Of places in degrees, NaN where there is none."""
        town = np.full(len(latitude), -1, np.int64)
        known = np.flatnonzero(~(np.isnan(latitude) | np.isnan(longitude)))
        for at in range(0, len(known), _BLOCK):
            rows = known[at : at + _BLOCK]
            town[rows] = self.towns.nearest(latitude[rows], longitude[rows])
        city, region, country = (np.where(town >= 0, codes[town], -1).astype(np.int32) for codes in self._codes)
        continent = np.where(country >= 0, self.continent_of[country], -1).astype(np.int32)
        return Where(town, city, region, country, continent)

    @cached_property
    def _people(self) -> tuple[NDArray[np.uint64], Floats]:
        """Cells with towns, rising, and who lives there."""
        cells, of = np.unique(s2.cell_ids(self.towns.latitude, self.towns.longitude, PEOPLE_LEVEL), return_inverse=True)
        return cells, np.bincount(of, self.towns.people, len(cells)).astype(np.float64)

    def density(self, latitude: Floats, longitude: Floats) -> Floats:
        """People a km² `(N,)` around places in degrees."""
        cells, people = self._people
        asked = s2.cell_ids(latitude, longitude, PEOPLE_LEVEL)
        at = np.minimum(np.searchsorted(cells, asked), len(cells) - 1)
        return np.where(cells[at] == asked, people[at], 0.0) / cell.edge_km(PEOPLE_LEVEL) ** 2

    def name(self, latitude: float, longitude: float) -> str:
        """The nearest town, for a sentence."""
        town = self.towns[int(self.towns.nearest(np.array([latitude]), np.array([longitude]))[0])]
        return f"{town.city} ({town.country})"


def _numbered(names: Sequence[Hashable]) -> tuple[Codes, list[Hashable]]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32), list(numbers)
