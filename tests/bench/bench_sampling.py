"""Draws that share prefixes against K independent draws that keep their keys and values, at the paper's size.

The weights are random, and how much draws share depends on how peaked a trained network is. So the heads are scaled to
three degrees of certainty, and each row states the distinct prefixes it stands for. Both sides run all draws of a
batch side by side, read the same memory without copying it, keep keys and values in place, and use the same random
numbers, so that they must return the same draws.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.draws import Draws, independent, shared
from geobatch.methods.geotoken.inputs import Context, context
from geobatch.methods.geotoken.model import GeoTokenModel

IMAGES, ROUNDS = 4, 3
SHARPNESS = {"sure": 14.0, "unsure": 6.0, "clueless": 1.0}


def run() -> list[dict[str, object]]:
    """Medians of three alternating rounds."""
    config = GeoToken.paper()
    torch.manual_seed(0)
    model = GeoTokenModel(config).eval()
    batch, ids = _batch(config), [f"{row}.jpg" for row in range(IMAGES)]
    heads = [head.weight.detach().clone() for head in model.heads]
    rows = []
    for name, sharpness in SHARPNESS.items():
        with torch.no_grad():
            for head, weight in zip(model.heads, heads, strict=True):
                head.weight.copy_(weight * sharpness)
        times: dict[str, list[float]] = {"shared": [], "independent": [], "encode": []}
        for _ in range(ROUNDS):
            start = time.perf_counter()
            with torch.inference_mode():
                model.encode(batch)
            times["encode"].append(time.perf_counter() - start)
            start = time.perf_counter()
            ours = shared(model, batch, ids)
            times["shared"].append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = independent(model, batch, ids)
            times["independent"].append(time.perf_counter() - start)
        _same(ours, theirs)
        fast, slow, encode = (1e3 * median(times[key]) / IMAGES for key in ("shared", "independent", "encode"))
        prefixes, all_of_them = ours.prefixes / IMAGES, theirs.prefixes / IMAGES
        setting = f"{IMAGES} images, {torch.get_num_threads()} threads, median of {ROUNDS} alternating rounds"
        rows.append(
            {
                "name": f"prefix-shared sampling, 55 M parameters, {name} network",
                "rival": "K = 30 independent draws with kept keys and values",
                "ratio": (slow - encode) / (fast - encode),
                "measured": (
                    f"{fast - encode:.0f} ms of decoding an image against {slow - encode:.0f}; {fast:.0f} against "
                    f"{slow:.0f} with the encoder ({slow / fast:.2f} ×); {prefixes:.0f} distinct prefixes of "
                    f"{all_of_them:.0f}; {setting}"
                ),
            }
        )
    return rows


def _batch(config: GeoToken) -> Context:
    rng = np.random.default_rng(0)
    width = len(config.views) * config.vector_size
    return context(
        config,
        rng.normal(size=(IMAGES, width)) / config.vector_size**0.5,
        rng.normal(size=(IMAGES, config.neighbours, width)) / config.vector_size**0.5,
        np.degrees(np.arcsin(rng.uniform(-1, 1, (IMAGES, config.neighbours)))),
        rng.uniform(-180, 180, (IMAGES, config.neighbours)),
    )


def _same(one: Draws, other: Draws) -> None:
    if not (torch.equal(one.codes_RT, other.codes_RT) and torch.equal(one.count_R, other.count_R)):
        raise AssertionError("the two drew different candidates, so their speeds mean nothing")
