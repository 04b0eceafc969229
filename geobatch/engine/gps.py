"""The location encoder: a place on Earth as a unit vector that an image's vector can be compared with.

GeoCLIP (NeurIPS 2023, section 3.1) and G3 share it: the Equal Earth projection flattens the sphere without
favouring the poles, random Fourier features at several scales turn two numbers into many waves, a small
network per scale reads them, and the scales are added. Large sigmas tell near places apart, small ones keep
far places ordered. The frequencies are drawn once from a seed and are saved with the weights.

The projection has a seam at 180° E, where the two sides of Fiji lie at opposite ends of the map; `space`
instead takes the three coordinates of the unit vector, which have none. The paper's way is the default.

`LocationEncoder.geoclip` reads the weights that GeoCLIP's authors published (`location_encoder_weights.pth` of the
package `geoclip`, MIT), without a line of their code. Two things decide whether they still mean what they meant. The
scale of the map: theirs is 66.50336 / 180, ours would be 1 / 2.7066, and the hundredth of a per mille between them moves
components of the unit vector by up to 0.013 (their spread is 0.044), since sigma 256 makes of it a tenth of a
radian. And the order of float32 operations before the sine: an angle of 4,000 radians is rounded to 2e-4, so the
projection is summed as theirs is, and the vectors are equal to 1e-5 or better; another order is as right and differs by
up to 1e-4, in few places.

A folder is `gps.json` (the sizes) and `gps.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from geobatch.errors import UserError

# Equal Earth, Šavrič, Patterson and Jenny 2018, equation 8.
_A = (1.340264, -0.081106, 0.000893, 0.003796)
_STRETCH = 180 / 2.7066  # half the map's width is 2.7066, so that eastings lie in -1 … 1
_GEOCLIP_STRETCH = 66.50336

#: The file of GeoCLIP's location encoder, and where the installed package keeps its weights.
GEOCLIP_FILE = "location_encoder_weights.pth"
_GEOCLIP_FOLDER = ("model", "weights")


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

    stretch: float = _STRETCH
    """Factor of map coordinates on the unit sphere, over 180; the default makes eastings span -1 … 1, GeoCLIP's is 66.50336.
    """

    seed: int = 0
    """Seed of the frequencies and first weights."""


class LocationEncoder(nn.Module):
    """Latitudes and longitudes to unit vectors."""

    #: The files that make a folder a location encoder; others may lie beside them.
    CONFIG, WEIGHTS = "gps.json", "gps.safetensors"

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
            flat = equal_earth(latitude, longitude, self.config.stretch)
        else:
            phi, lam = torch.deg2rad(latitude), torch.deg2rad(longitude)
            flat = torch.stack([phi.cos() * lam.cos(), phi.cos() * lam.sin(), phi.sin()], dim=1)
        summed: Tensor = sum(scale(flat.float()) for scale in self.scales)
        return F.normalize(summed, dim=1)

    @torch.inference_mode()
    def encode(self, latitude: ArrayLike, longitude: ArrayLike, batch: int = 4096) -> NDArray[np.float32]:
        """(N,) degrees each -> (N, size) unit vectors, `batch` at a time, on the device the weights are on.

        One core of an AMD EPYC makes 3,300 a second at GeoCLIP's size.
        """
        device = next(self.parameters()).device
        places = torch.from_numpy(np.stack([np.asarray(latitude), np.asarray(longitude)]).astype(np.float32)).to(device)
        out = np.empty((places.shape[1], self.config.size), np.float32)
        for start in range(0, len(out), batch):
            some = slice(start, start + batch)
            out[some] = self(places[0, some], places[1, some]).cpu().numpy()
        return out

    def save(self, folder: Path) -> None:
        """Writes the folder that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / self.WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> LocationEncoder:
        """The encoder in a folder that `save` wrote.

        Raises:
            UserError: there is none, or its parts do not fit each other.
        """
        try:
            said = json.loads((folder / cls.CONFIG).read_text())
            made = cls(Gps(**{**said, "sigmas": tuple(said["sigmas"])}))
            made.load_state_dict(load_file(folder / cls.WEIGHTS))
        except FileNotFoundError as error:
            missing = Path(error.filename or cls.WEIGHTS).name
            raise UserError(
                f"{folder} holds no location encoder (no {missing}); give a folder that jobs/geotoken_align.py wrote"
            ) from error
        except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"the location encoder in {folder} does not load ({_first_line(error)}); make it again") from error
        return made.eval()

    @classmethod
    def geoclip(cls, weights: Path | None = None) -> LocationEncoder:
        """GeoCLIP's location encoder with its published weights.

        Args:
            weights: its file `location_encoder_weights.pth`, or the folder that holds it; None: the installed package's.

        Raises:
            UserError: there is no such file, or it holds something else.
        """
        path = geoclip_weights() / GEOCLIP_FILE if weights is None else weights
        path = path / GEOCLIP_FILE if path.is_dir() else path
        theirs = checkpoint(path)
        try:
            config = _geoclip_config(theirs)
            made = cls(config)
            ours = {_our_name(name, config.layers): value for name, value in theirs.items()}
            made.load_state_dict({name: value.T if name.endswith("frequencies") else value for name, value in ours.items()})
        except (AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} holds no GeoCLIP location encoder ({_first_line(error)}); take {GEOCLIP_FILE} of the "
                            "geoclip package") from error  # fmt: skip
        return made.eval()


