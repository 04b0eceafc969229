"""What differs between the bases: how a tile stands in the prompt, how its pixels lie, and which side it wants.

InternVL3.5 (the `-HF` files), SmolVLM (256M and 500M call themselves `idefics3`, SmolVLM2 `smolvlm`) and Qwen2.5-VL are stock
classes of `transformers` with one shape: a vision tower whose patches, joined in squares, take the places of image tokens in a
language model. A tile's prompt is what the family's own processor makes of the bare image token, so the marks around it come
too, and the closing one is the last token:

    internvl            <img> <IMG_CONTEXT> × (side / 28)² </img>                                448 px: 256 tokens
    idefics3, smolvlm   <fake_token_around_image> <global-img> <image> × (side / 64)² <fake_token_around_image>   512 px: 64
    qwen2_5_vl          <|vision_start|> <|image_pad|> × (side / 28)² <|vision_end|>             448 px: 256

A tile is one square: no splitting, no crops. The inner model (`network.model`) of each gives the last hidden states without
the vocabulary's head; where LoRA goes is in `geobatch.train.lora`.

Not covered: pictures that keep their shape (Qwen could), several pictures a prompt, video.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geobatch.errors import UserError


@dataclass(frozen=True)
class Family:
    """How one kind of base sees.

    Fields:
        kinds: its `model_type`s.
        opening, image, closing: the prompt of a tile: what comes before the image tokens, one of them, and what after.
        unit: of a config, the pixels of an image token's side.
        own: of a config and an image processor, the side in pixels that the base was trained at.
        arranged: pixels (N, 3, S, S) and a config -> the inputs of the network that carry them.
    """

    kinds: tuple[str, ...]
    opening: str
    image: str
    closing: str
    unit: Callable[[Any], int]
    own: Callable[[Any, Any], int]
    arranged: Callable[[Tensor, Any], dict[str, Tensor]]

    def prompt(self, side: int, config: Any) -> str:
        """The text of a tile of `side` pixels.

        Raises:
            UserError: no whole number of image tokens covers such a side.
        """
        unit = self.unit(config)
        if side < unit or side % unit:
            raise UserError(
                f"a tile of {side} pixels is no whole number of image tokens; use a multiple of {unit} for its side"
            )
        return self.opening + self.image * (side // unit) ** 2 + self.closing


def of(config: Any) -> Family:
    """The family of a base, by its config's `model_type`.

    Raises:
        UserError: it is of none of them.
    """
    for family in FAMILIES:
        if config.model_type in family.kinds:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.kinds)
    raise UserError(f"NGCG does not know how a {config.model_type!r} model sees tiles; use a base of {known}")


def _edge(value: Any) -> int:
    """The first of a pair, or the number itself: configs write sizes either way."""
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _image_size(config: Any, processor: Any) -> int:
    return _edge(config.vision_config.image_size)


def _qwen_side(config: Any, processor: Any) -> int:
    """448, or less where the processor's most pixels are fewer."""
    most = processor.size["longest_edge"]
    unit = _qwen_unit(config)
    return min(448, math.isqrt(int(most)) // unit * unit)


def _qwen_unit(config: Any) -> int:
    return int(config.vision_config.patch_size) * int(config.vision_config.spatial_merge_size)


def _patches(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Qwen's tower reads one row a patch, `merge` × `merge` neighbours in succession, a still picture repeated in time."""
    vision = config.vision_config
    patch, merge, time = int(vision.patch_size), int(vision.spatial_merge_size), int(vision.temporal_patch_size)
    cut = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # (N, 3, G, G, patch, patch)
    count, _, grid, *_ = cut.shape
    blocks = cut.unflatten(3, (-1, merge)).unflatten(2, (-1, merge))  # (N, 3, G/m, m, G/m, m, patch, patch)
    rows = blocks.permute(0, 2, 4, 3, 5, 1, 6, 7).reshape(-1, 3, 1, patch, patch)
    return {
        "pixel_values": rows.expand(-1, -1, time, -1, -1).flatten(1),
        "image_grid_thw": torch.tensor([[1, grid, grid]] * count),
    }


def _plain(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    return {"pixel_values": pixels}


def _listed(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """Idefics takes (N, 1, 3, S, S), and drops a picture whose numbers are all zero as padding: such a one gets a speck."""
    suspects = (pixels[:, :, 0, 0] == 0).all(1).nonzero()[:, 0]
    black = [row for row in suspects.tolist() if not pixels[row].any()]
    if black:
        pixels = pixels.clone()
        pixels[black, 0, 0, 0] = 1e-6
    return {"pixel_values": pixels.unsqueeze(1)}


FAMILIES = (
    Family(
        kinds=("internvl",),
        opening="<img>",
        image="<IMG_CONTEXT>",
        closing="</img>",
        unit=lambda config: round(_edge(config.vision_config.patch_size) / config.downsample_ratio),
        own=_image_size,
        arranged=_plain,
    ),
    Family(
        kinds=("idefics3", "smolvlm"),
        opening="<fake_token_around_image><global-img>",
        image="<image>",
        closing="<fake_token_around_image>",
        unit=lambda config: _edge(config.vision_config.patch_size) * int(config.scale_factor),
        own=_image_size,
        arranged=_listed,
    ),
    Family(
        kinds=("qwen2_5_vl",),
        opening="<|vision_start|>",
        image="<|image_pad|>",
        closing="<|vision_end|>",
        unit=_qwen_unit,
        own=_qwen_side,
        arranged=_patches,
    ),
)
