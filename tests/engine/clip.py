"""A CLIP of a few thousand random weights with a tokenizer of letters, as a `transformers` folder."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from geobatch.engine.pixels import Pixels

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_clip(folder: Path, projection: int = 12, pixels: int = 32) -> Path:
    """Writes both halves, the tokenizer and the preprocessor; returns the folder."""
    letters = [*map(chr, range(ord("a"), ord("z") + 1)), ","]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: row for row, word in enumerate(words)}
    marks = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    config = transformers.AutoConfig.for_model(
        "clip",
        text_config={**TINY, **marks, "pad_token_id": marks["eos_token_id"], "vocab_size": len(words),
                     "max_position_embeddings": 32},
        vision_config={**TINY, "image_size": pixels, "patch_size": 8},
        projection_dim=projection,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    Pixels(size=(pixels, pixels), mean=(0.5,) * 3, deviation=(0.5,) * 3).save(folder)
    return folder
