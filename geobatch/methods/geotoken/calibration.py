"""A model's calibration: what turns its pools into a posterior and that posterior's masses into probabilities that are true.

Three things, fitted by `calibrate` and kept in the model's folder as `calibration.json`:

1. the mixture (`posterior`): how wide the kernels are, how much the draws, the place between images, the images and the
   whole Earth weigh. Scale and weights depend on seven `FEATURES` of the pool: how similar its neighbours are, how far
   apart its places lie, how sure the network was.
2. the probabilities (Platt, 1999): σ(a + b·logit p) for each radius, b > 0, then never less than at a smaller radius, and
   likewise for the mass of a cell. Choosing the place of most mass makes that mass too large, and a mixture is only as
   good as its shape.
3. the factor of the radius that holds 90 % of the mixture.

The posterior knows nothing of who chooses, and the cell is the posterior's own. The maps of the radii and the factor of the
radius were fitted to places that `selector` chose: the place of most mass is stated too large a mass, that of another
selector may not be, so for its places the probabilities are of the right posterior and of another selector's map.

Everything is read from the table's lists, so a table that was written can be chosen from again (`select.reselected`).

Not covered: images unlike those of the fit (another camera, another continent), and other draws (K, temperature) than the
fit saw. The figures that were measured at the fit stand in the file; `evaluate` measures them on any table.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobatch.errors import UserError
from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.methods.geotoken.pool import BETWEEN, DRAW, KINDS, NEIGHBOUR, Pool, soft
from geobatch.methods.geotoken.posterior import Kernels, Posterior
from geobatch.schema import RADII_KM

Array = npt.NDArray[np.float64]

#: Where it lies in a model's folder, and what its fields mean.
FILE, VERSION = "calibration.json", 1

#: What of a pool tells how sure it is; all but the last are logarithms.
FEATURES = (
    "unlikeness of the place between",
    "unlikeness of the nearest image",
    "unlikeness of the last image",
    "km from the lead to the images",
    "km from the lead to the nearest image",
    "km from the lead to the draws",
    "surprise of the draws",
)

#: Mass that `radius_90_km` and `area` hold.
MASS = 0.9

_LIKE, _ALIKE = 1e-4, 0.03  # least unlikeness; temperature of the weights over neighbours in features


def features(pool: Pool) -> Array:
    """(N, len(FEATURES)), NaN where a pool has nothing to measure. The lead is the place between, else the best draw."""
    rows, count = np.arange(len(pool)), pool.candidates
    kinds = pool.kinds[:, count:]
    between, images = kinds == BETWEEN, kinds == NEIGHBOUR
    first = between.argmax(axis=1) if kinds.shape[1] else np.zeros(len(pool), np.intp)
    led = between.any(axis=1)
    lead = pool.points[rows, np.where(led, count + first, pool.scores.argmax(axis=1))]
    cosines = np.einsum("ncx,nx->nc", pool.points, lead)
    km = EARTH_RADIUS_KM * np.arccos(np.clip(cosines, -1, 1))
    unlike = np.full((len(pool), 3), np.nan)
    apart = np.full((len(pool), 2), np.nan)
    if kinds.shape[1]:
        unlike[:, 0] = np.where(led, 1 - pool.similarities[rows, first], np.nan)
        there = images.any(axis=1)
        alike = np.where(images, pool.similarities, -np.inf)
        nearest = alike.argmax(axis=1)
        unlike[:, 1] = np.where(there, 1 - alike[rows, nearest], np.nan)
        unlike[:, 2] = np.where(there, 1 - np.where(images, pool.similarities, np.inf).min(axis=1), np.nan)
        apart[:, 0] = np.where(there, (soft(alike, _ALIKE) * km[:, count:]).sum(axis=1), np.nan)
        apart[:, 1] = np.where(there, km[rows, count + nearest], np.nan)
    drawn = (pool.draws * km[:, :count]).sum(axis=1)
    surprise = -(pool.draws * np.where(np.isfinite(pool.scores), pool.scores, 0.0)).sum(axis=1)
    return np.column_stack([np.log(np.maximum(unlike, _LIKE)), np.log1p(apart), np.log1p(drawn), surprise])


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How a pool becomes a posterior.

    Args:
        mean: of each feature; what is missing counts as this.
        deviation: of each feature.
        scale: intercept and slopes of the logarithm of the scale in km.
        weights: intercepts and slopes of the logits of draws, place between, neighbours and the whole Earth.
        shares: of each kernel width, by kind.
        temperature: of the softmax over similarities that splits the neighbours' weight.
        power: draws weigh by count · p^power.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    temperature: float
    power: float

    @cached_property
    def kernels(self) -> Kernels:
        """The table, made once."""
        return Kernels(self.shares)

    def standard(self, pool: Pool) -> Array:
        """(N, 1 + F): a one and the features, standardised, 0 where missing."""
        values = (features(pool) - self.mean) / self.deviation
        return np.column_stack([np.ones(len(pool)), np.nan_to_num(values).clip(-4, 4)])

    def posterior(self, pool: Pool) -> Posterior:
        """Of each image of the pool."""
        known = self.standard(pool)
        logits = known @ np.asarray(self.weights).T
        present = np.stack(
            [*((pool.kinds == kind).any(axis=1) for kind in range(len(KINDS))), np.ones(len(pool), bool)], axis=1
        )
        mass = soft(np.where(present, logits, -np.inf), 1.0)
        weights = spread(pool, self.temperature, self.power)
        kind = np.maximum(pool.kinds, 0)
        return Posterior(
            pool.points,
            weights * np.take_along_axis(mass, kind.astype(np.intp), axis=1),
            pool.kinds,
            np.exp(known @ np.asarray(self.scale)),
            self.kernels,
        )


def spread(pool: Pool, temperature: float, power: float) -> Array:
    """(N, C): the share of each place among those of its kind; rows sum to the number of kinds that are there."""
    count = pool.candidates
    logs = np.where(pool.draws > 0, np.log(np.maximum(pool.draws, 1e-300)), -np.inf)
    best = np.where(pool.draws > 0, pool.scores, -np.inf).max(axis=1, keepdims=True)
    draws = soft(logs + power * np.where(pool.draws > 0, pool.scores - best, 0.0), 1.0)
    kinds = pool.kinds[:, count:]
    images = soft(np.where(kinds == NEIGHBOUR, pool.similarities, -np.inf), temperature)
    led = (kinds == BETWEEN) / np.maximum((kinds == BETWEEN).sum(axis=1, keepdims=True), 1)
    return np.concatenate([np.where(pool.kinds[:, :count] == DRAW, draws, 0.0), images + led], axis=1)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted mixture and the maps of its masses.

    Args:
        mixture: pools to posteriors.
        neighbours: that a pool has, as the fit saw it.
        platt: (a, b) of each radius of `RADII_KM`.
        area: (a, b) of the mass of a cell.
        radius: factor of the mixture's 90 % radius.
        selector: by which places were chosen at the fit; `platt` and `radius` are right for these places alone.
        images: that it was fitted on.
        figures: measured at the fit, each half of the images with the mixture of the other.
    """

    mixture: Mixture
    neighbours: int
    platt: tuple[tuple[float, float], ...]
    area: tuple[float, float]
    radius: float
    selector: str
    images: int
    figures: dict[str, float]

    def probabilities(self, mass: Array) -> Array:
        """(N, R) masses within `RADII_KM` -> (N, R) probabilities, never falling with the radius."""
        mapped = [platt(mass[:, at], *self.platt[at]) for at in range(len(RADII_KM))]
        return np.maximum.accumulate(np.stack(mapped, axis=1), axis=1)

    @property
    def area_mass(self) -> float:
        """Mass of a cell whose probability is `MASS`, kept within 0.75 and 0.999."""
        a, b = self.area
        return float(np.clip(1 / (1 + np.exp(-(logit(MASS) - a) / b)), 0.75, 0.999))

    def save(self, folder: Path) -> None:
        """Writes `calibration.json` into a model's folder."""
        fresh = folder / f".{FILE}.new"  # a torn file would have to be calibrated again
        fresh.write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")
        fresh.replace(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Of a model's folder; None where it has none.

        Raises:
            UserError: it is of another version, or damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            told = json.loads(path.read_text())
            if told.pop("version") != VERSION:
                raise UserError(f"{path} is of another version of geobatch; calibrate the model again")
            mixture = {name: _tuples(value) for name, value in told.pop("mixture").items()}
            return cls(
                **{**told, "platt": _tuples(told["platt"]), "area": _tuples(told["area"]), "mixture": Mixture(**mixture)}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no calibration ({error}); calibrate the model again") from error


def logit(probability: npt.ArrayLike) -> Array:
    """log(p / (1 - p)), p kept off 0 and 1 by a thousandth of a percent."""
    kept = np.clip(np.asarray(probability, np.float64), 1e-5, 1 - 1e-5)
    return np.asarray(np.log(kept / (1 - kept)))


def platt(probability: npt.ArrayLike, a: float, b: float) -> Array:
    """σ(a + b·logit p)."""
    return np.asarray(1 / (1 + np.exp(-(a + b * logit(probability)))))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
