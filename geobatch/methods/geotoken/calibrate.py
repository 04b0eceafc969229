"""Fits a model's calibration on images whose place is known and that it was not trained on.

The mixture takes most likelihood (`likelihood`). The maps behind it must not be fitted on what the mixture has seen, so the
images are halved (by the order of their ids, every other one) and each half is judged by the mixture of the other; the
mixture that is kept is then fitted on all. The factor of the radius is the 90 % quantile of (distance of the truth / the
mixture's 90 % radius), rank ⌈0.9·(N + 1)⌉: whatever the mixture's faults, the radius then holds 90 % of images like these
(conformal prediction, Vovk et al. 2005). Of the next 2,000 images it holds 88 to 92 % with probability 0.95 where the fit had
1,500, and 0.97 where it had 3,000.

The mixture of all images is a little surer than those of the halves. Where pools say anything this does not show (90.3 and
91.5 % of 4,000 crops held, after fits of 2,000); for a model that sees no neighbours and knows nothing, 88 %.

Fewer than `LEAST` images are refused: a radius from 100 images may hold 84 or 96 %.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.benchmark.metrics import calibration as judged
from geobatch.errors import UserError
from geobatch.geo import cell, point
from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.methods.geotoken.calibration import MASS, Calibration, Mixture, logit, platt
from geobatch.methods.geotoken.config import GeoToken, Sampling, Selection
from geobatch.methods.geotoken.examples import Examples
from geobatch.methods.geotoken.likelihood import fit_mixture, log_density
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.pool import Pool, pool
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.select import chosen
from geobatch.schema import FATE, NEIGHBOURS, RADII_KM

Array = npt.NDArray[np.float64]

#: Images that a calibration wants at least, and how many `learn` takes at most.
LEAST, MOST = 200, 4000
_BLOCK = 512  # images as tables at once: 20 MB at the paper's size

#: Cells whose masses and outcomes the map of areas is fitted to; with those of 0.9 alone its slope is a guess.
_MASSES = (0.5, 0.75, 0.9, 0.97)

#: Slope below which a map would turn the order of its masses around.
FLATTEST = 0.05


def fit(table: pa.Table, latitude: npt.ArrayLike, longitude: npt.ArrayLike, selection: Selection | None = None) -> Calibration:
    """The calibration of a table's rows against the truth.

    Args:
        table: `image_id`, `candidates`, `neighbours`, `reason`; of PLACE or before the sink. Rejected rows are left out.
        latitude: (N,) degrees, NaN where the truth is not known.
        longitude: (N,) degrees.
        selection: how places are chosen. The maps and the radius are of these places and no others'; a selector that needs
            more than the pool (similarity, reward, judge) cannot be fitted, the default one is in its stead, and
            `Calibration.selector` says so.

    Raises:
        UserError: too few images, or none with neighbours or draws.
    """
    how = selection or Selection()
    table, truth = _living(table, np.asarray(latitude, np.float64), np.asarray(longitude, np.float64))
    if len(table) < LEAST:
        raise UserError(f"{len(table)} located images with a known place are too few to calibrate on; give {LEAST} or more")
    halves = [np.arange(start, len(table), 2) for start in (0, 1)]
    pools = [pool(table.take(pa.array(rows)), how.neighbours) for rows in halves]
    parts = []
    for this, other in ((0, 1), (1, 0)):
        mixture = fit_mixture(pools[other], truth[halves[other]])
        parts.append(_outcomes(mixture, pools[this], truth[halves[this]], how))
    seen = _Outcomes(*(np.concatenate(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))
    whole = fit_mixture(pool(table, how.neighbours), truth)
    maps = tuple(fit_platt(seen.mass[:, at], seen.km <= km) for at, km in enumerate(RADII_KM))
    celled = seen.cell > 0
    return Calibration(
        mixture=whole,
        neighbours=how.neighbours,
        platt=maps,
        area=fit_platt(seen.cell[celled], seen.held[celled] > 0),
        radius=conformal(seen.km / seen.radius),
        selector=Counter(seen.chosen_by.tolist()).most_common(1)[0][0],
        images=len(table),
        figures=_figures(seen, maps),
    )


def learn(
    model: GeoTokenModel | Path,
    held: Examples,
    sampling: Sampling | None = None,
    selection: Selection | None = None,
    device: str = "cpu",
) -> Calibration:
    """The calibration of a network on images kept out of its training, at most `MOST` of them.

    Draws come from `Sample`, as when a bucket is located; they hang on the images' rows, which stand for their names.

    Raises:
        UserError: as `fit`.
    """
    network = model if isinstance(model, GeoTokenModel) else GeoTokenModel.load(model)
    rows = np.random.default_rng(0).permutation(len(held))[:MOST]
    some = held.some(np.sort(rows))
    stage = Sample(network, sampling, device)
    parts = []
    for start in range(0, len(some), _BLOCK):
        block = some.some(np.arange(start, min(start + _BLOCK, len(some))))
        parts.append(stage(asked_of(block, start, network.config)).drop_columns("vector"))
    return fit(pa.concat_tables(parts), *some.places(), selection)


def asked_of(block: Examples, start: int, config: GeoToken) -> pa.Table:
    """Examples as `Retrieve` would have handed them on."""
    at = block.at(np.arange(len(block)))
    near = np.asarray(block.neighbours[at], np.int64)[:, : config.neighbours]
    known = np.maximum(near, 0)
    queries = np.asarray(block.vectors[at], np.float32)
    vectors = np.asarray(block.gallery.vectors[known], np.float32)
    there = near >= 0
    names = near.astype(str).astype(object)
    if config.between:
        names[:, :1] = None
    structs = pa.StructArray.from_arrays(
        [
            pa.array(names.ravel(), pa.string()),
            pa.array(block.gallery.latitude[known].ravel(), mask=~there.ravel()),
            pa.array(block.gallery.longitude[known].ravel(), mask=~there.ravel()),
            pa.array(np.einsum("nmd,nd->nm", vectors, queries).ravel(), pa.float32()),
        ],
        fields=list(NEIGHBOURS.value_type),
    )
    offsets = pa.array(np.arange(len(block) + 1) * near.shape[1], pa.int32())
    return pa.table(
        {
            "image_id": pa.array([f"{start + row:09d}" for row in range(len(block))]),
            "vector": pa.array(list(queries), pa.list_(pa.float32())),
            "neighbours": pa.ListArray.from_arrays(offsets, structs).cast(NEIGHBOURS),
            "neighbour_vectors": pa.array(list(vectors.reshape(len(block), -1)), pa.list_(pa.float32())),
            **{field.name: pa.nulls(len(block), field.type) for field in FATE},
        }
    )


def fit_platt(mass: Array, hit: npt.NDArray[np.bool_], ridge: float = 1.0) -> tuple[float, float]:
    """(a, b) of most likelihood for σ(a + b·logit mass), b at least `FLATTEST`.

    The ridge draws to (0, 1), the mass as it is: two outcomes in a thousand say little of a slope.
    """
    a, b = _newton(np.column_stack([np.ones(len(mass)), logit(mass)]), np.zeros(len(mass)), hit, np.array([0.0, 1.0]), ridge)
    if b >= FLATTEST:
        return float(a), float(b)
    (a,) = _newton(np.ones((len(mass), 1)), FLATTEST * logit(mass), hit, np.zeros(1), 0.0)
    return float(a), FLATTEST


def _newton(design: Array, offset: Array, hit: npt.NDArray[np.bool_], goal: Array, ridge: float) -> Array:
    """Logistic regression with a ridge towards `goal`, by Newton's steps of at most 1."""
    at = goal.copy()
    for _ in range(60):
        probability = 1 / (1 + np.exp(-np.clip(offset + design @ at, -30, 30)))
        slope = design.T @ (probability - hit) + ridge * (at - goal)
        curve = (design * (probability * (1 - probability))[:, None]).T @ design + max(ridge, 1e-6) * np.eye(len(goal))
        step = np.linalg.solve(curve, slope)
        at = at - step / max(1.0, float(np.abs(step).max()))
    return at


