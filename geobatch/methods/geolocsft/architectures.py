"""The students' architectures, as their makers publish them: enough to build each on the `meta` device without a download.

The numbers are those of `config.json` in the repositories `google/gemma-3-27b-it`, `google/gemma-3-12b-it` and
`Qwen/Qwen2.5-VL-3B-Instruct` of the Hugging Face hub, both Gemmas gated. Built with transformers 5.19 they count
27,432,406,640, 12,187,325,040 and 3,754,622,976 parameters: the totals the hub shows, 27.4 B, 12.2 B and 3.75 B.

A `meta` parameter has a shape and no bytes: the 27 B model takes 0.1 s to build, and its counts are exact, so
nothing below is estimated. `layout` is what `memory` reads from a config: one vocabulary for two families that name the same
things differently.

Not covered: other families (`layout` refuses them by name), mixtures of experts, quantised bases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import transformers
from torch import nn

from geobatch.errors import UserError

Family = Literal["gemma3", "qwen2_5_vl"]

#: The modules of the language model's layers that every student's LoRA goes to: all seven projections.
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def gemma3_27b() -> transformers.Gemma3Config:
    """google/gemma-3-27b-it: 62 layers of 5376, every sixth with full attention, the others within 1024 tokens."""
    return _gemma3(
        hidden_size=5376,
        intermediate_size=21504,
        num_hidden_layers=62,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=168,
    )


def gemma3_12b() -> transformers.Gemma3Config:
    """google/gemma-3-12b-it: 48 layers of 3840."""
    return _gemma3(
        hidden_size=3840,
        intermediate_size=15360,
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256,
    )


def qwen25vl_3b() -> transformers.Qwen2_5_VLConfig:
    """Qwen/Qwen2.5-VL-3B-Instruct: 36 layers of 2048, two key-value heads, tied embeddings."""
    return transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "in_channels": 3,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=True,
    )


def _gemma3(**text: Any) -> transformers.Gemma3Config:
    return transformers.Gemma3Config(
        text_config={
            "vocab_size": 262208,
            "sliding_window": 1024,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            **text,
        },
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=256,
        boi_token_index=255999,
        eoi_token_index=256000,
        image_token_index=262144,
        eos_token_id=[1, 106],
    )


#: The presets' names, and what each is built from.
ARCHITECTURES = {"gemma3_27b": gemma3_27b, "gemma3_12b": gemma3_12b, "qwen25vl_3b": qwen25vl_3b}


@dataclass(frozen=True)
class Tower:
    """A vision tower: what its activations depend on.

    Fields:
        layers, hidden, intermediate, heads: of its transformer.
        gated: whether its MLP has a gate beside the up projection.
        patch: side of a patch, pixels; a patch is one row of the tower's sequence.
        side: pixels a picture is resized to, or 0 where the picture keeps its size.
        tokens: tokens of the language model that a picture of fixed size becomes; 0 where its size decides.
        merge: patches per side that become one token where the size decides.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    gated: bool
    patch: int
    side: int
    tokens: int
    merge: int

    def patches(self, width: int, height: int) -> int:
        """Rows of the tower's sequence for one picture."""
        if self.side:
            return (self.side // self.patch) ** 2
        grid = self.patch * self.merge
        return math.prod(max(1, round(edge / grid)) * self.merge for edge in (width, height))

    def image_tokens(self, width: int, height: int) -> int:
        """Tokens of the language model for one picture of that many pixels."""
        return self.tokens or self.patches(width, height) // self.merge**2


@dataclass(frozen=True)
class Layout:
    """A vision-language model: counts of its parameters, and what its activations depend on.

    Fields:
        family: what `transformers` calls it.
        parameters: of the whole model, tied ones once.
        vision: parameters of the vision tower and the projector behind it.
        embeddings: parameters of the word embeddings (tied: also of the output).
        widest_layer: parameters of one layer of the language model, what FSDP gathers at a time.
        layers, hidden, intermediate, vocabulary: of the language model.
        heads, key_value_heads, head: its attention.
        tower: its eye.
    """

    family: Family
    parameters: int
    vision: int
    embeddings: int
    widest_layer: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head: int
    tower: Tower


@lru_cache(maxsize=8)
def _named(name: str) -> Layout:
    return layout(ARCHITECTURES[name]())


def named(name: str) -> Layout:
    """The layout of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"there is no architecture {name!r}; use one of {', '.join(ARCHITECTURES)}")
    return _named(name)


def on_meta(config: Any) -> nn.Module:
    """The model of a config with parameters that have shapes and no bytes."""
    with torch.device("meta"):
        model: nn.Module = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()  # type: ignore[operator]
    return model


def layout(config: Any) -> Layout:
    """Reads a `transformers` config, and counts on the model that it makes.

    Raises:
        UserError: neither Gemma 3 nor Qwen2.5-VL.
    """
    family = config.model_type
    if family not in ("gemma3", "qwen2_5_vl"):
        raise UserError(f"memory of the family {family!r} is not known here; use Gemma 3 or Qwen2.5-VL")
    model = on_meta(config)
    text = config.text_config
    body: Any = getattr(model, "model", model)
    eye = [body.vision_tower, body.multi_modal_projector] if family == "gemma3" else [body.visual]
    return Layout(
        family=family,
        parameters=sum(each.numel() for each in model.parameters()),
        vision=sum(each.numel() for part in eye for each in part.parameters()),
        embeddings=body.language_model.embed_tokens.weight.numel(),
        widest_layer=max(sum(each.numel() for each in part.parameters()) for part in body.language_model.layers),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        heads=text.num_attention_heads,
        key_value_heads=text.num_key_value_heads,
        head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        tower=_tower(config),
    )


def _tower(config: Any) -> Tower:
    seen = config.vision_config
    if config.model_type == "gemma3":
        return Tower(
            layers=seen.num_hidden_layers,
            hidden=seen.hidden_size,
            intermediate=seen.intermediate_size,
            heads=seen.num_attention_heads,
            gated=False,
            patch=seen.patch_size,
            side=seen.image_size,
            tokens=config.mm_tokens_per_image,
            merge=1,
        )
    return Tower(
        layers=seen.depth,
        hidden=seen.hidden_size,
        intermediate=seen.intermediate_size,
        heads=seen.num_heads,
        gated=True,
        patch=seen.patch_size,
        side=0,
        tokens=0,
        merge=seen.spatial_merge_size,
    )
