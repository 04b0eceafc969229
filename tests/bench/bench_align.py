"""Geo-Alignment: what stored vectors save, what gradient caching saves and costs, and how fast vectors are read."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from torch import Tensor

from geobatch.engine.pixels import Pixels
from geobatch.engine.vision import Vision
from geobatch.methods.geotoken.align import Align
from geobatch.methods.geotoken.alignment import Alignment
from geobatch.methods.geotoken.features import Features, index
from geobatch.methods.geotoken.pack import pack

PAPER = replace(Align.paper(text=False), batch=8, precision="float32")
COUNT = 8


def encoder(folder: Path) -> None:
    """CLIP ViT-B/32's image half with random weights: of one form with ViT-L/14."""
    folder.mkdir()
    config = transformers.CLIPVisionConfig()
    torch.manual_seed(0)  # the config's defaults are ViT-B/32's
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    Pixels(size=(224, 224), mean=(0.48,) * 3, deviation=(0.27,) * 3).save(folder)


def data(folder: Path) -> None:
    """Pictures of noise, and their vectors as a table."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (COUNT, 224, 224, 3), np.uint8)
    places = rng.uniform(-60, 60, (COUNT, 2))
    columns = {
        "picture": pa.array([picture.tobytes() for picture in pictures], pa.large_binary()),
        "picture_width": [224] * COUNT,
        "picture_height": [224] * COUNT,
        "latitude": places[:, 0],
        "longitude": places[:, 1],
    }
    pack([pa.table(columns)], folder / "pictures", Pixels(size=(224, 224)))
    vectors = Vision(str(folder / "encoder"), batch=16, precision="float32").encode(pictures)
    index([(table(folder / "some.parquet", vectors, places), [])], folder / "vectors")


def table(path: Path, vectors: np.ndarray, places: np.ndarray, group: int = 4096) -> Path:
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]).cast(pa.list_(pa.float32())),
        "latitude": places[:, 0],
        "longitude": places[:, 1],
        "status": ["placed"] * len(vectors),
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=group)
    return path


def seconds(*steps: Callable[[], object], rounds: int = 5) -> list[float]:
    """Median CPU seconds of each, in turn; the first round is not counted."""
    spent: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for row, step in enumerate(steps):
            started = time.process_time()
            step()
            if number:
                spent[row].append(time.process_time() - started)
    return [statistics.median(each) for each in spent]


def kept(alignment: Alignment) -> int:
    """The most bytes beside parameters that autograd holds for a backward pass at any time in a step."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in alignment.towers.parameters()}
    holders: Counter[int] = Counter()
    live = most = 0

    class Held:
        def __init__(self, value: Tensor) -> None:
            nonlocal live, most
            storage = value.untyped_storage()
            self.value, self.at, self.size = value, storage.data_ptr(), storage.nbytes()
            holders[self.at] += 1
            if self.at not in weights and holders[self.at] == 1:
                live += self.size
                most = max(most, live)

        def __del__(self) -> None:
            nonlocal live
            holders[self.at] -= 1
            if self.at not in weights and not holders[self.at]:
                live -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.value):
        alignment.advance()
    return most


def run() -> list[dict[str, object]]:
    """See the file's docstring."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        encoder(folder / "encoder")
        data(folder)

        def begun(where: str, **settings: object) -> Alignment:
            return Alignment(replace(PAPER, **settings), str(folder / "encoder"), folder / where)  # type: ignore[arg-type]

        pictures, vectors = begun("pictures"), begun("vectors")
        seen, stored = seconds(pictures.advance, vectors.advance, rounds=2)
        lora = {"lora_rank": 8, "views": ("image", "location")}
        whole, pieces = begun("pictures", **lora), begun("pictures", micro_batch=2, **lora)
        plain, cached = seconds(whole.advance, pieces.advance, rounds=2)
        held, cut = kept(whole), kept(pieces)
        del pictures, vectors, whole, pieces
        return [
            {
                "name": "a step from stored vectors",
                "rival": "the same step from pictures, through the frozen encoder",
                "ratio": seen / stored,
                "measured": f"{stored:.2f} s against {seen:.2f} s of one core for 8 pictures and CLIP ViT-B/32",
            },
            {
                "name": "memory for the backward pass in pieces of 2",
                "rival": "the whole batch of 8 at once, LoRA on ViT-B/32",
                "ratio": held / cut,
                "measured": f"{cut / 2**20:.0f} MiB against {held / 2**20:.0f} MiB, same gradients",
            },
            {
                "name": "speed of such a step in pieces",
                "rival": "the whole batch at once",
                "ratio": plain / cached,
                "measured": f"{cached:.2f} s against {plain:.2f} s of one core; the price is a forward pass",
            },
            reading(folder),
        ]


def reading(folder: Path, rows: int = 30_000) -> dict[str, object]:
    """Batches of 256 from Parquet, against a plain matrix in memory."""
    rng = np.random.default_rng(1)
    matrix, places = rng.normal(size=(rows, 768)).astype(np.float32), rng.uniform(-60, 60, (rows, 2))
    index([(table(folder / "many.parquet", matrix, places), [])], folder / "many")
    features = Features(folder / "many", 256, 8_192, 0)
    order = rng.permutation(rows)

    def streamed() -> None:
        for step in range(rows // 256):
            features.batch(step)

    def taken() -> None:
        for at in range(0, rows - 255, 256):
            _ = matrix[order[at : at + 256]], places[order[at : at + 256]]

    stream, memory = seconds(streamed, taken, rounds=2)
    return {
        "name": "an epoch of stored vectors, 8,192 of them in memory",
        "rival": "rows of a matrix that is all in memory",
        "ratio": memory / stream,
        "measured": f"{rows / stream:,.0f} rows of 768 a second of one core against {rows / memory:,.0f}; "
        f"4 million take {4e6 / rows * stream / 60:.1f} min",
    }
