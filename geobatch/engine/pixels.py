"""What a vision model wants its pictures to be: read from `preprocessor_config.json`, done in torch.

The image processors of `transformers` need torchvision, which has no wheel for every machine, and work
picture by picture. The few numbers they are configured with (size, crop, mean, deviation, filter) are all
that is used here, on whole batches of uint8. Against Pillow's resampling the antialiased filters of torch
differ by at most 1 level of 255 but for the Lanczos filter, which torch does not have: bicubic stands in
for it.

Not covered: processors that pad, cut into patches (Llava's "anyres") or thumbnail to multiples of a patch;
they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from geobatch.errors import UserError

FILE = "preprocessor_config.json"
_MODES = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers; 1 is Lanczos
_FOREIGN = ("do_pad", "image_grid_pinpoints", "min_pixels", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How a picture becomes what the model reads.

    Fields:
        size: height and width in pixels; width 0 means "the shorter edge becomes `height`, the shape stays".
        crop: height and width cut from the centre after that, or None; black beyond the picture.
        scale: factor of the levels 0-255 before mean and deviation.
        filter: "nearest", "bilinear" or "bicubic".
    """

    size: tuple[int, int] | None
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    filter: str = "bilinear"

    def __call__(self, pictures: Tensor) -> Tensor:
        """(N, H, W, 3) uint8, or float32 levels 0-255 -> (N, 3, h, w) float32."""
        return self.normalise(self.resize(pictures.permute(0, 3, 1, 2).float()))

    def resize(self, levels: Tensor) -> Tensor:
        """(N, 3, H, W) levels -> (N, 3, h, w) levels."""
        height, width = levels.shape[2:]
        if self.size is not None:
            target = self.size if self.size[1] else _shorter(height, width, self.size[0])
            if target != (height, width):
                smooth = self.filter != "nearest"
                levels = F.interpolate(
                    levels, target, mode=self.filter, antialias=smooth, align_corners=False if smooth else None
                ).clamp(0, 255)
                height, width = target
        if self.crop is not None and self.crop != (height, width):
            # A negative margin pads, a positive one cuts; an odd rest goes to the top and left, as Pillow's
            # crop.
            above, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            below, right = height - self.crop[0] - above, width - self.crop[1] - left
            levels = F.pad(levels, (-left, -right, -above, -below))
        return levels

    def normalise(self, levels: Tensor) -> Tensor:
        """Levels 0-255 -> what the network reads."""
        mean, deviation = (levels.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.deviation))
        return levels.mul(self.scale).sub_(mean).div_(deviation)

    def save(self, folder: Path) -> None:
        """Writes a `preprocessor_config.json` that `read` and `transformers` understand."""
        size: dict[str, int] | None = None
        if self.size is not None:
            height, width = self.size
            size = {"height": height, "width": width} if width else {"shortest_edge": height}
        record = {
            "do_resize": size is not None,
            "size": size,
            "do_center_crop": self.crop is not None,
            "crop_size": None if self.crop is None else {"height": self.crop[0], "width": self.crop[1]},
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": asdict(self)["mean"],
            "image_std": asdict(self)["deviation"],
            "resample": {"nearest": 0, "bilinear": 2, "bicubic": 3}[self.filter],
        }
        (folder / FILE).write_text(json.dumps(record, indent=1) + "\n")


def read(path: Path) -> Pixels:
    """The settings in a `preprocessor_config.json`.

    Raises:
        UserError: it is no JSON, or asks for what is not covered here.
    """
    try:
        said: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} does not read ({error}); get it again from where the model came from") from error
    foreign = [name for name in _FOREIGN if said.get(name)]
    if foreign:
        raise UserError(f"{path} asks for {', '.join(foreign)}, which is not supported; use a model with fixed input size")
    crops = bool(said.get("do_center_crop", said.get("crop_size") is not None))
    size, crop = None, None
    if said.get("do_resize", True) and said.get("size") is not None:
        size, crop = _size(said["size"], crops), None
        if "crop_pct" in said and size[1] == 0 and size[0] < 384:  # ConvNeXt: enlarge, then cut to the size
            size, crop = (int(size[0] / (said["crop_pct"] or 224 / 256)), 0), (size[0], size[0])
        elif "crop_pct" in said and size[1] == 0:
            size = (size[0], size[0])
    if crops and said.get("crop_size") is not None:
        crop = _size(said["crop_size"], False)
    plain = {} if not said.get("do_normalize", True) else {"mean": said.get("image_mean"), "deviation": said.get("image_std")}
    values = {name: tuple(map(float, value)) for name, value in plain.items() if value is not None}
    resample = said.get("resample")
    return Pixels(
        size=size,
        crop=crop,
        scale=float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
        filter=_MODES.get(2 if resample is None else int(resample), "bilinear"),
        **values,
    )


def _size(said: Any, crops: bool) -> tuple[int, int]:
    if isinstance(said, int):  # older files: CLIP, which crops afterwards, meant the shorter edge
        return (said, 0) if crops else (said, said)
    if "shortest_edge" in said:
        return int(said["shortest_edge"]), 0
    if "height" in said and "width" in said:
        return int(said["height"]), int(said["width"])
    raise UserError(f"a picture size of {said} is not supported; use height and width, or shortest_edge")


def _shorter(height: int, width: int, edge: int) -> tuple[int, int]:
    """`height` and `width` scaled so that the shorter one is `edge`; the longer is cut down to whole
    pixels, as upstream.
    """
    if height <= width:
        return edge, max(edge, int(edge * width / height))
    return max(edge, int(edge * height / width)), edge


def stack(pictures: list[Any]) -> Tensor:
    """Pictures of one shape, (H, W, 3) uint8 arrays, as one tensor (N, H, W, 3)."""
    return torch.from_numpy(np.stack(pictures))


def pictures_of(table: pa.Table) -> list[npt.NDArray[np.uint8]]:
    """The pictures of PICTURE rows as (H, W, 3) views of Arrow's buffers."""
    sizes = zip(table["picture_height"].to_pylist(), table["picture_width"].to_pylist(), strict=True)
    return [
        np.frombuffer(value.as_buffer(), np.uint8).reshape(height, width, 3)
        for value, (height, width) in zip(table["picture"], sizes, strict=True)
    ]
