"""GeoCLIP's published files: where they are, whether they are whole, and which they are.

    image_encoder_mlp_weights.pth   768 → 768 → 512 on CLIP's image embedding
    location_encoder_weights.pth    the location encoder (`geobatch.engine.gps`)
    logit_scale_weights.pth         log of the softmax's scale
    coordinates_100K.csv            LAT, LON of the places that are answered with

They are looked for in a folder, flat or laid out as the package is; without one in the installed package, which is found but
not imported: importing it takes seconds and pulls in torchvision, pandas and geopy. Versions 1.2.0 and 1.3.0 hold the same
bytes. Only tensors are unpickled.

Not covered: the releases on the Hugging Face hub (`model.safetensors`), which hold the same numbers in one file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from geobatch.engine.gps import GEOCLIP_FILE, checkpoint, geoclip_package
from geobatch.errors import UserError

#: Where below a folder a file may lie.
_PLACES = (".", "weights", "gps_gallery", "model/weights", "model/gps_gallery")


@dataclass(frozen=True)
class Weights:
    """Paths of the four files.

    Fields:
        head: MLP on the image embedding.
        location: location encoder.
        scale: log of the logit scale.
        places: coordinates, CSV.
    """

    head: Path
    location: Path
    scale: Path
    places: Path

    @property
    def fingerprint(self) -> str:
        """SHA-256, hex, of the four files' bytes."""
        return digest(*(getattr(self, field.name) for field in fields(self)))


_NAMES = {
    "head": "image_encoder_mlp_weights.pth",
    "location": GEOCLIP_FILE,
    "scale": "logit_scale_weights.pth",
    "places": "coordinates_100K.csv",
}


def find(folder: Path | None = None) -> Weights:
    """The four files in a folder; None: in the installed package.

    Raises:
        UserError: there is no such folder or package, or one of the files is missing.
    """
    top = geoclip_package() if folder is None else folder
    if top is None:
        raise UserError(
            "GeoCLIP's weights are not here: pip install geoclip, or give a folder that holds " + ", ".join(_NAMES.values())
        )
    if not top.is_dir():
        raise UserError(f"there is no folder {top}; give the one that holds {', '.join(_NAMES.values())}")
    found = {what: next((p for p in (top / below / name for below in _PLACES) if p.is_file()), None)
             for what, name in _NAMES.items()}  # fmt: skip
    missing = [_NAMES[what] for what, path in found.items() if path is None]
    if missing:
        raise UserError(f"{top} lacks {', '.join(missing)}; copy what is missing from the geoclip package's model folder")
    return Weights(**{what: path for what, path in found.items() if path is not None})


def digest(*paths: Path) -> str:
    """SHA-256, hex, of the bytes of files in their order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def image_head(path: Path) -> nn.Sequential:
    """The MLP (N, 768) -> (N, 512) on CLIP's image embedding, as `path` holds it; the sizes are read off the file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    said = checkpoint(path)
    try:
        hidden, seen = said["0.weight"].shape
        size, _ = said["2.weight"].shape
        head = nn.Sequential(nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, size))
        head.load_state_dict(said)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} holds no GeoCLIP image head; take {_NAMES['head']} of the geoclip package") from error
    return head.eval()


def logit_scale(path: Path) -> float:
    """The factor of the cosines before the softmax, as `path` holds its logarithm.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    said = checkpoint(path)
    if not isinstance(said, Tensor) or said.numel() != 1 or not torch.isfinite(said).all():
        raise UserError(f"{path} holds no logit scale; take {_NAMES['scale']} of the geoclip package")
    return float(said.detach().float().exp())
