"""What is known of a place (`landscape`), said in English, differently each time.

    Mostly plains, with hill country here and there. A river or two. Far from any sea. Go 160 km south-east from Porto Velho,
    Brazil. Entirely closed woodland.

A text holds up to nine statements. The sea, the cover of the ground, its relief and the nearest city are always told; height,
amount of water, islands, lakes and rivers each by chance, so that two texts of one place differ in what they say and not only
in how. Each statement has three to six wordings, four nouns for one thing, and its place in the text is drawn.

What a direction means is one rule for all: "in the west" is said of a thing if it is at least half of the western third of the
square, "in the north-west" if it is at least half of that ninth and neither third is said, "in the middle" if it is half of the
middle ninth and of nothing else. Lakes and rivers are thinner: a lake is said to be where most of it is, a great river where
it touches a quarter. There are no coordinates; the only numbers are distances to the city, rounded to 5 km below 50, to 10
below 200, to 50 above.

Everything is drawn from the seed and the place itself, so that a text does not depend on which others are asked for beside it.
Copies of one place never read alike (as long as there are no more than wordings of the sea, 6). 30,000 texts take about 3 s
of one core beyond their facts.

Not covered: other languages, metaphors, mistakes; people who describe tiles make more of the last two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geobatch.benchmark.landscape import COVERS, HEIGHTS, RELIEFS, Facts, Floats, Landscape, Shares
from geobatch.benchmark.regions import Named

SIDES = ("north", "east", "south", "west")
CORNERS = ("north-east", "south-east", "south-west", "north-west")
WINDS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
#: Rows and columns of the ninths.
_NINTHS = (("north-west", "north", "north-east"), ("west", "middle", "east"), ("south-west", "south", "south-east"))

_MASK = (1 << 64) - 1
_DRAWS = 40  # a text draws at most

INLAND = (
    "Far from any sea.", "Inland, without a shore.", "No sea in sight.", "Landlocked ground.", "The sea is far away.",
    "Deep in the interior, no coast anywhere.",
)  # fmt: skip
COAST = (
    "The sea lies {where}.", "A coast, with the sea {where}.", "Open sea {where}.", "A shore: sea {where}.",
    "Sea water {where}, land beyond.", "By the sea, which is {where}.",
)  # fmt: skip
AMOUNTS = (
    (0.12, ("Little of it is water.", "Nearly all of it is land.", "Water takes up but a corner.")),
    (0.4, ("A good part is water.", "Land prevails over water.", "Water takes up about a quarter.")),
    (0.65, ("Half land, half water.", "As much water as land.", "Water takes up about half.")),
    (1.01, ("Mostly water.", "Water prevails over land.", "There is little land.")),
)
ISLANDS = ("{count} in the water.", "One sees {count}.", "{count} lie here.", "There are {count}.")
NOUNS = {
    "snow": ("snow and ice", "ice", "snow", "white ground"),
    "forest": ("forest", "dense woods", "dark forest", "closed woodland"),
    "fields": ("green fields", "farmland and meadows", "lush green land", "crops and pasture"),
    "dry grass": ("dry grassland", "savanna", "brownish grassland", "prairie"),
    "steppe": ("steppe", "thin scrub", "sparse bush", "semi-desert"),
    "desert": ("desert", "bare sand and rock", "arid waste", "sandy ground"),
    "red earth": ("red earth", "reddish ground", "rust-red desert", "ochre soil"),
    "bare ground": ("bare ground", "tundra", "grey barren land", "cold barrens"),
    "flat": ("plains", "flat land", "level ground", "wide plains"),
    "hilly": ("hills", "rolling country", "uneven ground", "hill country"),
    "mountainous": ("mountains", "steep ranges", "rugged peaks", "mountain ridges"),
    "low": ("low ground", "lowland", "low-lying land", "ground near sea level"),
    "upland": ("upland", "moderately raised ground", "ground of middling height", "gentle heights"),
    "high": ("highland", "high ground", "elevated plateaus", "raised tableland"),
    "very high": ("very high ground", "alpine heights", "towering highland", "lofty elevations"),
}
WHOLE = (
    "{noun} throughout.", "{noun} everywhere.", "Nothing but {noun}.", "All {noun}.", "{noun} from edge to edge.",
    "Entirely {noun}.",
)  # fmt: skip
MOST = ("Mostly {noun}", "{noun} for the most part", "Largely {noun}", "Chiefly {noun}", "Mainly {noun}", "{noun} above all")
NEXT = ("; {noun} {where}", ", {noun} {where}", ", with {noun} {where}", "; also {noun} {where}")
LAKES = ("A lake {where}.", "There is a large lake {where}.", "Fresh water: a lake {where}.", "One sees a lake {where}.")
DRY = ("No river reaches this place.", "Without rivers.", "No streams are drawn here.", "There is no river.")
FEW = ("A few rivers.", "Some rivers cross it.", "A river or two.", "Rivers are few.")
MANY = ("Many rivers.", "A dense net of rivers.", "Rivers everywhere.", "Streams run all over it.")
GREAT = ("A great river runs {where}.", "A mighty stream passes {where}.", "One of the long rivers flows {where}.")
NEAR = (
    "Close to {city}, {country}.", "{city} in {country} is right here.", "At {city}, {country}.",
    "{city}, {country}, and around it.", "Around {city} in {country}.", "Near {city}, {country}.",
)  # fmt: skip
AWAY = (
    "About {km} km {wind} of {city}, {country}.", "{city} ({country}) lies {km} km to the {back}.",
    "The nearest city is {city}, {country}, {km} km to the {back}.", "{km} km {wind} of {city} in {country}.",
    "Go {km} km {wind} from {city}, {country}.", "{city}, {country}: {km} km away to the {back}.",
)  # fmt: skip
COUNTS = ("", "an island", "two islands", "three islands", "four islands")


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How much a text says."""

    names: float = 1.0
    """Chance that the nearest city and its country are told, where the landscape has a gazetteer."""

    extras: float = 0.5
    """Chance of each statement that may be left out: height, amount of water, islands, lakes, rivers."""


