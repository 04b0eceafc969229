"""Contrastive losses whose negatives come from every worker, and whose targets know the Earth.

`InfoNCE` is the symmetric loss of CLIP and G3 (NeurIPS 2024, eq. 1-3): row i of one batch belongs to row i of the other.
Three refinements, each off by default:

- `same_km`: pairs of different images closer than this are no negatives; they leave the denominator.
- `same_cell`: neither are pairs of the same S2 cell of this level; and whatever else the caller calls the same, such as
  captions that read alike.
- `soft_km`: the target of row i is not row i alone but every row, with weight exp(-d²/2h²) of its distance d. Similarity
  then falls smoothly with distance, which is what lets a place *between* gallery images be computed from theirs. With
  `between` the two batches are one: an image is never its own positive, only its neighbours are.

Retrieval that only ever goes one way, from a text to a tile, needs one direction only (`towards`): a text is told apart from
all tiles, its own excepted, and tiles that no text of the batch belongs to can stand among them (`Others`: negatives mined from
a gallery). `nested` takes any of these losses of the first d numbers of the vectors as well, renormalised (Matryoshka
representations, Kusupati et al. 2022, arXiv 2205.13147, eq. 1 with equal weights), so that a gallery can be cut to them.

Workers gather each other's vectors *with* gradients, and each computes the rows of its own images against all: B × W·B
products and as much memory, not (W·B)². The gather's backward pass adds up what every worker's rows ask of a vector, so the
mean of the workers' gradients is the gradient of one worker with the whole batch (2 × 6 against 12: within 7e-7 of each
parameter's largest). Gathering without gradients gives the right direction at 1/workers of the length, a learning rate
quietly divided.

Batches that do not fit in memory: see `caching`. Not covered: batches of different size per worker (`all_gather` would hang
or raise).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, distributed, nn

from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.distance import EARTH_RADIUS_KM


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How vectors are compared, and what counts as a match."""

    scale: float = 54.055
    """First factor of the cosines (1 / temperature); 54.055 = exp(3.99) is G3's."""

    learn_scale: bool = True
    """Whether the factor is trained."""

    largest_scale: float = 100.0
    """Clamp of the factor, as in CLIP."""

    same_km: float = 0.0
    """Other images closer than this, in km, are left out of the negatives; 0 leaves none out."""

    same_cell: int = 0
    """S2 level; other images in the same cell of it are left out of the negatives. 0 leaves none out."""

    soft_km: float = 0.0
    """Standard deviation, in km, of targets that fall with distance; 0: only the pair itself is a target."""

    def cells(self, latitude: ArrayLike, longitude: ArrayLike) -> Tensor | None:
        """Numbers of the cells that `same_cell` speaks of, int64 (B,), of places in degrees; None where it is off."""
        if not self.same_cell:
            return None
        return torch.from_numpy(s2.cell_ids(latitude, longitude, self.same_cell).view(np.int64))


class Others(NamedTuple):
    """Rows of the right side that belong to no row of the left: further negatives, as many on every worker.

    Fields:
        vectors: (H, D) unit vectors of this worker.
        same: (H,) integers, of each the number of what it shows.
        own: (B,) integers of the left side's rows; a row is not told apart from others of its number.
        said: (H, K) further numbers of each, as many on every worker, or None.
        words: (B,) of the left side's rows; nor is a row told apart from others one of whose numbers is its own.
    """

    vectors: Tensor
    same: Tensor
    own: Tensor
    said: Tensor | None = None
    words: Tensor | None = None