def conformal(ratio: npt.ArrayLike, mass: float = MASS) -> float:
    """The one of N ratios that a further one stays under with the given probability: rank ⌈(N + 1)·mass⌉, at most N."""
    ordered = np.sort(np.asarray(ratio, np.float64))
    return float(ordered[min(len(ordered), math.ceil((len(ordered) + 1) * mass)) - 1])


@dataclass(frozen=True)
class _Outcomes:
    """What a mixture said of N images and what was so.

    Fields: km from place to truth, masses (N, R), 90 % radius, masses of the finest cells for `_MASSES` (0: none) and whether
    they held the truth, log-density of the truth, and by which selector the place was chosen.
    """

    km: Array
    mass: Array
    radius: Array
    cell: Array
    held: Array
    density: Array
    chosen_by: npt.NDArray[np.str_]


def _outcomes(mixture: Mixture, pools: Pool, truth: Array, selection: Selection) -> _Outcomes:
    posterior = mixture.posterior(pools)
    choice = chosen(pools, posterior, selection)
    places = pools.points[np.arange(len(pools)), choice.position]
    cells, held = zip(*(posterior.area(mass) for mass in _MASSES), strict=True)
    where = point.lat_lon(truth)
    return _Outcomes(
        km=2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.linalg.norm(places - truth, axis=1) / 2, 0, 1)),
        mass=posterior.within(places[:, None], RADII_KM)[:, 0],
        radius=posterior.radius(places, MASS),
        cell=np.stack(held, axis=1),
        held=np.stack([cell.holds(one, *where) for one in cells], axis=1).astype(np.float64),
        density=log_density(mixture, pools, truth),
        chosen_by=np.asarray(choice.chosen_by),
    )


def _living(table: pa.Table, latitude: Array, longitude: Array) -> tuple[pa.Table, Array]:
    """The rows that can be learnt from, by image_id, and their true places (N, 3)."""
    placed = pc.and_(pc.is_null(table["reason"]), pc.greater(pc.fill_null(pc.list_value_length(table["candidates"]), 0), 0))
    rows = np.flatnonzero(placed.to_numpy(zero_copy_only=False) & np.isfinite(latitude) & np.isfinite(longitude))
    names = np.asarray(table["image_id"].take(pa.array(rows)).to_pylist(), dtype=object)
    rows = rows[np.argsort(names, kind="stable")]
    kept = table.select(["image_id", "candidates", "neighbours"]).take(pa.array(rows))
    return kept, point.unit_vectors(latitude[rows], longitude[rows])


def _figures(seen: _Outcomes, maps: tuple[tuple[float, float], ...]) -> dict[str, float]:
    """Share within and expected calibration error by radius, before and after the map, and the mean log-density."""
    out = {"log_density": float(seen.density.mean())}
    for at, km in enumerate(RADII_KM):
        raw = judged(seen.mass[:, at], seen.km, km)
        mapped = judged(platt(seen.mass[:, at], *maps[at]), seen.km, km)
        out |= {f"true_{km}km": raw.true, f"raw_error_{km}km": raw.error, f"error_{km}km": mapped.error}
    return {name: round(value, 5) for name, value in out.items()}
