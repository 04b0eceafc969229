"""What is trained onto an image model: heads, one for each view of a picture, and the file that says which there are.

A view is one vector of a picture. An encoder of one view has one head, or none and gives the model's own vector. GeoToken's has
three views (arXiv 2511.01082, section 3.1): the model's own vector as "image", and two heads on it, "location" and "text",
each trained against another tower. All views come from one pass of the model.

A head with a hidden layer is G3's and GeoCLIP's (linear, ReLU, linear). `unit` has it read the model's vector at length
√channels instead of as it is: a head can then be trained from a table of unit vectors, and every element has a mean square of
one whatever the model. The length, which CLIP does not train to mean anything, is lost.

`head.json` of one head holds its config and `channels`; of several views {"views": {name: the same, or null}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

FILE, _WEIGHTS = "head.json", "head.safetensors"

#: The name of the view of an encoder that has one.
IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A map from what the trunk sees to the vector."""

    size: int = 128
    """Length of the vector."""

    grid: int = 0
    """Cells a side of the grid that the last feature map is averaged to; 0: the trunk's own vector is read."""

    hidden: int = 0
    """Width of a hidden layer with ReLU; 0: the head is linear."""

    unit: bool = False
    """Whether the trunk's own vector is read at one length for all pictures, which training from vectors takes."""


class Head(nn.Module):
    """Feature map (N, C, H, W), or vector (N, C) where `grid` is 0, to (N, size)."""

    def __init__(self, config: HeadConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        wide = channels * max(config.grid, 1) ** 2
        self.first = nn.Linear(wide, config.hidden) if config.hidden else None
        self.linear = nn.Linear(config.hidden or wide, config.size)

    def forward(self, seen: Tensor) -> Tensor:
        """See the class."""
        if self.config.grid and seen.shape[2:] != (self.config.grid, self.config.grid):
            seen = F.adaptive_avg_pool2d(seen, self.config.grid)
        seen = seen.flatten(1)
        if self.config.unit:
            seen = F.normalize(seen, dim=1) * math.sqrt(seen.shape[1])
        if self.first is not None:
            seen = F.relu(self.first(seen))
        out: Tensor = self.linear(seen)
        return out


def save(heads: Mapping[str, Head | None], folder: Path) -> None:
    """Writes `head.json` and `head.safetensors`; nothing where there is one view and no head."""
    weights: dict[str, Tensor] = {}
    if len(heads) == 1:
        head = next(iter(heads.values()))
        if head is None:
            return
        said, weights = _said(head), dict(head.state_dict())
    else:
        said = {"views": {name: None if head is None else _said(head) for name, head in heads.items()}}
        for name, head in heads.items():
            if head is not None:
                weights |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    (folder / FILE).write_text(json.dumps(said, indent=1) + "\n")
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / _WEIGHTS)


def read(folder: Path) -> dict[str, Head | None]:
    """The heads of an encoder's folder by view; where it says nothing, {"image": None}."""
    path = folder / FILE
    if not path.is_file():
        return {IMAGE: None}
    said: dict[str, Any] = json.loads(path.read_text())
    weights = load_file(folder / _WEIGHTS)
    if "views" not in said:
        return {IMAGE: _made(said, weights)}
    return {
        name: None
        if each is None
        else _made(each, {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")})
        for name, each in said["views"].items()
    }


def _said(head: Head) -> dict[str, Any]:
    config = asdict(head.config)
    plain = {key: value for key, value in config.items() if key in ("size", "grid") or value}
    return {**plain, "channels": head.channels}


def _made(said: dict[str, Any], weights: dict[str, Tensor]) -> Head:
    config = {key: value for key, value in said.items() if key != "channels"}
    head = Head(HeadConfig(**config), said["channels"])
    head.load_state_dict(weights)
    return head
