"""An image's posterior over the sphere as a mixture of kernels around its pool, and what is asked of it.

Thirty draws are thirty points; the truth is never at one of them. So each place of the pool carries a kernel: a Gaussian in
distance (on the sphere a von Mises-Fisher), or rather a mixture of eight whose widths are `MULTIPLES` of the image's own
scale in km. Its shares and the scale are fitted (`calibrate`); without a fit a kernel is a point.

The one quantity everything is made of is F(d, r), the mass of a kernel within r of a place that is d away. With both
divided by the scale it is a table of two dimensions, the distribution function of Rice, made once by 96 rings of equal
mass: the share of a ring inside a circle is an arc. One look-up a pair then gives a probability, and an expected loss as
well, because the mean of F over the five radii is again a function of d. 2,000 images with pools of 35 take 0.3 s.

An area needs the mass of cells, so there the mixture becomes a cloud of some 370 points an image.

The table is planar, and still off by less than 0.007 at 2,500 km with kernels 2,000 km wide. Its steps are 4 % of a distance:
where a kernel is much narrower than that, a place within 4 % of the rim counts as partly inside (off by up to 0.13 for
kernels of 3 km at 200 km).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from geobatch.geo import cell, point, s2
from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.geo.s2 import Ids
from geobatch.methods.geotoken.pool import KINDS

Array = npt.NDArray[np.float64]

#: Widths of the kernels of one place, in scales of the image. Powers of two, so that a width is a shift of the table.
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0, 256.0)

#: The table: distances and radii from 2^-8 to 2^20 widths, 16 to the octave.
_OCTAVES, _PER_OCTAVE, _RINGS = (-8, 20), 16, 96
#: No area is finer: a cell of the table's own level, 9 m.
AREA_LEVEL = 20

_CHUNK, _IMAGES = 1 << 18, 256  # pairs of place and option, and images, at once

_NEAREST_KM, _FARTHEST_KM = 0.001, np.pi * EARTH_RADIUS_KM
_GOLDEN = np.pi * (3 - 5**0.5)


class Kernels:
    """F(d, r) of each kind of place.

    Args:
        shares: (kinds, len(MULTIPLES)) mass of each width; rows sum to 1.
    """

    def __init__(self, shares: npt.ArrayLike) -> None:
        self.shares = np.asarray(shares, np.float64)
        if self.shares.shape != (len(KINDS), len(MULTIPLES)):
            raise ValueError(f"shares of {len(KINDS)} kinds by {len(MULTIPLES)} widths, not {self.shares.shape}")
        one = _rice()
        at = np.arange(len(one))
        parts = []
        for multiple in MULTIPLES:
            moved = np.clip(at - round(np.log2(multiple) * _PER_OCTAVE), 0, len(one) - 1)
            parts.append(one[moved][:, moved])
        self._table = np.einsum("gm,mrd->grd", self.shares, np.stack(parts))  # kinds, radius, distance

    def rows(self, radii: Array, scale: Array) -> Array:
        """(N, kinds, D) of F over the table's distances, for one radius in km of each of N images."""
        low, part = _position(radii / scale)
        return (1 - part)[:, None, None] * self._at(low) + part[:, None, None] * self._at(low + 1)

    def _at(self, radius: npt.NDArray[np.intp]) -> Array:
        return self._table[:, radius].transpose(1, 0, 2)

    def quantiles(self, count: int) -> Array:
        """(kinds, count) distances, in scales, that hold (i + ½) / count of a kernel's mass."""
        reach = np.exp2(np.linspace(-8, 14, 2000))
        held = 1 - np.exp(-((reach / np.array(MULTIPLES)[:, None]) ** 2) / 2)
        wanted = (np.arange(count) + 0.5) / count
        return np.stack([np.interp(wanted, row @ held, reach) for row in self.shares])


@cache
def _rice() -> Array:
    """(radius, distance): mass of a Gaussian of width 1 within a radius of a place; both from 2^-8 to 2^20."""
    ring = np.sqrt(-2 * np.log1p(-(np.arange(_RINGS) + 0.5) / _RINGS))
    grid = np.exp2(np.arange(*(_PER_OCTAVE * end for end in _OCTAVES)) / _PER_OCTAVE)
    out = np.empty((len(grid), len(grid)))
    for row, radius in enumerate(grid):
        # Where the circle around the place cuts a ring: arccos beyond ±1 is a ring all inside or all outside.
        cosine = (ring**2 + grid[:, None] ** 2 - radius**2) / (2 * ring * grid[:, None])
        out[row] = np.arccos(np.clip(cosine, -1, 1)).mean(axis=1) / np.pi
    return out


def _position(ratio: Array) -> tuple[npt.NDArray[np.intp], Array]:
    """Entry of the table below each ratio, and how far it is on to the next."""
    first, last = (end * _PER_OCTAVE for end in _OCTAVES)
    at = np.clip(np.log2(np.maximum(ratio, 1e-30)) * _PER_OCTAVE - first, 0, last - first - 1.001)
    low = at.astype(np.intp)
    return low, at - low


