"""GeoCLIP's own package against ours: files of pictures in, the five likeliest of 100,000 places out, on this CPU.

`predict` encodes all places again for every picture; ours reads their features from disk. So two backbones are timed: a thin
CLIP, where what is left is the comparison with the places, and one of ViT-L/14's size, as it is in use. Both sides run
float32, open the same PNG files of 224 × 224 and use this process's threads; the features are made beforehand, which is
timed apart. On the thin CLIP, whose weights both load, the places must be the same.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from PIL import Image

from geobatch.engine.pixels import Pixels
from geobatch.methods.geoclip.embed import ImageEncoder
from geobatch.methods.geoclip.match import Match
from geobatch.methods.geoclip.weights import find, logit_scale
from geobatch.schema import FATE, empty_columns
from tests.methods.geoclip import miniature, package

ROUNDS, TOP = 3, 5


def run() -> list[dict[str, object]]:
    """Medians of three alternating rounds."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        folder = Path(scratch)
        paths = _pictures(folder, 32)
        files = find()
        start = time.perf_counter()
        match = Match(str(files.location), str(files.places), logit_scale(files.scale), cache=str(folder))
        once = time.perf_counter() - start
        thin = miniature.clip(folder / "thin", embedding=768, side=224)
        rows = [_row("a thin CLIP: the places alone", thin, paths, match, patch, once, check=True)]
        return [*rows, _row("ViT-L/14", _large(folder / "large"), paths[:8], match, patch, once)]


def _row(
    name: str, backbone: Path, paths: list[Path], match: Match, patch: pytest.MonkeyPatch, once: float, check: bool = False
) -> dict[str, object]:
    theirs, ours = package.geoclip(backbone, patch), ImageEncoder(str(backbone), find().head, precision="float32")
    times: dict[str, list[float]] = {"theirs": [], "encode": [], "ours": []}
    for turn in range(ROUNDS):
        start = time.perf_counter()
        predicted = theirs.predict(str(paths[turn]), TOP)[0].numpy()
        times["theirs"].append(time.perf_counter() - start)
        start = time.perf_counter()
        vectors = ours.encode([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        times["encode"].append((time.perf_counter() - start) / len(paths))
        rows = _matched(match, vectors)
        times["ours"].append((time.perf_counter() - start) / len(paths))
        found = [[each["latitude"], each["longitude"]] for each in rows[turn]["candidates"][:TOP]]
        if check and not np.allclose(found, predicted, atol=1e-4):
            raise AssertionError(f"{found} are not the places {predicted.tolist()}, so the speeds mean nothing")
    slow, fast, encode = (median(times[key]) for key in ("theirs", "ours", "encode"))
    return {
        "name": f"GeoCLIP, {name}",
        "rival": "predict of the package geoclip",
        "ratio": slow / fast,
        "measured": (
            f"{1 / fast:.2f} images a second ({1e3 * encode:.0f} ms of picture and CLIP, {1e3 * (fast - encode):.0f} ms of "
            f"places and density an image) against {1 / slow:.4f} ({slow:.0f} s an image); {len(match.places):,} places, "
            f"encoded once in {once:.0f} s; {torch.get_num_threads()} threads, float32, median of {ROUNDS} alternating rounds"
        ),
    }


def _matched(match: Match, vectors: np.ndarray) -> list[dict[str, Any]]:
    table = pa.table({"vector": pa.array(list(vectors), pa.list_(pa.float32())), **empty_columns(FATE, len(vectors))})
    rows: list[dict[str, Any]] = match(table).to_pylist()
    return rows


def _pictures(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{row}.png" for row in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((224, 224), Image.Resampling.BICUBIC).save(path)
    return paths


def _large(folder: Path) -> Path:
    """CLIP ViT-L/14's config without weights, and a text half of next to nothing."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 64}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "patch_size": 14}  # fmt: skip
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    transformers.CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=768).save_pretrained(folder)
    Pixels(size=(224, 0), crop=(224, 224), mean=(0.48145466, 0.4578275, 0.40821073),
           deviation=(0.26862954, 0.26130258, 0.27577711), filter="bicubic").save(folder)  # fmt: skip
    return folder
