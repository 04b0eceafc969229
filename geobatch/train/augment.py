"""Pictures as another camera would have taken them, on whole batches in torch.

An encoder that shall match a photograph to a gallery has to see in training what will differ: the turn of
the camera, its lens, exposure, colours and noise. All of it is drawn from a generator, so a step's pictures
are a function of its seed. 256 pictures of 48 pixels take 20 ms on one core, half of it the turn.

Not covered: mirrored pictures (a mirrored coast is another coast), cut-outs, JPEG artefacts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How far training pictures are changed; each value is drawn anew for each picture, but for the blur."""

    turn: float = 5.0
    """Largest turn to either side, in degrees."""

    zoom: float = 0.0
    """Largest enlargement or reduction, as the logarithm of the factor."""

    exposure: float = 0.3
    """Standard deviation of the exposure, in stops."""

    contrast: float = 0.15
    """Standard deviation of the logarithm of the contrast."""

    tint: float = 0.05
    """Standard deviation of the logarithm of each channel's gain."""

    noise: float = 6.0
    """Largest standard deviation of a pixel's noise, in levels of 255."""

    blur: float = 0.8
    """Largest standard deviation of the blur, in pixels; half of the pictures of a batch get one and the
    same.
    """

    def __call__(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 3, H, W) levels 0-255 float32, changed in the order of a camera."""
        count = len(levels)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).to(levels.device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(levels.device)

        if self.turn or self.zoom:
            angle = (uniform(count) * 2 - 1) * math.radians(self.turn)
            levels = turned(levels, angle, torch.exp((uniform(count) * 2 - 1) * self.zoom))
        if self.blur:
            half = count // 2
            levels = torch.cat([blurred(levels[:half], self.blur * float(uniform(1))), levels[half:]])
        levels = levels * torch.exp2(normal(count, 1, 1, 1) * self.exposure) * torch.exp(normal(count, 3, 1, 1) * self.tint)
        if self.noise:
            levels = levels + normal(*levels.shape) * (uniform(count, 1, 1, 1) * self.noise)
        mean = levels.mean(dim=(1, 2, 3), keepdim=True)
        return torch.lerp(mean, levels, torch.exp(normal(count, 1, 1, 1) * self.contrast)).clamp(0, 255)


def turned(levels: Tensor, angle: Tensor, zoom: Tensor) -> Tensor:
    """(N, C, H, W) turned clockwise by (N,) radians and enlarged by (N,) about the centre; mirrored beyond
    the border.
    """
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros_like(angle)
    maps = torch.stack([torch.stack([cos, sin, zero], dim=1), torch.stack([-sin, cos, zero], dim=1)], dim=1)
    where = F.affine_grid(maps, list(levels.shape), align_corners=False)
    return F.grid_sample(levels, where, padding_mode="reflection", align_corners=False)


def blurred(levels: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) after a Gaussian of `sigma` pixels, of five taps: meant for less than one pixel."""
    if sigma < 0.05 or not len(levels):
        return levels
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, device=levels.device) / sigma) ** 2)
    taps = taps / taps.sum()
    channels = levels.shape[1]
    levels = F.pad(levels, (2, 2, 2, 2), mode="replicate")
    levels = F.conv2d(levels, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)
    return F.conv2d(levels, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
