"""The published bases' architectures: enough to build each on the `meta` device without a download.

The numbers are those of `config.json` in the Hugging Face hub's repositories `OpenGVLab/InternVL3_5-1B-HF`,
`HuggingFaceTB/SmolVLM-256M-Instruct` and `HuggingFaceTB/SmolVLM-500M-Instruct`. Built with transformers 5.19 they count
1,060,897,792, 256,484,928 and 507,482,304 parameters: the totals the hub shows, 1.06 B, 256 M and 507 M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers


def internvl35_1b() -> tuple[transformers.InternVLConfig, int]:
    """Qwen3 of 28 layers of 1024 behind a tower of 24 layers of 1024; tiles of 448 pixels."""
    config = transformers.InternVLConfig(
        text_config={
            "model_type": "qwen3",
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "attention_bias": True,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
        tie_word_embeddings=False,
    )
    return config, 448


def smolvlm_256m() -> tuple[transformers.Idefics3Config, int]:
    """SmolLM2-135M behind SigLIP base; tiles of 512 pixels."""
    return _smolvlm(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)


def smolvlm_500m() -> tuple[transformers.Idefics3Config, int]:
    """SmolLM2-360M behind SigLIP base; tiles of 512 pixels."""
    return _smolvlm(
        hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5
    )


def _smolvlm(**text: Any) -> tuple[transformers.Idefics3Config, int]:
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", "head_dim": 64, "vocab_size": 49280, "pad_token_id": 2, **text},
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        scale_factor=4,
        image_token_id=49190,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    return config, 512


#: The config and the side of a tile, by the names of the presets.
ARCHITECTURES: Mapping[str, Callable[[], tuple[Any, int]]] = {
    "internvl35_1b": internvl35_1b,
    "smolvlm_256m": smolvlm_256m,
    "smolvlm_500m": smolvlm_500m,
}
