"""Other tokenisations of a place, trained and compared: levels, levels a token, and country, region, city.

Needs the demo's folder (`.demo`, or GEOBATCH_DEMO): its encoder and gallery. `TRAINED` crops of places of another seed, by the
demo's cameras, are embedded and their neighbours searched once, kept in `.bench/tokens`; every variant is the demo's network
but for its tokens (no place between images, order "hilbert", no relative places, which regions cannot have), learns from the
same images in the same order for the same steps in this process, and is judged on `JUDGED` crops that none saw:

    greedy     the likeliest token at each step
    oracle     the nearest of 30 draws: what the model knows, whatever selects

`python -m tests.bench.bench_tokens [STEPS]` prints the table and a sentence on each variant; few steps say little of what many
would. Of each variant there is one training: intervals are over images, not over trainings, and say nothing of what another
seed of the variant would get.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from geobatch.benchmark.intervals import Bootstrap, Difference, paired_difference
from geobatch.benchmark.metrics import Figures, figures
from geobatch.benchmark.world import World
from geobatch.engine.gallery import load
from geobatch.engine.vision import Vision
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.config import GeoToken, Sampling, Training
from geobatch.methods.geotoken.examples import Examples, Gallery
from geobatch.methods.geotoken.hierarchy import hierarchy
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.tables import column, padded
from geobatch.methods.geotoken.train import Fit
from geobatch.schema import FATE

DEMO = Path(os.environ.get("GEOBATCH_DEMO", ".demo"))
KEPT = Path(".bench/tokens")
TRAINED, JUDGED, SEED = 4000, 1000, 4242
STEPS, BATCH = 300, 128
RIVAL = "S2 level 12, 2 a token"

Floats = NDArray[np.float64]


def variants(vector: int) -> dict[str, GeoToken]:
    """By name; the first is what the demo writes."""
    plain = replace(GeoToken.small(vector), order="hilbert", relative=False, between=False)
    out = {RIVAL: plain}
    for level, group in ((12, 1), (12, 3), (12, 4), (8, 2), (16, 2)):
        out[f"S2 level {level}, {group} a token"] = replace(plain, level=level, group_size=group)
    out["country, region, city"] = replace(plain, tokens="regions", regions=hierarchy(()).sizes)
    return out


def crops(count: int, seed: int) -> tuple[NDArray[np.float32], Floats, Floats]:
    """Vectors and true places; embedded once by each encoder."""
    made = (DEMO / "encoder" / "model.safetensors").stat()
    path = KEPT / f"{count}-{seed}-{made.st_size}-{made.st_mtime_ns}.npz"
    if not path.exists():
        world = World()
        latitude, longitude = world.scatter(count, seed=seed)
        files = world.photograph(latitude, longitude, seed=seed)
        pictures = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in files]
        KEPT.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, vectors=Vision(str(DEMO / "encoder"), batch=256).encode(pictures), places=np.stack([latitude, longitude])
        )
    kept = np.load(path)
    return kept["vectors"], kept["places"][0], kept["places"][1]


def examples(neighbours: int) -> Examples:
    """What is learnt from."""
    gallery = load(DEMO / "gallery")
    vectors, latitude, longitude = crops(TRAINED, SEED)
    near = gallery.search(vectors, neighbours)[1]
    held = Gallery(gallery.vectors(np.arange(len(gallery))), gallery.latitude, gallery.longitude)
    return Examples(vectors, latitude, longitude, near, held)


def judge(config: GeoToken, seen: Examples, steps: int) -> tuple[dict[str, Floats], dict[str, float]]:
    """Distances of the judged crops in km, and what the network took."""
    training = replace(Training.small(), steps=steps, batch=BATCH, warm_up=max(1, steps // 10))
    fit = Fit(config, training, seen)
    began = time.process_time()
    while fit.step < fit.steps:
        fit.advance()
    seconds = time.process_time() - began
    assert isinstance(fit.model, GeoTokenModel)
    network = fit.model.eval()
    vectors, latitude, longitude = crops(JUDGED, SEED + 1)
    nothing = {field.name: pa.nulls(JUDGED, field.type) for field in FATE}
    rows = pa.array(list(vectors), pa.list_(pa.float32()))
    asked = pa.table({"image_id": [f"{row:06d}" for row in range(JUDGED)], "vector": rows, **nothing})
    asked = Retrieve(str(DEMO / "gallery"), config.neighbours, False)(asked)
    out = {}
    for name, how in (("greedy", Sampling(decode=("greedy",))), ("oracle", Sampling())):
        found = Sample(network, how)(asked)
        north, east = (padded(column(found, "candidates", axis), np.nan) for axis in ("latitude", "longitude"))
        out[name] = np.nanmin(haversine_km(north, east, latitude[:, None], longitude[:, None]), axis=1)
    return out, {"seconds": seconds, "parameters": network.parameters_in_all, "tokens": config.length}


def run(steps: int = STEPS) -> list[dict[str, object]]:
    """A row for each variant, the rival first."""
    return list(rows_of(steps))


def rows_of(steps: int) -> Iterator[dict[str, object]]:
    """The same, each as soon as it is trained."""
    if not (DEMO / "gallery").is_dir():
        raise SystemExit(f"{DEMO} holds no demo; run jobs/demo.py first")
    kinds = variants(load(DEMO / "gallery").dimension)
    seen = examples(kinds[RIVAL].neighbours)
    how = Bootstrap(resamples=2000)
    first: dict[str, Floats] = {}
    for name, config in kinds.items():
        km, cost = judge(config, seen, steps)
        first = first or km
        of = {way: figures(each, bootstrap=how) for way, each in km.items()}
        difference = paired_difference(km["greedy"], first["greedy"], 200, how)
        yield {
            "name": f"tokens: {name}, {steps} steps of {BATCH}",
            "rival": f"{RIVAL} (median km, greedy)",
            "ratio": float(np.median(first["greedy"]) / of["greedy"].median_km),
            "measured": (
                f"{cost['tokens']:.0f} tokens, {cost['parameters'] / 1e6:.2f} M parameters, {cost['seconds']:.0f} s "
                f"of CPU; "
                f"greedy {_told(of['greedy'])}; oracle of 30 {_told(of['oracle'])}; over the rival within 200 km "
                f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] "
                "(one training each: the interval is over images, not over trainings)"
            ),
            "shows": sentence(name, difference, of["greedy"].median_km, of["oracle"].median_km) if km is not first else "",
        }


def sentence(name: str, difference: Difference, greedy: float, oracle: float) -> str:
    """What a variant shows beside the rival; of each, the median distance in km of its greedy answer and of its best draw."""
    than = ("no surely other share than", "surely more than", "surely fewer than")[difference.sure]
    lost = (
        f"its best of 30 draws lies {greedy / oracle:.1f} times nearer than its greedy answer, which a better choice could win"
        if oracle < greedy
        else "none of its 30 draws is nearer than its greedy answer, so that no choice could win anything"
    )
    return (
        f"{name} places {than} {RIVAL} within 200 km ({100 * difference.value:+.1f} points of {JUDGED} images); in the median "
        f"{lost}"
    )


def _told(one: Figures) -> str:
    return "/".join(f"{100 * share.value:.1f}" for share in one.shares) + f" %, median {one.median_km:.0f} km"


if __name__ == "__main__":
    for each in rows_of(int(sys.argv[1]) if sys.argv[1:] else STEPS):
        print(f"{each['ratio']:8.2f} x  {each['name']}, against {each['rival']}: {each['measured']}", flush=True)
        if each["shows"]:
            print(f"            {each['shows']}", flush=True)
