"""Changes of pictures: each does what it says, all are a function of the seed."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from geobatch.train.augment import Augment, blurred, turned

STILL = Augment(**{field.name: 0.0 for field in fields(Augment)})


def levels(seed: int = 0, count: int = 6) -> torch.Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, (24, 24), mode="bilinear", align_corners=False)


def test_nothing_asked_nothing_changed() -> None:
    assert torch.allclose(STILL(levels(), torch.Generator()), levels(), atol=1e-3)


def test_the_seed_decides() -> None:
    one, same, other = (Augment()(levels(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 255


@pytest.mark.parametrize("name", [field.name for field in fields(Augment)])
def test_each_setting_changes_something(name: str) -> None:
    only = replace(STILL, **{name: getattr(Augment(), name) or 0.2})
    assert (only(levels(), torch.Generator().manual_seed(0)) - levels()).abs().mean() > 0.05


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    quarter = turned(levels(), torch.full((6,), math.pi / 2), torch.ones(6))
    assert torch.allclose(quarter, torch.rot90(levels(), -1, (2, 3)), atol=0.05)


def test_enlarging_shows_the_middle() -> None:
    large = turned(levels(), torch.zeros(6), torch.full((6,), 2.0))
    middle = torch.nn.functional.interpolate(levels()[:, :, 6:18, 6:18], (24, 24), mode="bilinear", align_corners=False)
    assert (large - middle)[:, :, 2:-2, 2:-2].abs().max() < 3


def test_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    sharp = torch.rand(4, 3, 24, 24) * 255
    soft = blurred(sharp, 0.8)
    assert (soft.mean((2, 3)) - sharp.mean((2, 3))).abs().max() < 3
    assert soft.std() < sharp.std() * 0.6
    assert torch.equal(blurred(sharp, 0.0), sharp)
