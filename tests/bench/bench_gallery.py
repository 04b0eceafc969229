"""A million places as GeoCLIP's location encoder sees them: the index the builder takes, against FAISS's flat search.

Ten places some kilometres (σ = 5) around each of GeoCLIP's 100,000 coordinates go through its published location encoder: real,
trained vectors with the structure that a gallery has. Queries are 768 further places of the same kind, which the gallery does
not hold. Both sides answer the same batches of 256 on this process's two threads, in alternating rounds. Build, append and
search run in processes of their own, whose peak memory is stated; pages of mapped files count in it while they are mapped.

The features take minutes to compute and are kept in `.bench/`. `GEOBATCH_GALLERY_ROWS` asks for fewer than a million rows.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch

from geobatch.engine.gallery import Gallery, Indexing, append, build, load
from geobatch.engine.gallery.sharded import Part, open_sharded, parts
from geobatch.engine.gallery.stored import merged
from geobatch.engine.gps import LocationEncoder
from geobatch.methods.geoclip.weights import find
from geobatch.service import Service
from tests.bench import areas

ROWS = int(os.environ.get("GEOBATCH_GALLERY_ROWS", "1000000"))
QUERIES, BATCH, K, ROUNDS, SIZE = 2_000, 256, 15, 3, 512
ASKED = 768  # of the queries: flat search of a million takes 20 ms each on a core
APPENDED = ROWS // 100
FORMLESS = 200_000
FEATURES = Path(".bench")


def run() -> list[dict[str, object]]:
    """Each step is a process: features, build, search, areas, append, shards, formless."""
    FEATURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FEATURES) as scratch:
        said = {}
        for step in ("features", "build", "search", "areas", "append", "shards", "formless"):
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.bench_gallery", step, scratch],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            said[step] = json.loads(done.stdout.splitlines()[-1])
    return _rows(said)


def _rows(said: dict[str, dict[str, Any]]) -> list[dict[str, object]]:
    made, search, area = (said[step] for step in ("build", "search", "areas"))
    more, split, none = (said[step] for step in ("append", "shards", "formless"))
    what = f"{ROWS:,} × {SIZE} location features of GeoCLIP"
    return [
        {
            "name": f"gallery search ({search['kind']}), {what}",
            "rival": "FAISS IndexFlatIP, float32",
            "ratio": search["flat"] / search["ours"],
            "measured": (
                f"{search['ours']:.3f} ms a query against {search['flat']:.2f}, recall@10 {search['recall10']:.4f} and "
                f"recall@15 {search['recall']:.4f} on {ASKED:,} queries that the builder never saw; the builder measured: "
                f"{made['says']}; batches of {BATCH}, 2 threads, median of {ROUNDS} alternating rounds; opening takes "
                f"{search['open']:.2f} s, peak memory {search['peak']:,} MiB"
            ),
        },
        *areas.rows(area, what),
        {
            "name": f"appending {APPENDED:,} images to {what}",
            "rival": "building the gallery anew",
            "ratio": made["seconds"] / more["seconds"],
            "measured": (
                f"{more['seconds']:.1f} s against {made['seconds']:.0f}; recall@15 of the appended {more['recall']:.4f}; peak "
                f"memory {more['peak']:,} MiB against {made['peak']:,} (the vectors in float32 are {ROWS * SIZE * 4 >> 20:,})"
            ),
        },
        {
            "name": f"two shards of that gallery, {what}",
            "rival": "the whole gallery in one process",
            "ratio": split["recall"] / split["whole"],
            "measured": (
                f"recall@15 {split['recall']:.4f} against {split['whole']:.4f}, the same rows in {split['same']:.2%} of the "
                f"answers and in {split['flat_same']:.2%} with flat search; entries of the index {split['entries']}"
            ),
        },
        {
            "name": f"{FORMLESS:,} × {SIZE} independent vectors keep flat search",
            "rival": "the best index that was tried",
            "ratio": 1 / max(trial["speed_up"] * (trial["recall"] >= 0.99) or 1e-9 for trial in none["tried"])
            if any(trial["recall"] >= 0.99 for trial in none["tried"])
            else float("inf"),
            "measured": f"{none['says']} ({none['seconds']:.0f} s, peak memory {none['peak']:,} MiB)",
        },
    ]


def features(_: Path) -> dict[str, Any]:
    """Vectors of the gallery, of what is appended and of the queries, in one array; places beside them."""
    wanted = ROWS + APPENDED + QUERIES
    target = FEATURES / f"gallery_{wanted}.npy"
    if target.exists():
        return {"kept": True}
    rng = np.random.default_rng(0)
    around = np.loadtxt(find().places, delimiter=",", skiprows=1)
    at = np.repeat(around, -(-wanted // len(around)), axis=0)
    at = at[rng.permutation(len(at))[:wanted]]
    step = rng.normal(0, 5 / 111.2, at.shape)
    at[:, 0] = np.clip(at[:, 0] + step[:, 0], -90, 90)
    at[:, 1] = (at[:, 1] + step[:, 1] / np.cos(np.radians(np.clip(at[:, 0], -85, 85))) + 180) % 360 - 180
    encoder = LocationEncoder.geoclip()
    part, done = Path(f"{target}.part"), Path(f"{target}.done")
    first = int(done.read_text()) if done.exists() and part.exists() else 0
    out = np.lib.format.open_memmap(part, "r+" if first else "w+", np.float32, (wanted, SIZE))
    with torch.inference_mode():
        for start in range(first, wanted, 8192):
            some = torch.from_numpy(at[start : start + 8192])
            out[start : start + len(some)] = encoder(some[:, 0], some[:, 1]).numpy()
            done.write_text(str(start + len(some)))  # an interrupted computation goes on from here
    out.flush()
    np.save(FEATURES / f"gallery_{wanted}_places.npy", at)
    part.replace(target)
    done.unlink()
    return {"kept": False}


def _data() -> tuple[np.ndarray, np.ndarray]:
    wanted = ROWS + APPENDED + QUERIES
    return np.load(FEATURES / f"gallery_{wanted}.npy", mmap_mode="r"), np.load(FEATURES / f"gallery_{wanted}_places.npy")


def _tables(vectors: np.ndarray, at: np.ndarray, first: int, last: int) -> Iterator[pa.Table]:
    for start in range(first, last, 5_000):
        stop = min(start + 5_000, last)
        block = np.array(vectors[start:stop])
        if isinstance(vectors, np.memmap):
            vectors._mmap.madvise(4)  # MADV_DONTNEED: the source is not the builder's memory
        lists = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1]).cast(pa.list_(pa.float32()))
        ids = [f"i{row:08d}" for row in range(start, stop)]
        yield pa.table({"image_id": ids, "latitude": at[start:stop, 0], "longitude": at[start:stop, 1], "vector": lists})


def step_build(scratch: Path) -> dict[str, Any]:
    started = time.perf_counter()
    gallery = build(scratch / "gallery", _tables(*_data(), 0, ROWS), indexing=Indexing(precision="float16"))
    return {"seconds": time.perf_counter() - started, "says": gallery.record["measured"]["says"], "peak": _peak()}


def step_search(scratch: Path) -> dict[str, Any]:
    started = time.perf_counter()
    gallery = load(scratch / "gallery")
    queries = np.array(_data()[0][-QUERIES:])[:ASKED]
    gallery.search(queries[:1], K)
    opened = time.perf_counter() - started
    spent: dict[str, list[float]] = {"ours": [], "flat": []}
    rows = _batches(lambda some: gallery.search(some, K)[1], queries)[0]
    peak = _peak()
    index = faiss.IndexFlatIP(SIZE)
    for start in range(0, ROWS, 65_536):
        index.add(np.array(_data()[0][start : min(start + 65_536, ROWS)]))
    truth = _batches(lambda some: index.search(some, K)[1], queries)[0]
    for turn in range(ROUNDS):
        some = queries[turn * BATCH : (turn + 1) * BATCH]
        spent["flat"].append(_batches(lambda each: index.search(each, K)[1], some)[1])
        spent["ours"].append(_batches(lambda each: gallery.search(each, K)[1], some)[1])
    np.save(scratch / "truth.npy", truth)
    return {
        "kind": gallery.record["kind"],
        "recall": _recall(rows, truth),
        "recall10": _recall(rows[:, :10], truth[:, :10]),
        "open": opened,
        "peak": peak,
        **{name: 1e3 * median(each) for name, each in spent.items()},
    }


def step_areas(scratch: Path) -> dict[str, Any]:
    vectors, places = _data()
    return areas.measured(load(scratch / "gallery"), vectors, np.array(vectors[-QUERIES:]), places[-QUERIES:])


def step_append(scratch: Path) -> dict[str, Any]:
    started = time.perf_counter()
    gallery = append(scratch / "gallery", _tables(*_data(), ROWS, ROWS + APPENDED))
    seconds = time.perf_counter() - started
    own = np.arange(ROWS, ROWS + min(APPENDED, 500))
    rows = gallery.search(gallery.vectors(own), K)[1]
    truth = gallery._finder.stored.search(gallery.vectors(own), K)[1]  # type: ignore[attr-defined]
    return {"seconds": seconds, "recall": _recall(rows, truth), "peak": _peak()}


def step_shards(scratch: Path) -> dict[str, Any]:
    folder, queries = scratch / "gallery", np.array(_data()[0][-QUERIES:])[:512]
    whole = load(folder)
    service = Service("gallery", Part, parts(str(folder), 2, threads=2))
    split = open_sharded(folder, service.ask)
    truth = whole._finder.stored.search(queries, K)[1]  # type: ignore[attr-defined]
    ours, theirs = split.search(queries, K)[1], whole.search(queries, K)[1]
    flat = split._finder.ask("search", queries[:256], K, True)  # type: ignore[attr-defined]
    return {
        "recall": _recall(ours, truth),
        "whole": _recall(theirs, truth),
        "same": float((ours == theirs).mean()),
        "flat_same": float((merged(flat, K)[1] == truth[:256]).mean()),
        "entries": " and ".join(f"{part.index.faiss.ntotal:,}" for part in service._here if part.index is not None),
    }


def step_formless(scratch: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((FORMLESS, SIZE), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    at = np.stack([rng.uniform(-80, 80, FORMLESS), rng.uniform(-180, 180, FORMLESS)], axis=1)
    started = time.perf_counter()
    gallery: Gallery = build(scratch / "formless", _tables(vectors, at, 0, FORMLESS))
    if gallery.record["kind"] != "flat":
        raise AssertionError(f"an index for vectors without structure: {gallery.record['measured']}")
    return {**gallery.record["measured"], "seconds": time.perf_counter() - started, "peak": _peak()}


def _batches(ask: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows found, and seconds a query."""
    started = time.perf_counter()
    found = [ask(queries[start : start + BATCH]) for start in range(0, len(queries), BATCH)]
    return np.concatenate(found), (time.perf_counter() - started) / len(queries)


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def _peak() -> int:
    """MiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    steps: dict[str, Callable[[Path], dict[str, Any]]] = {
        "features": features,
        "build": step_build,
        "search": step_search,
        "areas": step_areas,
        "append": step_append,
        "shards": step_shards,
        "formless": step_formless,
    }
    sys.stdout.write(json.dumps(steps[sys.argv[1]](Path(sys.argv[2]))) + "\n")
