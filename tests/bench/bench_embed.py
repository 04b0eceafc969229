"""Texts and tiles embedded a second: `transformers` in batches and vLLM behind the desk, against a plain loop.

The rival is what a script does: processor, network, last hidden state, one text or tile after the other. A SmolVLM with
random weights, 256 wide and 8 layers deep, tiles of 64 pixels; texts of 4 to 60 words. All three compute the same float32
vectors, in turn, and must agree. Each computes on one thread (two on a busy machine wait for each other: 2 s a text instead of
0.1); vLLM reads prompts in one process and computes in another, so processor time of all is told beside. Start-up is left out.

Beside it: what arithmetic gains at the widths of a published model, one layer of InternVL3.5-1B's feed-forward.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from torch import nn

from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.quantise import quantise
from geobatch.methods.ngcg.serve import Model, Serving, open_embedder
from tests.engine import tiny_towers

TEXTS, TILES, ROUNDS, WIDTH, LAYERS = 192, 64, 3, 256, 8
WORDS = "coast river desert forest hills mountains north south lake island city snow plains land water road".split()  # noqa: SIM905


def run() -> list[dict[str, object]]:
    """Medians of alternating rounds."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(max(os.sched_getaffinity(0))))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = str(tiny_towers.smolvlm(Path(folder) / "model", width=WIDTH, layers=LAYERS, sharpness=6))
            rows = _served(base)
        return [*rows, *_arithmetic()]
    finally:
        torch.set_num_threads(threads)


def _served(base: str) -> list[dict[str, object]]:
    model = Model(base=base, encoding=Encoding())
    names = ("loop", "transformers", "vllm")
    made: list[Any] = [_Loop(base)] + [open_embedder(model, Serving(backend=name, dtype="float32")) for name in names[1:]]
    rows = []
    for what, count, draw in (("texts", TEXTS, _texts), ("tiles", TILES, _tiles)):
        spent: dict[str, list[float]] = {name: [] for name in names}
        worked: dict[str, list[float]] = {name: [] for name in names}
        for number in range(-1, ROUNDS):
            items, keys = draw(number, count), [str(row) for row in range(count)]
            vectors = []
            for name, each in zip(names, made, strict=True):
                began, busy = time.perf_counter(), _processor()
                found = each.texts(keys, items) if what == "texts" else each.pictures(keys, items)
                vectors.append(np.stack(found))
                if number >= 0:
                    spent[name].append(time.perf_counter() - began)
                    worked[name].append(_processor() - busy)
            for name, mine in zip(names[1:], vectors[1:], strict=True):
                worst = float((1 - (mine * vectors[0]).sum(axis=1)).max())
                assert worst < 1e-4, f"{name} is {worst} from the loop's vectors"
        speed = {name: count / sorted(spent[name])[ROUNDS // 2] for name in names}
        busy_ms = {name: 1e3 * sorted(worked[name])[ROUNDS // 2] / count for name in names}
        rows += [
            {
                "name": f"{what} embedded by {said}",
                "rival": "a loop over transformers, one at a time",
                "ratio": speed[name] / speed["loop"],
                "measured": f"{speed[name]:.0f} {what} a second against {speed['loop']:.0f}; processor time of each "
                f"{busy_ms[name]:.1f} ms against {busy_ms['loop']:.1f}; float32, {WIDTH} × {LAYERS} layers",
            }
            for name, said in (("transformers", "transformers in batches"), ("vllm", "vLLM behind the desk"))
        ]
    for each in made[1:]:
        each.close()
    return rows


class _Loop:
    """The plain script."""

    def __init__(self, base: str) -> None:
        self.processor: Any = transformers.AutoProcessor.from_pretrained(base)
        self.network: Any = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()

    @torch.inference_mode()
    def _one(self, **given: Any) -> Any:
        read = self.processor(return_tensors="pt", **given)
        hidden = self.network.model(**read, use_cache=False).last_hidden_state[0, -1]
        return nn.functional.normalize(hidden, dim=0).numpy()

    def texts(self, keys: list[str], texts: list[str]) -> list[Any]:
        return [self._one(text=text) for text in texts]

    def pictures(self, keys: list[str], pictures: list[Any]) -> list[Any]:
        still = {"do_image_splitting": False, "size": {"longest_edge": 64}}
        return [self._one(text="<image>", images=[picture], **still) for picture in pictures]


def _texts(number: int, count: int) -> list[str]:
    noise = np.random.default_rng(number + 1)
    return [" ".join(noise.choice(WORDS, int(noise.integers(4, 60)))) for _ in range(count)]


def _tiles(number: int, count: int) -> list[Any]:
    return list(np.random.default_rng(number + 1).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))


def _arithmetic() -> list[dict[str, object]]:
    """Milliseconds of one feed-forward of InternVL3.5-1B for 1,024 tokens."""

    def layer() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1024, 3072, bias=False), nn.Linear(3072, 1024, bias=False)).eval()

    values = torch.randn(1024, 1024)
    exact, half, eight = layer(), layer().bfloat16(), layer()
    quantise(eight)
    ways = {"float32": lambda: exact(values), "bfloat16": lambda: half(values.bfloat16()), "8-bit": lambda: eight(values)}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(7):
            for name, way in ways.items():
                spent[name].append(_seconds(way))
    least = {name: sorted(each)[len(each) // 2] * 1e3 for name, each in spent.items()}
    return [
        {
            "name": f"a feed-forward of InternVL3.5-1B in {name} arithmetic",
            "rival": "float32",
            "ratio": least["float32"] / least[name],
            "measured": f"{least[name]:.1f} ms for 1,024 tokens against {least['float32']:.1f}, one thread",
        }
        for name in ("bfloat16", "8-bit")
    ]


def _processor() -> float:
    """Seconds of processor time of this process and its children."""
    here = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in [here, *here.children(recursive=True)])


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    for row in run():
        print(f"{row['ratio']:8.2f} x  {row['name']}: {row['measured']}")
