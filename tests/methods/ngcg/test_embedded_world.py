"""Texts and tiles of the embedded world meet in a small model of random weights, after seconds of training.

The full table is `python -m tests.bench.bench_ngcg`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from geobatch.benchmark.landscape import Landscape
from geobatch.benchmark.wording import tell
from geobatch.benchmark.world import World
from geobatch.engine.geocode import Geocoder
from geobatch.methods.ngcg import pairs
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation
from geobatch.methods.ngcg.held import measure
from geobatch.methods.ngcg.small import Small, write_small
from geobatch.methods.ngcg.train import Fit
from geobatch.schema import PAIRS, empty_columns

TRAINED, HELD, STEPS = 3000, 400, 60


def described(folder: Path) -> pairs.Pairs:
    """Tiles of shaded relief, one a place, with two texts each; the last `HELD` places are another draw."""
    relief = World(map="relief")
    lat, lon = (np.concatenate(each) for each in zip(relief.scatter(TRAINED, 31), relief.scatter(HELD, 32), strict=True))
    texts = tell(Landscape(towns=Geocoder.load(people=100_000)), lat, lon, seed=3, copies=2)
    images = []
    for picture in relief.cut(lat, lon):
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "PNG", compress_level=1)
        images.append(encoded.getvalue())
    rows = len(lat)
    columns = {
        **empty_columns(list(PAIRS), rows),
        "image_id": [f"{row}.png" for row in range(rows)],
        "uri": ["tiles"] * rows,
        "image": pa.array(images, pa.large_binary()),
        "texts": texts,
        "group": [str(row) for row in range(rows)],
        "status": ["paired"] * rows,
    }
    pairs.write([pa.table(columns).select(PAIRS.names).cast(PAIRS)], folder / "pairs.arrow")
    return pairs.Pairs(folder / "pairs.arrow")


def test_texts_find_tiles_of_places_that_no_training_saw(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    known = described(tmp_path)
    kept, held = known.subset(np.arange(TRAINED)), known.subset(np.arange(TRAINED, TRAINED + HELD))
    size = Small(width=64, layers=2, vision_width=64, vision_layers=2, side=48, patch=12, words=4096)
    base = write_small(tmp_path / "base", kept.every_text(), size)
    tuning = Tuning(whole=True, batch=128, steps=STEPS, learning_rate=4e-3, warm_up=0.1, temperature=0.05, bf16=False)
    encoding = Encoding(pooling="mean", text_tokens=64)
    fit = Fit(str(base), tuning, Validation(), kept, held.subset([]), encoding)
    before = measure(fit.encoder, held, 64, fit.worker)
    losses = [fit.advance() for _ in range(STEPS)]
    after = measure(fit.encoder, held, 64, fit.worker)
    chance = 10 / HELD
    assert before["t2i_r10"] < 2 * chance
    assert after["t2i_r10"] > 3 * chance and after["i2t_r10"] > 2 * chance
    assert np.mean(losses[-5:]) < losses[0] - 0.5