def tell(
    landscape: Landscape,
    latitudes: Floats,
    longitudes: Floats,
    seed: int,
    copies: int = 1,
    telling: Telling | None = None,
) -> list[list[str]]:
    """Texts of places.

    Args:
        landscape: the maps and the gazetteer.
        latitudes: (N,) degrees.
        longitudes: (N,) degrees.
        seed: other seeds give other words for the same facts.
        copies: texts of each place.
        telling: how much they say.

    Returns:
        (N, copies) texts of 20 to 70 words.
    """
    facts = landscape.facts(latitudes, longitudes)
    speaker = _Speaker(facts, telling or Telling())
    out = []
    for row, place in enumerate(_hashes(latitudes, longitudes, seed)):
        town = landscape.towns[int(facts.town[row])] if landscape.towns is not None else None
        out.append([speaker.text(row, town, place, copy) for copy in range(copies)])
    return out


def places_said(shares: Shares, least: float = 0.5) -> NDArray[np.int64]:
    """Which directions may be said of a thing with these shares of the ninths (N, 3, 3), as bits (N,).

    Bits 0 to 3: `SIDES`; 4 to 7: `CORNERS`; 8: the middle.
    """
    thirds = [shares[:, 0].mean(axis=1), shares[:, :, 2].mean(axis=1), shares[:, 2].mean(axis=1), shares[:, :, 0].mean(axis=1)]
    side = [third >= least for third in thirds]
    found = sum((each.astype(np.int64) << bit for bit, each in enumerate(side)), np.zeros(len(shares), np.int64))
    for bit, (row, column, one, other) in enumerate(((0, 2, 0, 1), (2, 2, 2, 1), (2, 0, 2, 3), (0, 0, 0, 3))):
        found |= ((shares[:, row, column] >= least) & ~side[one] & ~side[other]).astype(np.int64) << (4 + bit)
    return found | ((shares[:, 1, 1] >= least) & (found == 0)).astype(np.int64) << 8


@lru_cache(maxsize=4096)
def phrase(bits: int, drawn: int) -> str:
    """Those directions in words: "in the west and south-east"."""
    if bits & 15 == 15:
        return ("on every side", "all around")[drawn % 2]
    names = [name for bit, name in enumerate((*SIDES, *CORNERS)) if bits >> bit & 1]
    if not names:
        return (
            ("in the middle", "in the centre")[drawn % 2]
            if bits
            else ("here and there", "in places", "scattered about")[drawn % 3]
        )
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{('in the', 'to the', 'in the')[drawn % 3]} {listed}"


