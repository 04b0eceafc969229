"""The paper's network at full size, on random weights: a training step and K = 30 draws, against what this machine could do.

The ceiling is counted. Floating-point operations of a training step are counted by torch on the very calls that are made, and
divided by what a matrix product of the network's own shape reaches in the same run. In sampling, the encoder takes at least its
operations at that rate; the decoder's steps take at least theirs, or the bytes they must read (parameters of the layers, keys
and values of the memory and of the prefixes) at the rate of a sum, whichever is longer. A ratio of 1 would be a program that
never waits.

On a GPU the micro-batch is the largest that goes through. On a CPU the largest that fits is counted and printed, and a step of
GEOBATCH_BENCH_IMAGES (6) is made: one of 40 takes minutes and 12 GiB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from geobatch.methods.geotoken.capacity import Capacity, largest_micro_batch
from geobatch.methods.geotoken.config import GeoToken, Sampling, Training
from geobatch.methods.geotoken.draws import Draws, shared
from geobatch.methods.geotoken.examples import Examples, Gallery
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.sample import fitting
from geobatch.methods.geotoken.train import Fit

ROUNDS, ON_CPU, DRAWN_ON_CPU = 3, int(os.environ.get("GEOBATCH_BENCH_IMAGES", "6")), 8
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run() -> list[dict[str, object]]:
    """Medians of three rounds; rates of the machine are taken between them."""
    config = GeoToken.paper()
    half = DEVICE.type == "cuda"
    return [_training(config, half), _sampling(config)]


def _training(config: GeoToken, bf16: bool) -> dict[str, object]:
    images = 2048 if DEVICE.type == "cuda" else 64
    examples = _examples(config, images)
    fit = Fit(config, Training(batch=images, steps=9, bf16=bf16), examples, device=str(DEVICE))
    fit.model.train()
    found: Capacity = largest_micro_batch(fit.model, fit.batch(0), bf16)
    size = found.images if DEVICE.type == "cuda" else min(found.images, ON_CPU)
    fit = Fit(config, Training(batch=size, micro_batch=size, steps=9, bf16=bf16), examples, device=str(DEVICE))
    before = _memory()
    with FlopCounterMode(display=False) as counted:
        fit.advance()
    flops = counted.get_total_flops()
    times, rates = [], []
    for _ in range(ROUNDS):
        rates.append(_flops_a_second(bf16, size * 364))
        times.append(_seconds(fit.advance))
    grown = (_memory(peak=True) - before) / 2**20
    seconds, rate = median(times), median(rates)
    parameters = sum(parameter.numel() for parameter in fit.model.parameters())
    expected = (found.bytes_an_image * size + found.bytes_fixed - 4 * parameters) / 2**20
    return {
        "name": f"training step, {parameters:,} parameters, {size} images",
        "rival": "the time that its floating-point operations take at this machine's own rate",
        "ratio": flops / rate / seconds,
        "measured": (
            f"{size / seconds:.2f} images a second ({seconds:.2f} s a step, {'bfloat16' if bf16 else 'float32'}); "
            f"{flops / size / 1e9:.1f} GFLOP an image at {rate / 1e9:.0f} GFLOP/s; largest batch that fits: {found}; beside "
            f"the parameters steps of {size} took {grown:,.0f} MiB where {expected:,.0f} were counted; {_machine()}"
        ),
    }


def _sampling(config: GeoToken) -> dict[str, object]:
    torch.manual_seed(0)
    model = GeoTokenModel(config).to(DEVICE).eval()
    fits = fitting(config, Sampling(), DEVICE)
    size = min(fits, 1024) if DEVICE.type == "cuda" else DRAWN_ON_CPU
    fit = Fit(config, Training(batch=size, steps=1), _examples(config, size))
    context, ids = fit.batch(0)[0].to(DEVICE), [f"{row}.jpg" for row in range(size)]
    draws: list[Draws] = []
    times, rates, widths = [], [], []
    for _ in range(ROUNDS):
        rates.append(_flops_a_second(False, size * 364))
        widths.append(_bytes_a_second())
        times.append(_seconds(lambda: draws.append(shared(model, context, ids))))
    seconds, rate, width = median(times), median(rates), median(widths)
    with FlopCounterMode(display=False) as encoding, torch.inference_mode():
        model.encode(context)
    with FlopCounterMode(display=False) as all_of_it:
        shared(model, context, ids)
    encoder = encoding.get_total_flops() / rate
    steps = max((all_of_it.get_total_flops() - encoding.get_total_flops()) / rate, _bytes_read(model, draws[0], size) / width)
    return {
        "name": f"K = 30 draws, {model.parameters_in_all:,} parameters, {size} images, random weights",
        "rival": "the time that operations and bytes take at this machine's own rates",
        "ratio": (encoder + steps) / seconds,
        "measured": (
            f"{size / seconds:.2f} images a second ({1e3 * seconds / size:.0f} ms each, float32, "
            f"{draws[0].prefixes / size:.0f} distinct prefixes of {30 * config.length}); "
            f"the ceiling is {1e3 * encoder / size:.0f} ms of encoder and "
            f"{1e3 * steps / size:.0f} of decoder at {rate / 1e9:.0f} GFLOP/s and {width / 1e9:.1f} GB/s; {_machine()}"
        ),
    }


def _bytes_read(model: GeoTokenModel, draws: Draws, images: int) -> float:
    """Of the decoder's steps: parameters once a step, each image's memory once a step, each prefix's past once."""
    config = model.config
    parameters = sum(value.numel() for layer in model.decoder for value in layer.parameters()) * config.length
    positions = 1 + len(config.views) + config.neighbours * (len(config.views) + config.length)
    memory = 2 * positions * config.width * config.decoder_layers * config.length * images
    past = 2 * draws.prefixes * (config.length / 2) * config.width * config.decoder_layers
    return 4.0 * (parameters + memory + past)


def _flops_a_second(bf16: bool, rows: int) -> float:
    """What products as wide as the network's layers reach here."""
    kind = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(min(rows, 1 << 16), 512, device=DEVICE, dtype=kind)
    b = torch.randn(512, 1024, device=DEVICE, dtype=kind)
    torch.mm(a, b)
    seconds = min(_seconds(lambda: torch.mm(a, b)) for _ in range(5))
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds


def _bytes_a_second() -> float:
    """Of reading: a sum over more than any cache holds."""
    x = torch.ones((1 << 30 if DEVICE.type == "cuda" else 1 << 27) // 4, device=DEVICE)
    x.sum()
    return 4 * x.numel() / min(_seconds(x.sum) for _ in range(5))


def _memory(peak: bool = False) -> int:
    """Bytes that the process, or its tensors on the GPU, take now, or took at most since it was asked for the present."""
    if DEVICE.type == "cuda":
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the highest mark
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _seconds(call: Callable[[], Any]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _machine() -> str:
    return torch.cuda.get_device_name(0) if DEVICE.type == "cuda" else f"{torch.get_num_threads()} threads of a CPU"


def _examples(config: GeoToken, images: int) -> Examples:
    rng = np.random.default_rng(0)

    def places(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vectors = rng.normal(size=(count, config.vector_length)).astype(np.float32) / config.vector_length**0.5
        return vectors, np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)

    return Examples(*places(images), rng.integers(0, 500, (images, config.neighbours)), Gallery(*places(500)))