class _Scale(nn.Module):
    frequencies: Tensor

    def __init__(self, config: Gps, sigma: float, axes: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(axes, config.features) * sigma)
        sizes = [2 * config.features, *[config.width] * config.layers]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.network = nn.Sequential(*hidden, nn.Linear(sizes[-1], config.size))

    def forward(self, flat: Tensor) -> Tensor:
        with torch.autocast(flat.device.type, enabled=False):  # bfloat16 would round an angle of 4,000 to the nearest 16
            angle = 2 * math.pi * flat @ self.frequencies
            waves = torch.cat([angle.cos(), angle.sin()], dim=1)
        out: Tensor = self.network(waves)
        return out


def equal_earth(latitude: Tensor, longitude: Tensor, stretch: float = _STRETCH) -> Tensor:
    """(N,) degrees each -> (N, 2) eastings and northings on a map whose eastings span -1 … 1, or as `stretch` says."""
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(torch.deg2rad(latitude)))
    slope = 9 * _A[3] * theta**8 + 7 * _A[2] * theta**6 + 3 * _A[1] * theta**2 + _A[0]
    east = 2 * math.sqrt(3) * torch.deg2rad(longitude) * theta.cos() / (3 * slope)
    north = _A[3] * theta**9 + _A[2] * theta**7 + _A[1] * theta**3 + _A[0] * theta
    return torch.stack([east, north], dim=1) * stretch / 180


def geoclip_package() -> Path | None:
    """Folder of the installed package `geoclip`, found without importing it; None where there is none."""
    try:
        found = importlib.util.find_spec("geoclip")
    except (ImportError, ValueError):  # a half-imported or namespace-less leftover
        return None
    places = list(found.submodule_search_locations or []) if found is not None else []
    return Path(places[0]) if places else None


def geoclip_weights() -> Path:
    """Folder of the installed package's weights.

    Raises:
        UserError: the package is not installed.
    """
    package = geoclip_package()
    if package is None:
        raise UserError("GeoCLIP's weights are not here; pip install geoclip, or give a folder of its weight files")
    return package.joinpath(*_GEOCLIP_FOLDER)


def checkpoint(path: Path) -> Any:
    """What `torch.save` wrote to a file, tensors only: a file that would run code is refused.

    Raises:
        UserError: there is no such file, or it is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; pip install geoclip, or give a folder of its weight files") from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} does not load as weights ({_first_line(error)}); get it again") from error


def _geoclip_config(theirs: dict[str, Tensor]) -> Gps:
    """The sizes that a file's shapes tell; sigmas are in the frequencies already and are only counted."""
    scales = len({name.split(".")[0] for name in theirs})
    features, axes = theirs["LocEnc0.capsule.0.b"].shape
    layers = sum(name.startswith("LocEnc0.capsule.") and name.endswith(".weight") for name in theirs)
    size, width = theirs["LocEnc0.head.0.weight"].shape
    if axes != 2:
        raise ValueError(f"frequencies of {axes} coordinates")
    return Gps(size=size, sigmas=tuple(16.0**scale for scale in range(scales)), features=features, width=width, layers=layers,
               stretch=_GEOCLIP_STRETCH)  # fmt: skip


def _our_name(name: str, layers: int) -> str:
    """LocEnc1.capsule.3.weight -> scales.1.network.2.weight: their encoding is a part of their sequence, ours is not."""
    found = re.fullmatch(r"LocEnc(\d+)\.(?:capsule\.(\d+)|head\.0)\.(b|weight|bias)", name)
    if found is None:
        raise ValueError(f"{name} is no part of it")
    scale, place, what = found.groups()
    if what == "b":
        return f"scales.{scale}.frequencies"
    return f"scales.{scale}.network.{int(place) - 1 if place else 2 * layers}.{what}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