class _Speaker:
    """Says the facts; what all texts ask of the shares is computed once."""

    def __init__(self, facts: Facts, telling: Telling) -> None:
        self.facts, self.telling = facts, telling
        self.total = {name: share.mean(axis=(1, 2)) for name, share in facts.shares.items()}
        self.said = {name: places_said(share) for name, share in facts.shares.items()}
        self.great = places_said(facts.shares["great river"], 0.25)
        self.lake = facts.shares["lake"].reshape(len(facts), 9).argmax(axis=1)

    def text(self, row: int, town: Named | None, place: int, copy: int) -> str:
        """One text; the order of its statements is drawn too."""
        draws = _draws(_mix(place ^ _mix(copy + 1)))
        parts = [self._sea(row, draws, (place + copy) % len(COAST)), *self._ground(row, draws), *self._water(row, draws)]
        if town is not None and self._may(draws, self.telling.names):
            parts.append(self._name(row, town, draws))
        keys = [(draws.pop(), part) for part in parts if part]
        return " ".join(part for _, part in sorted(keys))

    def _may(self, draws: list[int], chance: float) -> bool:
        return draws.pop() / 2**32 < chance

    def _sea(self, row: int, draws: list[int], wording: int) -> str:
        drawn = draws.pop()
        if not self.total["sea"][row]:
            return INLAND[wording]
        return COAST[wording].format(where=phrase(int(self.said["sea"][row]), drawn % 6))

    def _ground(self, row: int, draws: list[int]) -> list[str]:
        if not self.total["land"][row]:
            return []
        parts = [self._mixture(row, COVERS, draws), self._mixture(row, RELIEFS, draws)]
        if self._may(draws, self.telling.extras):
            parts.append(self._mixture(row, HEIGHTS, draws))
        return parts

    def _mixture(self, row: int, names: Sequence[str], draws: list[int]) -> str:
        """What prevails on land, and where the next is."""
        ranked = sorted(((float(self.total[name][row]), name) for name in names), reverse=True)
        land = float(self.total["land"][row])
        nouns = [NOUNS[name][draws.pop() % len(NOUNS[name])] for _, name in ranked[:2]]
        draw = draws.pop()
        if ranked[0][0] >= 0.93 * land:
            return _capital(WHOLE[draw % len(WHOLE)].format(noun=nouns[0]))
        said = MOST[draw % len(MOST)].format(noun=nouns[0])
        share, name = ranked[1]
        if share >= 0.07 * land:
            where = phrase(int(self.said[name][row]), draw // 8 % 6)
            said += NEXT[draw // 64 % len(NEXT)].format(noun=nouns[1], where=where)
        return _capital(said + ".")

    def _water(self, row: int, draws: list[int]) -> list[str]:
        sea, lake, land = (float(self.total[name][row]) for name in ("sea", "lake", "land"))
        parts = []
        if sea and self._may(draws, self.telling.extras):
            amount = next(words for most, words in AMOUNTS if sea + lake < most)
            parts.append(amount[draws.pop() % len(amount)])
        if self.facts.islands[row] and self._may(draws, self.telling.extras):
            count = int(self.facts.islands[row])
            counted = COUNTS[count] if count < len(COUNTS) else "many islands"
            parts.append(_capital(ISLANDS[draws.pop() % len(ISLANDS)].format(count=counted)))
        if lake and self._may(draws, self.telling.extras):
            ninth = _NINTHS[self.lake[row] // 3][self.lake[row] % 3]
            parts.append(LAKES[draws.pop() % len(LAKES)].format(where=f"in the {ninth}"))
        if land and self._may(draws, self.telling.extras):
            parts.append(self._rivers(row, draws.pop()))
        return parts

    def _rivers(self, row: int, drawn: int) -> str:
        wet = float(self.total["river"][row] + self.total["great river"][row]) / float(self.total["land"][row])
        if self.great[row]:
            return GREAT[drawn % len(GREAT)].format(where=phrase(int(self.great[row]), drawn // 4 % 6))
        choice = DRY if wet < 0.02 else FEW if wet < 0.4 else MANY
        return choice[drawn % len(choice)]

    def _name(self, row: int, town: Named, draws: list[int]) -> str:
        km, drawn = float(self.facts.km[row]), draws.pop()
        told = {"city": town.city, "country": town.country}
        if km < 10:
            return NEAR[drawn % len(NEAR)].format(**told)
        step = 5 if km < 50 else 10 if km < 200 else 50
        wind = round(float(self.facts.bearing[row]) / 45) % 8
        told |= {"km": f"{round(km / step) * step}", "wind": WINDS[wind], "back": WINDS[(wind + 4) % 8]}
        return AWAY[drawn % len(AWAY)].format(**told)


def _capital(said: str) -> str:
    return said[0].upper() + said[1:]


def _hashes(latitudes: Floats, longitudes: Floats, seed: int) -> list[int]:
    """A number of each place under the seed, whatever stands beside it."""
    one, other = (np.array(degrees, np.float64).view(np.uint64).tolist() for degrees in (latitudes, longitudes))
    return [_mix(_mix(north + seed) ^ east) for north, east in zip(one, other, strict=True)]


def _draws(state: int) -> list[int]:
    """Independent numbers below 2³²."""
    return [_mix((state + number * 0x9E3779B97F4A7C15) & _MASK) >> 32 for number in range(1, _DRAWS + 1)]


def _mix(value: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    value &= _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
