"""The gallery's grid against a count by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geobatch.report.gallery import COLUMNS, ROWS, density


def part(places: list[tuple[float | None, float | None]]) -> pa.Table:
    return pa.table(
        {axis: pa.array([each[at] for each in places], pa.float64()) for at, axis in enumerate(("latitude", "longitude"))}
    )


def test_places_fall_into_their_cells() -> None:
    rim = [(90.0, -180.0), (-90.0, 180.0), (0.5, 0.5), (0.5, 0.5)]
    grid = density([part(rim), part([(None, None), (float("nan"), 3.0)])])
    assert grid.shape == (ROWS, COLUMNS) and grid.dtype == np.uint8
    assert set(zip(*np.nonzero(grid), strict=True)) == {(0, 0), (ROWS - 1, COLUMNS - 1), (89, 180)}
    # The cell at the pole is small, so one place there is denser than two at the equator.
    assert grid[0, 0] == 255 > grid[89, 180] > 0


def test_an_empty_gallery_is_empty() -> None:
    assert not density([part([])]).any() and not density([]).any()
