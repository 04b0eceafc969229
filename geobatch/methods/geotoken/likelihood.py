"""The mixture that gives true places the most likelihood.

Some 80 numbers (scale and weights by feature, kernel widths, two temperatures) are found together by L-BFGS on the mean
log-density of the true places; a faint ridge keeps slopes and widths that nothing speaks for near zero. 2,000 images take
about 5 s on one core. A density of a place is per km², so a nat is a nat whatever the widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geobatch.geo.distance import EARTH_RADIUS_KM
from geobatch.methods.geotoken.calibration import FEATURES, Mixture, features
from geobatch.methods.geotoken.pool import BETWEEN, DRAW, KINDS, NEIGHBOUR, Pool
from geobatch.methods.geotoken.posterior import MULTIPLES

Array = npt.NDArray[np.float64]

_ROUNDS, _RIDGE = 60, 1e-3
_EARTH_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2
_NOTHING = -1e9


def fit_mixture(pool: Pool, truth: Array) -> Mixture:
    """The mixture of most likelihood.

    Args:
        pool: of N images.
        truth: (N, 3) unit vectors of where they were taken.
    """
    known = features(pool)
    with np.errstate(invalid="ignore"):
        some = np.isfinite(known).any(axis=0)
        mean = np.where(some, np.nanmean(np.where(some, known, 0.0), axis=0), 0.0)
        deviation = np.where(some, np.nanstd(np.where(some, known, 0.0), axis=0), 0.0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    start = Mixture(
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        scale=(float(np.log(_first_scale(pool, truth))), *(0.0,) * len(FEATURES)),
        weights=tuple(((0.0, 0.0, 0.0, -4.0)[row], *(0.0,) * len(FEATURES)) for row in range(len(KINDS) + 1)),
        shares=((1 / len(MULTIPLES),) * len(MULTIPLES),) * len(KINDS),
        temperature=0.03,
        power=0.0,
    )
    with _one_thread():
        return _fitted(_Problem(pool, truth, start), start)


def _fitted(problem: _Problem, start: Mixture) -> Mixture:
    free = _Free(start)
    solver = torch.optim.LBFGS(free.all, max_iter=_ROUNDS, line_search_fn="strong_wolfe", history_size=20)

    def loss() -> Tensor:
        solver.zero_grad()
        value = -problem.log_density(free).mean() + free.ridge()
        value.backward()
        return value

    solver.step(loss)
    return free.mixture(start)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small wait for their threads: 1,000 images take 2 s on one and 15 s on two of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def log_density(mixture: Mixture, pool: Pool, truth: Array) -> Array:
    """(N,) natural logarithm of the posterior's density per km² at the true places (N, 3)."""
    with torch.no_grad():
        return np.asarray(_Problem(pool, truth, mixture).log_density(_Free(mixture)).numpy())


class _Free:
    """A mixture's numbers without bounds."""

    def __init__(self, start: Mixture) -> None:
        def leaf(value: object) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, requires_grad=True)

        self.scale, self.weights = leaf(start.scale), leaf(start.weights)
        self.shares = leaf(np.log(np.maximum(start.shares, 1e-12)))
        self.temperature, self.power = leaf(float(np.log(start.temperature))), leaf(start.power)
        self._first = float(np.log(start.temperature))
        self.all = [self.scale, self.weights, self.shares, self.temperature, self.power]

    def ridge(self) -> Tensor:
        slopes = (self.scale[1:] ** 2).sum() + (self.weights[:, 1:] ** 2).sum()
        widths = (self.shares.log_softmax(1) ** 2).mean(1).sum() / 10
        # Where similarities say nothing the temperature would run to infinity.
        others = self.power**2 + (self.temperature - self._first) ** 2
        return _RIDGE * (slopes + widths + others)

    def mixture(self, start: Mixture) -> Mixture:
        def numbers(value: Tensor) -> list[float]:
            return [float(one) for one in value.detach()]

        return Mixture(
            mean=start.mean,
            deviation=start.deviation,
            scale=tuple(numbers(self.scale)),
            weights=tuple(tuple(numbers(row)) for row in self.weights),
            shares=tuple(tuple(numbers(row)) for row in self.shares.softmax(1)),
            temperature=float(self.temperature.detach().exp()),
            power=float(self.power.detach()),
        )


class _Problem:
    """What does not change while a mixture is fitted."""

    def __init__(self, pool: Pool, truth: Array, standard: Mixture) -> None:
        chord = np.linalg.norm(pool.points - truth[:, None], axis=2) * EARTH_RADIUS_KM
        count = pool.candidates
        self.known = torch.from_numpy(standard.standard(pool))
        self.present = torch.from_numpy(
            np.stack([*((pool.kinds == kind).any(axis=1) for kind in range(len(KINDS))), np.ones(len(pool), bool)], axis=1)
        )
        columns = {DRAW: slice(0, count), BETWEEN: slice(count, None), NEIGHBOUR: slice(count, None)}
        self.there = {kind: torch.from_numpy(pool.kinds[:, part] == kind) for kind, part in columns.items()}
        self.square = {kind: torch.from_numpy(chord[:, part] ** 2) for kind, part in columns.items()}
        self.counts = torch.from_numpy(np.log(np.maximum(pool.draws, 1e-300)))
        best = np.where(pool.draws > 0, pool.scores, -np.inf).max(axis=1, keepdims=True)
        self.scores = torch.from_numpy(np.where(pool.draws > 0, pool.scores - best, 0.0))
        self.similarities = torch.from_numpy(np.where(np.isfinite(pool.similarities), pool.similarities, -2.0))

    def log_density(self, free: _Free) -> Tensor:
        """(N,) per km²."""
        log_scale = self.known @ free.scale
        weights = (self.known @ free.weights.T).masked_fill(~self.present, _NOTHING).log_softmax(1)
        shares = free.shares.log_softmax(1)
        within = {
            DRAW: self.counts + free.power * self.scores,
            BETWEEN: torch.zeros_like(self.similarities),
            NEIGHBOUR: self.similarities / free.temperature.exp(),
        }
        parts = [weights[:, -1] - float(np.log(_EARTH_KM2))]
        multiples = torch.tensor(MULTIPLES, dtype=torch.float64)
        for kind, logits in within.items():
            if not self.there[kind].any():
                continue
            places = logits.masked_fill(~self.there[kind], _NOTHING).log_softmax(1)
            variance = (log_scale.exp()[:, None] * multiples) ** 2  # N, widths
            # The mass beyond the antipode is what a von Mises-Fisher divides by: e^-2κ of it, nothing but for the widest.
            whole = torch.log(2 * torch.pi * variance) + torch.log1p(-torch.exp(-2 * EARTH_RADIUS_KM**2 / variance))
            widths = (shares[kind] - whole)[:, None] - self.square[kind][..., None] / (2 * variance[:, None])
            parts.append(weights[:, kind] + torch.logsumexp(places[..., None] + widths, dim=(1, 2)))
        return torch.logsumexp(torch.stack(parts, dim=1), dim=1)


def _first_scale(pool: Pool, truth: Array) -> float:
    """Median km from the truth to the pool's second nearest place, at least 10 m."""
    km = np.where(pool.kinds >= 0, np.linalg.norm(pool.points - truth[:, None], axis=2), np.inf) * EARTH_RADIUS_KM
    near = np.partition(km, min(1, km.shape[1] - 1), axis=1)[:, min(1, km.shape[1] - 1)]
    return max(0.01, float(np.median(near[np.isfinite(near)]))) if np.isfinite(near).any() else 100.0
