"""Contrastive losses whose negatives come from every worker, and whose targets know the Earth.

`InfoNCE` is the symmetric loss of CLIP and G3 (NeurIPS 2024, eq. 1-3): row i of one batch belongs to row i
of the other. Two refinements, each off by default:

- `same_km`: pairs of different images closer than this are no negatives; they leave the denominator.
- `soft_km`: the target of row i is not row i alone but every row, with weight exp(-d²/2h²) of its distance
d. Similarity
  then falls smoothly with distance, which is what lets a place *between* gallery images be computed from
  theirs. With `between` the two batches are one: an image is never its own positive, only its neighbours
  are.

Several workers gather each other's vectors *with* gradients and compute the full loss each;
DistributedDataParallel's mean is then the gradient of one worker with the whole batch (2 × 32 against 64:
1e-7). Gathering without gradients gives the right direction at 1/workers of the length, a learning rate
quietly divided.

Not covered: batches of different size per worker (`all_gather` would hang or raise), gradient caching for
batches that do not fit in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collectives

from geobatch.errors import UserError
from geobatch.geo.distance import EARTH_RADIUS_KM


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How vectors are compared, and what counts as a match."""

    scale: float = 54.6
    """First factor of the cosines (1 / temperature); 54.6 = exp(3.99) is G3's."""

    learn_scale: bool = True
    """Whether the factor is trained."""

    largest_scale: float = 100.0
    """Clamp of the factor, as in CLIP."""

    same_km: float = 0.0
    """Other images closer than this, in km, are left out of the negatives; 0 leaves none out."""

    soft_km: float = 0.0
    """Standard deviation, in km, of targets that fall with distance; 0: only the pair itself is a target."""


class InfoNCE(nn.Module):
    """The loss as a module: it owns the learned scale.

    Raises:
        UserError: `same_km` and `soft_km` together, which contradict each other.
    """

    def __init__(self, config: Contrast | None = None) -> None:
        super().__init__()
        self.config = config or Contrast()
        if self.config.same_km and self.config.soft_km:
            raise UserError("same_km leaves near images out, soft_km makes them targets; set one of them to 0")
        log_scale = torch.tensor(math.log(self.config.scale))
        self.log_scale = nn.Parameter(log_scale, requires_grad=self.config.learn_scale)

    def forward(self, left: Tensor, right: Tensor, points: Tensor | None = None) -> Tensor:
        """Symmetric loss of matching rows.

        Args:
            left: (B, D) unit vectors of this worker.
            right: (B, D) unit vectors; row i belongs to row i of `left`.
            points: (B, 3) unit vectors of the places, needed where the config speaks of km.

        Returns:
            mean cross-entropy in nats over both directions and all workers' rows.
        """
        left, right = gathered(left), gathered(right)
        logits = left @ right.T * self.scale()
        if points is None or not (self.config.same_km or self.config.soft_km):
            own = torch.arange(len(logits), device=logits.device)
            return (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
        km = distances(gathered(points))
        if self.config.same_km:
            other = ~torch.eye(len(km), dtype=torch.bool, device=km.device)
            logits = logits.masked_fill((km < self.config.same_km) & other, -torch.inf)
            own = torch.arange(len(logits), device=logits.device)
            return (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
        target = self._target(km)
        return (_cross(logits, target) + _cross(logits.T, target)) / 2

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

    def _target(self, km: Tensor) -> Tensor:
        weight = torch.exp(-0.5 * (km / self.config.soft_km) ** 2)
        return weight / weight.sum(dim=1, keepdim=True)


def gathered(rows: Tensor) -> Tensor:
    """Every worker's rows, in rank order, with gradients to each; the rows themselves where there is one
    worker.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    if not rows.requires_grad:
        everyone = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)
    return torch.cat(collectives.all_gather(rows.contiguous()))


def distances(points: Tensor) -> Tensor:
    """(B, B) km along the chord between (B, 3) unit vectors, which is what a kernel of some hundred km
    needs.
    """
    # The direct form: by inner products, float32 would see 3 km between a point and itself.
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") * EARTH_RADIUS_KM


def _cross(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