@dataclass(frozen=True)
class Posterior:
    """Mixtures of N images over C places each.

    Args:
        points: (N, C, 3) unit vectors, zero where missing.
        weights: (N, C); a row sums to 1 less what is spread over the whole Earth.
        kinds: (N, C) positions in `KINDS`; -1 where missing.
        scale: (N,) km.
        kernels: of the places; None: all mass is at the points.
    """

    points: Array
    weights: Array
    kinds: npt.NDArray[np.int8]
    scale: Array
    kernels: Kernels | None = None

    def within(self, options: Array, radii: Sequence[float]) -> Array:
        """Mass (N, J, R) within the radii (km) of J places (N, J, 3)."""
        return np.stack([self._mass(options, [km]) for km in radii], axis=2)

    def share(self, options: Array, radii: Sequence[float]) -> Array:
        """(N, J): the mean over the radii of `within`; minus infinity where an option is the zero vector."""
        return np.where(options.any(axis=2), self._mass(options, radii), -np.inf)

    def radius(self, places: Array, mass: float) -> Array:
        """(N,) km around the places (N, 3) that hold the mass, to 1 %; half the Earth's circumference where none does."""
        low, high = np.full(len(places), np.log(_NEAREST_KM)), np.full(len(places), np.log(_FARTHEST_KM))
        for _ in range(11):
            middle = (low + high) / 2
            enough = self._mass(places[:, None], [np.exp(middle)])[:, 0] >= mass
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.exp(high)

    def cloud(self, counts: tuple[int, ...] = (8, 96, 8)) -> tuple[Array, Array]:
        """The mixture as points: unit vectors (N, P, 3) and weights (N, P); a place of kind k is spread over `counts[k]`."""
        if self.kernels is None:
            return self.points, self.weights
        points, weights = [], []
        east, north = _tangent(self.points)
        for kind, count in enumerate(counts):
            columns = np.flatnonzero((self.kinds == kind).any(axis=0))
            there = self.kinds[:, columns] == kind
            chord = self.kernels.quantiles(count)[kind] * self.scale[:, None] / (2 * EARTH_RADIUS_KM)
            angle = 2 * np.arcsin(np.minimum(chord, 1.0))[:, None, :, None]  # N, 1, count, 1
            turn = (_GOLDEN * np.arange(count))[None, None, :, None]
            side = np.cos(turn) * east[:, columns, None] + np.sin(turn) * north[:, columns, None]
            spread = np.cos(angle) * self.points[:, columns, None] + np.sin(angle) * side
            points.append((spread * there[..., None, None]).reshape(len(spread), -1, 3))
            weights.append(np.repeat(np.where(there, self.weights[:, columns], 0.0) / count, count, axis=1))
        return np.concatenate(points, axis=1), np.concatenate(weights, axis=1)

    def area(self, mass: float) -> tuple[Ids, Array]:
        """The finest S2 cell of each image that holds the mass, and what it holds; 0 and 0 where not even a face does."""
        cells, held = np.zeros(len(self.points), np.uint64), np.zeros(len(self.points))
        for rows in _chunks(len(self.points), 1):
            part = Posterior(self.points[rows], self.weights[rows], self.kinds[rows], self.scale[rows], self.kernels)
            points, weights = part.cloud()
            latitude, longitude = point.lat_lon(points)
            ids = s2.cell_ids(np.nan_to_num(latitude), np.nan_to_num(longitude))
            cells[rows], held[rows] = cell.finest(ids, weights, mass, AREA_LEVEL)
        return cells, held

    def _mass(self, options: Array, radii: Sequence[float | Array]) -> Array:
        """(N, J): the mean over the radii, each one number or (N,)."""
        out = np.empty(options.shape[:2])
        for rows in _chunks(len(options), options.shape[1] * self.points.shape[1]):
            chord = np.sqrt(np.maximum(0.0, 2 - 2 * (options[rows] @ self.points[rows].transpose(0, 2, 1))))
            km = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))
            wide = [np.broadcast_to(np.asarray(radius, np.float64), (len(options),))[rows] for radius in radii]
            if self.kernels is None:
                near = sum(km <= radius[:, None, None] * (1 + 1e-9) for radius in wide) / len(wide)
            else:
                near = self._looked_up(rows, km, wide)
            out[rows] = (near @ self.weights[rows][..., None])[..., 0]
        return np.minimum(out, 1.0)

    def _looked_up(self, rows: slice, km: Array, radii: Sequence[Array]) -> Array:
        assert self.kernels is not None
        scale = self.scale[rows]
        table = np.asarray(sum(self.kernels.rows(radius, scale) for radius in radii) / len(radii))
        images, kinds, width = table.shape
        low, part = _position(km / scale[:, None, None])
        first = (np.arange(images)[:, None] * kinds + np.maximum(self.kinds[rows], 0)) * width
        low += first[:, None]
        flat = table.ravel()
        return np.asarray((1 - part) * flat[low] + part * flat[low + 1])


def _tangent(at: Array) -> tuple[Array, Array]:
    """Unit vectors (…, 3) to the east and north; at a pole any two that are square to it."""
    pole = np.where(np.abs(at[..., 2:]) < 0.9999999, np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0]))
    east = np.cross(pole, at)
    east /= np.maximum(np.linalg.norm(east, axis=-1, keepdims=True), 1e-12)
    return np.asarray(east), np.asarray(np.cross(at, east))


def _chunks(images: int, pairs: int) -> Iterator[slice]:
    size = min(_IMAGES, max(1, _CHUNK // max(1, pairs)))
    for start in range(0, images, size):
        yield slice(start, start + size)