class InfoNCE(nn.Module):
    """The loss as a module: it owns the learned scale.

    Raises:
        UserError: `soft_km` with `same_km` or `same_cell`, which contradict each other.
    """

    def __init__(self, config: Contrast | None = None) -> None:
        super().__init__()
        self.config = config or Contrast()
        if self.config.soft_km and (self.config.same_km or self.config.same_cell):
            raise UserError("same_km and same_cell leave near images out, soft_km makes them targets; set one side to 0")
        log_scale = torch.tensor(math.log(self.config.scale))
        self.log_scale = nn.Parameter(log_scale, requires_grad=self.config.learn_scale)

    def forward(self, left: Tensor, right: Tensor, points: Tensor | None = None, same: Tensor | None = None) -> Tensor:
        """Symmetric loss of matching rows.

        Args:
            left: (B, D) unit vectors of this worker.
            right: (B, D) unit vectors; row i belongs to row i of `left`.
            points: (B, 3) unit vectors of the places, needed where the config speaks of km.
            same: (B,) integers; rows with the same number are no negatives of each other.

        Returns:
            mean cross-entropy in nats over both directions and all workers' rows.

        Raises:
            ValueError: the config speaks of km and there are no points.
        """
        everyone = gathered(left), gathered(right)
        first = _rank() * len(left)
        own = torch.arange(first, first + len(left), device=left.device)
        logits = [mine @ theirs.T * self.scale() for mine, theirs in ((left, everyone[1]), (right, everyone[0]))]
        if self.config.soft_km:
            target = self._target(self._km(points, own))
            return _over_workers(torch.stack([_cross(each, target) for each in logits]).mean())
        alike = torch.zeros_like(logits[0], dtype=torch.bool)
        if self.config.same_km:
            alike |= self._km(points, own) < self.config.same_km
        if same is not None:
            alike |= same[:, None] == gathered(same)
        alike[torch.arange(len(own)), own] = False
        losses = [nn.functional.cross_entropy(each.masked_fill(alike, -torch.inf), own) for each in logits]
        return _over_workers(torch.stack(losses).mean())

    def towards(self, left: Tensor, right: Tensor, same: Tensor | None = None, others: Others | None = None) -> Tensor:
        """Loss of one direction: each row of `left` is to find its own of `right`.

        Args:
            left: (B, D) unit vectors of this worker.
            right: (B, D) unit vectors; row i belongs to row i of `left`.
            same: (B,) integers; rows with the same number are no negatives of each other.
            others: what else the rows of every worker are told apart from.

        Returns:
            mean cross-entropy in nats over all workers' rows of `left`.

        Raises:
            ValueError: the config speaks of distances, which only `forward` and `between` know.
        """
        if self.config.soft_km or self.config.same_km:
            raise ValueError("one direction knows no distances; leave same_km and soft_km at 0")
        own = _rank() * len(left) + torch.arange(len(left), device=left.device)
        logits = left @ gathered(right).T * self.scale()
        if same is not None:
            alike = same[:, None] == gathered(same)
            alike[torch.arange(len(own)), own] = False
            logits = logits.masked_fill(alike, -torch.inf)
        if others is not None:
            against = left @ gathered(others.vectors).T * self.scale()
            alike = others.own[:, None] == gathered(others.same)
            if others.said is not None and others.words is not None:
                alike |= (others.words[:, None, None] == gathered(others.said)).any(dim=2)
            against = against.masked_fill(alike, -torch.inf)
            logits = torch.cat([logits, against], dim=1)
        return _over_workers(nn.functional.cross_entropy(logits, own))

    def between(self, vectors: Tensor, points: Tensor) -> Tensor:
        """Loss of one batch of different images against itself: each is to find those near it, never itself.

        Args:
            vectors: (B, D) unit vectors of this worker.
            points: (B, 3) unit vectors of the places.

        Returns:
            mean cross-entropy in nats over the rows of all workers that have any neighbour within 4
            `soft_km`.
        """
        vectors, points = gathered(vectors), gathered(points)
        km = distances(points)
        itself = torch.eye(len(km), dtype=torch.bool, device=km.device)
        logits = (vectors @ vectors.T * self.scale()).masked_fill(itself, -torch.inf)
        weight = torch.exp(-0.5 * (km / self.config.soft_km) ** 2).masked_fill(itself, 0.0)
        total = weight.sum(dim=1)
        near = total > math.exp(-8)
        if not bool(near.any()):
            return vectors.sum() * 0 + self.log_scale * 0
        logits, target = logits[near], weight[near] / total[near, None]
        # -inf times a target of 0 is NaN; the diagonal has to leave the product.
        return -(target * logits.log_softmax(dim=1).masked_fill(itself[near], 0.0)).sum(dim=1).mean()

    def scale(self) -> Tensor:
        """The factor of the cosines, clamped."""
        return self.log_scale.clamp(max=math.log(self.config.largest_scale)).exp()

    def _km(self, points: Tensor | None, own: Tensor) -> Tensor:
        """(B, N) km from this worker's places to everyone's."""
        if points is None:
            raise ValueError("same_km and soft_km need the places as unit vectors")
        return distances(gathered(points), own)

    def _target(self, km: Tensor) -> Tensor:
        weight = torch.exp(-0.5 * (km / self.config.soft_km) ** 2)
        return weight / weight.sum(dim=1, keepdim=True)


def nested(loss: Callable[..., Tensor], parts: Sequence[Tensor], dimensions: Sequence[int]) -> Tensor:
    """Mean of `loss(*parts)` and of the same of each part's first d numbers, for every d of `dimensions`.

    Args:
        parts: (…, D) unit vectors.
        dimensions: each below D.
    """
    cut = [[nn.functional.normalize(each[..., :size], dim=-1) for each in parts] for size in dimensions]
    return torch.stack([loss(*parts), *(loss(*each) for each in cut)]).mean()


def gathered(rows: Tensor) -> Tensor:
    """Every worker's rows, in rank order, with gradients to each; the rows themselves where there is one
    worker.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    everyone: Tensor = _Gather.apply(rows)
    return everyone


class _Gather(torch.autograd.Function):
    """`torch.distributed.nn.functional.all_gather` does this and warns that it will go."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        everyone = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> Tensor:
        total = wanted[0].contiguous().clone()
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.rows
        return total[first : first + ctx.rows]


def distances(points: Tensor, rows: Tensor | None = None) -> Tensor:
    """(B, B) km along the chord between (B, 3) unit vectors, which is what a kernel of some hundred km needs; of `rows` only,
    (R, B), where they are given.
    """
    # The direct form: by inner products, float32 would see 3 km between a point and itself.
    some = points if rows is None else points[rows]
    return torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist") * EARTH_RADIUS_KM


def _cross(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _over_workers(loss: Tensor) -> Tensor:
    """The value is the mean over all workers, the gradient this worker's share of it."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return loss
    mean = loss.detach().clone()
    distributed.all_reduce(mean)
    return loss + (mean / distributed.get_world_size() - loss.detach())
