"""The location encoder: a place on Earth as a unit vector that an image's vector can be compared with.

GeoCLIP (NeurIPS 2023, section 3.1) and G3 share it: the Equal Earth projection flattens the sphere without
favouring the poles, random Fourier features at several scales turn two numbers into many waves, a small
network per scale reads them, and the scales are added. Large sigmas tell near places apart, small ones keep
far places ordered. The frequencies are drawn once from a seed and are saved with the weights.

The projection has a seam at 180° E, where the two sides of Fiji lie at opposite ends of the map; `space`
instead takes the three coordinates of the unit vector, which have none. The paper's way is the default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Equal Earth, Šavrič, Patterson and Jenny 2018, equation 8.
_A = (1.340264, -0.081106, 0.000893, 0.003796)
_WIDTH = 2.7066  # half the map's width, so that eastings lie in -1 … 1


@dataclass(frozen=True, kw_only=True)
class Gps:
    """The location encoder's sizes."""

    size: int = 512
    """Length of the vector."""

    sigmas: tuple[float, ...] = (1.0, 16.0, 256.0)
    """Standard deviations of the random frequencies, one network each (G3's; GeoCLIP's are 1, 16, 256 too).
    """

    features: int = 256
    """Random frequencies a scale; each gives a sine and a cosine."""

    width: int = 1024
    """Hidden width of each network."""

    layers: int = 3
    """Hidden layers of each network."""

    projection: Literal["equal_earth", "space"] = "equal_earth"
    """What the frequencies multiply: map coordinates (paper), or the unit vector in space."""

    seed: int = 0
    """Seed of the frequencies and first weights."""


class LocationEncoder(nn.Module):
    """Latitudes and longitudes to unit vectors."""

    def __init__(self, config: Gps | None = None) -> None:
        super().__init__()
        self.config = config or Gps()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            axes = 2 if self.config.projection == "equal_earth" else 3
            self.scales = nn.ModuleList(_Scale(self.config, sigma, axes) for sigma in self.config.sigmas)

    def forward(self, latitude: Tensor, longitude: Tensor) -> Tensor:
        """(N,) degrees each -> (N, size) unit vectors."""
        if self.config.projection == "equal_earth":
            flat = equal_earth(latitude, longitude)
        else:
            phi, lam = torch.deg2rad(latitude), torch.deg2rad(longitude)
            flat = torch.stack([phi.cos() * lam.cos(), phi.cos() * lam.sin(), phi.sin()], dim=1)
        summed: Tensor = sum(scale(flat.float()) for scale in self.scales)
        return F.normalize(summed, dim=1)


class _Scale(nn.Module):
    frequencies: Tensor

    def __init__(self, config: Gps, sigma: float, axes: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(axes, config.features) * sigma)
        sizes = [2 * config.features, *[config.width] * config.layers]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.network = nn.Sequential(*hidden, nn.Linear(sizes[-1], config.size))

    def forward(self, flat: Tensor) -> Tensor:
        angle = 2 * math.pi * flat @ self.frequencies
        out: Tensor = self.network(torch.cat([angle.cos(), angle.sin()], dim=1))
        return out


def equal_earth(latitude: Tensor, longitude: Tensor) -> Tensor:
    """(N,) degrees each -> (N, 2) eastings and northings on a map whose eastings span -1 … 1."""
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(torch.deg2rad(latitude)))
    square, sixth = theta**2, theta**6
    slope = 9 * _A[3] * theta**8 + 7 * _A[2] * sixth + 3 * _A[1] * square + _A[0]
    east = 2 * math.sqrt(3) * torch.deg2rad(longitude) * theta.cos() / (3 * slope)
    north = theta * (_A[3] * theta**8 + _A[2] * sixth + _A[1] * square + _A[0])
    return torch.stack([east, north], dim=1) / _WIDTH
