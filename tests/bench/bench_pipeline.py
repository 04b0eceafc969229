"""The main job's river on Ray against the same stages called in a plain loop by as many processes as cores.

Both read the demo's archive and use the demo's model (`make demo` first), from a folder, so that no S3 server shares the
cores; both write parts and commits. Start-up is left out of both: the plain loop starts its clock when every process has
made its stages and done one slice; the river's clock runs from the commit of a slice by which every pool was warm to the
last commit, over the images between. A plain loop is the upper bound that needs no scheduler and survives nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from geobatch.actors import Hands, Slice, cores, run_river, start
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.source import Read
from geobatch.image import DecodeConfig
from geobatch.methods.geotoken import locate
from geobatch.pipeline.flow import Flow, _freeze
from geobatch.pipeline.geolocate import decoding
from geobatch.sink import Run, Stamp, Write, begin, open_run
from geobatch.store import Store, StoreConfig

DEMO = Path(".demo")
SHARD_ROWS, ROUNDS, COPIES = 128, 3, 2


def run() -> list[dict[str, object]]:
    """Medians of three alternating rounds."""
    if not (DEMO / "figures.json").exists():
        raise SystemExit("bench_pipeline needs the demo's archive and model; run `make demo` first")
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        archive = Path(scratch) / "archive"
        for copy in range(COPIES):
            shutil.copytree(DEMO / "archive", archive / str(copy))
        pairs = [
            (_plain(archive, Path(scratch) / f"p{n}"), on_ray(archive, Path(scratch) / f"r{n}", _stages()))
            for n in range(ROUNDS)
        ]
    pairs.sort(key=lambda pair: pair[1] / pair[0])
    plain, ours = pairs[len(pairs) // 2]
    return [
        {
            "name": "the river on Ray",
            "rival": f"the same stages in a plain loop, {cores()} processes",
            "ratio": ours / plain,
            "measured": f"{ours:.0f} images a second against {plain:.0f} on {cores()} cores; median of {ROUNDS} alternating "
            f"rounds, ratios {', '.join(f'{b / a:.2f}' for a, b in pairs)}",
        }
    ]


def prepared(archive: Path, output: Path, stages: list[Hands], rows: int) -> tuple[Run, list[pa.Table], list[Hands]]:
    """A frozen run, its tasks, and the river from Read to Write with a method's stages in it."""
    config = ArchiveConfig(uri=str(archive), shard_rows=rows)
    store = StoreConfig()
    run, _ = open_run(Store(store), str(output), method="geotoken", fingerprint="bench", archive={"uri": str(archive)})
    job = Flow(archive=config, output=str(output), store=store, method="geotoken", fingerprint="bench", river=[])
    frozen = _freeze(begin(run), job, Store(store), None)
    assert frozen is not None
    stamp = Stamp(run=run.id, method="geotoken", model="bench")
    river = [
        Hands(stage=Read, make={"archive": config, "store": store, "output": store}, cpus=0.5),
        decoding(DecodeConfig(), cores()),
        *stages,
        Hands(stage=Write, make={"output": str(output), "stamp": stamp, "store": store}, cpus=0.5),
    ]
    return run, list(run.remaining(frozen)), river


def _stages() -> list[Hands]:
    """The demo's method."""
    card = json.loads((DEMO / "model/geobatch.json").read_text())
    return locate.river(DEMO / "model", (DEMO / "model" / card["gallery"]).resolve(), locate.Locate(), cores())


def on_ray(archive: Path, output: Path, stages: list[Hands], rows: int = SHARD_ROWS) -> float:
    """Images a second between the first commit that found every pool warm and the last."""
    _, tasks, river = prepared(archive, output, stages, rows)
    start(river)
    seen: list[tuple[float, int]] = []
    for block in run_river(tasks, river):
        seen += [(time.perf_counter(), count) for count in block["read"].to_pylist()]
    ray.shutdown()
    warm = len(seen) // 3  # by then every actor of every pool has had its first slice
    return sum(count for _, count in seen[warm + 1 :]) / (seen[-1][0] - seen[warm][0])


def _plain(archive: Path, output: Path) -> float:
    """Images a second of as many processes as cores, each running every stage on its share of the shards."""
    _, tasks, river = prepared(archive, output, _stages(), SHARD_ROWS)
    context = multiprocessing.get_context("spawn")
    ready, go, counts = context.Barrier(cores() + 1), context.Event(), context.Queue()
    shares = [tasks[each :: cores()] for each in range(cores())]
    processes = [context.Process(target=_loop, args=(share, river, ready, go, counts)) for share in shares]
    for process in processes:
        process.start()
    ready.wait(300)
    started = time.perf_counter()
    go.set()
    images = sum(counts.get(timeout=600) for _ in processes)
    spent = time.perf_counter() - started
    for process in processes:
        process.join()
    return images / spent


def _loop(tasks: list[pa.Table], river: list[Hands], ready: Any, go: Any, counts: Any) -> None:
    import torch

    torch.set_num_threads(1)
    read, *stages, write = [hands() for hands in river]
    pieces = (piece for task in tasks for piece in read(task))
    images = 0
    _through(next(pieces), stages, write)  # every library has made its buffers
    ready.wait(300)
    go.wait()
    for piece in pieces:
        images += _through(piece, stages, write)
    counts.put(images)


def _through(piece: Slice, stages: list[Any], write: Write) -> int:
    rows = piece.rows
    for stage in stages:
        rows = stage(rows)
    write(Slice(shard=piece.shard, number=piece.number, last=piece.last, end=piece.end, skipped=piece.skipped, rows=rows))
    return len(rows)
