"""A step whose loss or gradient is no number: refused by whoever trains here, and no weight has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from geobatch.engine.heads import HeadConfig
from geobatch.engine.pixels import Pixels
from geobatch.errors import UserError
from geobatch.methods.geotoken.align import Align
from geobatch.methods.geotoken.alignment import Alignment
from geobatch.methods.geotoken.config import Training
from geobatch.methods.geotoken.pack import pack, write_small
from geobatch.methods.geotoken.train import Fit
from tests.methods.geotoken.tiny import TINY, examples_of


def network(folder: Path) -> tuple[Fit, nn.Module]:
    fit = Fit(TINY, Training(batch=16, steps=2, bf16=False), examples_of(images=40))
    return fit, fit.model


def encoder(folder: Path) -> tuple[Alignment, nn.Module]:
    write_small(folder / "encoder")
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "picture": pa.array([each.tobytes() for each in rng.integers(0, 255, (8, 48, 48, 3), np.uint8)], pa.large_binary()),
            "picture_width": [48] * 8,
            "picture_height": [48] * 8,
            "latitude": rng.uniform(35, 60, 8),
            "longitude": rng.uniform(-5, 40, 8),
        }
    )
    pack([table], folder / "data", Pixels(size=(48, 48)))
    settings = Align(batch=8, clusters=0, steps=2, head=HeadConfig(size=16, grid=3))
    alignment = Alignment(settings, str(folder / "encoder"), folder / "data")
    return alignment, alignment.towers


@pytest.mark.parametrize("what", ["weight", "gradient"])
@pytest.mark.parametrize("make", [network, encoder])
def test_a_step_without_numbers_is_not_taken(
    tmp_path: Path, make: Callable[[Path], tuple[Fit | Alignment, nn.Module]], what: str
) -> None:
    trainee, model = make(tmp_path)
    last = [each for each in model.parameters() if each.requires_grad][-1]
    if what == "weight":
        last.data.fill_(torch.nan)
    else:
        last.register_hook(lambda gradient: gradient * torch.inf)
    before = [each.detach().clone() for each in model.parameters()]
    with pytest.raises(UserError, match=r"the loss of step 1 is .*; lower --learning-rate or set --"):
        trainee.advance()
    assert trainee.step == 0
    for each, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(each.nan_to_num(), was.nan_to_num())
