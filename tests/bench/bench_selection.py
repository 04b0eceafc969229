"""Which choice is best, and which doubt is true: every selector on 4,000 crops of the embedded world that no fit saw.

Needs the demo's folder (`.demo`, or GEOBATCH_DEMO): its encoder, gallery and model. 6,000 further crops are cut by the
demo's cameras at places of another seed, embedded and searched once and kept in `.bench/selection`; 2,000 of them fit
calibrations, 4,000 judge. Each setting draws anew and has a calibration of its own:

    with neighbours       as the demo locates
    without neighbours    the network gets none, and none are in the pool: what it knows by itself

and each is done for every model there is: the demo's, and what `python -m tests.bench.bench_selection train` makes of the
demo's training crops (half an hour): a model trained with blackouts, one with distance smoothing, a reward network for the
demo's, and an encoder aligned with a location encoder, for GeoCLIP-style retrieval of the gallery's places. A line is a way to
choose, with the shares within 1/25/200/750/2500 km. Behind it: ours less log-probability with the paired 95 % interval, and the
share of the gap to the oracle that is closed at 25 km, with the interval of 2,000 resamplings of the crops.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from geobatch.benchmark.metrics import Bootstrap, calibration, paired_difference, share_interval, shares
from geobatch.benchmark.world import World
from geobatch.engine.gallery import load
from geobatch.engine.gps import LocationEncoder
from geobatch.engine.vision import Vision
from geobatch.geo import cell, s2
from geobatch.geo.distance import haversine_km
from geobatch.methods.geoclip.locate import aligned
from geobatch.methods.geoclip.match import Match
from geobatch.methods.geotoken.calibrate import fit
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.config import Sampling, Selection, Selector
from geobatch.methods.geotoken.locate import NETWORK
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.pool import pool
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.methods.geotoken.reward import REWARD, Reward
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.select import Select
from geobatch.pipeline.folder import CARD
from geobatch.schema import FATE, NEIGHBOURS, RADII_KM, probability_column

DEMO = Path(os.environ.get("GEOBATCH_DEMO", ".demo"))
KEPT = Path(".bench/selection")
CROPS, FITTED, SEED = 6000, 2000, 771
BLACKOUT = KEPT / "blackout"  # a model trained so that neighbours may fail
SMOOTHED = KEPT / "smoothed"  # a model whose targets say how far off a wrong token is
REWARDED = KEPT / "rewarded"  # the demo's model and a reward network
BOTH = KEPT / "both"  # an encoder aligned with coordinates, too

Floats = NDArray[np.float64]
Distances = dict[str, Floats]

OURS, SCORE, ORACLE, POOL = "expected share", "log-probability", "oracle of the samples", "oracle of the pool"


def queries(folder: Path = DEMO / "encoder") -> pa.Table:
    """`image_id`, `vector`, and the truth, of all crops; embedded once by each encoder."""
    encoder = (folder / "model.safetensors").stat()
    path = KEPT / f"queries-{encoder.st_size}-{encoder.st_mtime_ns}.parquet"
    if path.exists():
        return pq.read_table(path)
    world = World()
    latitude, longitude = world.scatter(CROPS, seed=SEED)
    files = world.photograph(latitude, longitude, seed=SEED)
    pictures = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in files]
    vectors = Vision(str(folder), batch=256).encode(pictures)
    table = pa.table(
        {
            "image_id": [f"{row:06d}.jpg" for row in range(CROPS)],
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
            "true_latitude": latitude,
            "true_longitude": longitude,
            **{field.name: pa.nulls(CROPS, field.type) for field in FATE},
        }
    )
    KEPT.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return table


def asked(table: pa.Table, model: Path, near: bool) -> pa.Table:
    """The queries with neighbours, or with one that is missing."""
    network = GeoTokenModel.load(model / NETWORK).config
    if near:
        return Retrieve(str(DEMO / "gallery"), network.neighbours, network.between)(table)
    nobody = pa.array([[dict.fromkeys(field.name for field in NEIGHBOURS.value_type)]] * len(table), NEIGHBOURS)
    vectors = pa.array([[float("nan")] * network.vector_length] * len(table), pa.list_(pa.float32()))
    return table.append_column("neighbours", nobody).append_column("neighbour_vectors", vectors)


def located(model: Path, near: bool) -> pa.Table:
    """The queries with neighbours and all that is drawn; drawn once for each model."""
    weights = [(model / part / "model.safetensors") for part in (NETWORK, REWARD)]
    mark = "-".join(str(path.stat().st_mtime_ns) for path in weights if path.is_file())
    path = KEPT / f"located-{mark}-{'near' if near else 'alone'}.parquet"
    if not path.exists():
        pq.write_table(_drawn(asked(queries(), model, near), model), path)
    return pq.read_table(path)


def _drawn(table: pa.Table, model: Path) -> pa.Table:
    """With candidates, rewards where the model has a reward network, and the greedy place."""
    network = GeoTokenModel.load(model / NETWORK)
    rewarded = (model / REWARD).is_dir()
    greedy = Sample(network, Sampling(decode=("greedy",)), pass_on=True)(table)
    found = Sample(network, Sampling(), pass_on=rewarded)(table)
    if rewarded:
        found = Reward(model / REWARD)(found)
    kept = [name for name in found.column_names if name != "neighbour_vectors"]
    return found.select(kept).append_column("greedy", greedy["candidates"])


def distances(table: pa.Table, fitted: Calibration | None) -> tuple[Distances, pa.Table]:
    """Kilometres from the truth by way of choosing, and the table as ours leaves it."""
    truth = table["true_latitude"].to_numpy(), table["true_longitude"].to_numpy()
    evidence = pool(table, Selection().neighbours)
    gallery = load(DEMO / "gallery")

    def off(latitude: Floats, longitude: Floats) -> Floats:
        return haversine_km(latitude, longitude, *truth)

    every = haversine_km(evidence.latitude, evidence.longitude, truth[0][:, None], truth[1][:, None])
    out: Distances = {}
    for at in range(min(2, every.shape[1] - evidence.candidates)):
        kind = ("place between", "nearest image")[at]
        if np.isfinite(every[:, evidence.candidates + at]).any():
            out[kind] = every[:, evidence.candidates + at]
    first = pool(table.set_column(table.column_names.index("candidates"), "candidates", table["greedy"]), 0)
    out["greedy"] = off(first.latitude[:, 0], first.longitude[:, 0])
    ways: list[tuple[str, Selector, Calibration | None]] = [
        (SCORE, "log_probability", None),
        ("similarity", "similarity", None),
        ("expected distance, uncalibrated", "expected_distance", None),
        ("expected share, uncalibrated", "expected_share", None),
    ]
    if (BOTH / LocationEncoder.CONFIG).is_file():
        match = aligned(BOTH, DEMO / "gallery")
        found = Match(**match.make, cache=str(KEPT / "places"))(queries(BOTH).slice(FITTED))
        out["GeoCLIP-style retrieval"] = off(found["latitude"].to_numpy(), found["longitude"].to_numpy())
    if "rewards" in table.column_names:
        ways.append(("reward", "reward", None))
    if fitted is not None:
        ways += [("expected distance", "expected_distance", fitted), (OURS, "expected_share", fitted)]
    placed = table
    for name, selector, with_calibration in ways:
        images = gallery if selector == "similarity" else None  # three seconds a look-up of 110,000 candidates
        placed = Select(Selection(selector=selector), images, with_calibration)(table.drop_columns("greedy"))
        out[name] = off(placed["latitude"].to_numpy(), placed["longitude"].to_numpy())
    out[ORACLE] = np.nanmin(every[:, : evidence.candidates], axis=1)
    out[POOL] = np.nanmin(every, axis=1)
    return out, placed


def gap_closed(far: Distances, ours: str, km: float = 25, resamples: int = 2000) -> tuple[float, float, float]:
    """Share of the gap between log-probability and the oracle of the samples that ours closes, and its 95 % interval."""
    hits = np.stack([far[name] <= km for name in (ours, SCORE, ORACLE)]).astype(np.float64)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        mine, score, oracle = hits[:, rng.integers(0, hits.shape[1], hits.shape[1])].mean(axis=1)
        drawn.append((mine - score) / max(oracle - score, 1e-9))
    mine, score, oracle = hits.mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return (mine - score) / max(oracle - score, 1e-9), float(low), float(high)


def run() -> list[dict[str, object]]:
    """Rows for each model and each setting."""
    if not (DEMO / "model").is_dir():
        raise SystemExit(f"{DEMO} holds no demo; run jobs/demo.py first")
    torch.set_num_threads(max(1, torch.get_num_threads()))
    return [row for name, model in models().items() for near in (True, False) for row in rows_of(name, model, near)]


def models() -> dict[str, Path]:
    """By what tells them apart."""
    first = REWARDED if (REWARDED / REWARD).is_dir() else DEMO / "model"
    others = {"trained with blackouts": BLACKOUT, "trained with distance smoothing": SMOOTHED}
    return {"the demo's model": first, **{name: model for name, model in others.items() if (model / CARD).is_file()}}


def rows_of(name: str, model: Path, near: bool) -> Iterator[dict[str, object]]:
    """Choosing, then doubting."""
    table = located(model, near)
    seen, unseen = table.slice(0, FITTED), table.slice(FITTED)
    fitted = fit(seen, seen["true_latitude"].to_numpy(), seen["true_longitude"].to_numpy())
    far, table = distances(unseen, fitted)
    setting = f"{name}, {'with' if near else 'without'} neighbours"
    missed = {way: 1 - float(shares(far[way])[1]) for way in (OURS, SCORE)}
    yield {
        "name": f"minimum expected loss over the calibrated posterior, {setting}",
        "rival": "log-probability (images missed at 25 km)",
        "ratio": missed[SCORE] / missed[OURS],
        "measured": f"{len(unseen):,} crops; " + "; ".join(_told(far, way) for way in far) + f"; {_better(far)}",
    }
    yield from _doubts(table, far[OURS], setting)


def _told(far: Distances, way: str) -> str:
    figures = "/".join(f"{100 * share:.1f}" for share in shares(far[way]))
    return f"{way} {figures}" + ("" if np.isfinite(far[way]).all() else f" ({int(np.isnan(far[way]).sum())} without)")


def _better(far: Distances) -> str:
    found = {km: paired_difference(far[OURS], far[SCORE], km) for km in RADII_KM}
    less = ", ".join(
        f"{km} km {100 * one.value:+.2f} [{100 * one.low:+.2f}, {100 * one.high:+.2f}]" for km, one in found.items()
    )
    worse = [km for km, one in found.items() if one.high < 0]
    gap = " ".join(f"{100 * each:.0f}" for each in gap_closed(far, OURS))
    return (
        f"over log-probability {less}; worse beyond its interval at {worse or 'no radius'}; % of the gap to the oracle of the "
        f"samples closed at 25 km, low, high: {gap}"
    )


def _doubts(table: pa.Table, km: Floats, setting: str) -> Iterator[dict[str, object]]:
    for radius in (25, 200):
        one = calibration(table[probability_column(radius)].to_numpy(), km, radius)
        yield {
            "name": f"probability within {radius} km, {setting}",
            "rival": "the best constant (log loss)",
            "ratio": one.constant_loss / one.log_loss,
            "measured": (
                f"log loss {one.log_loss:.4f} against {one.constant_loss:.4f}, expected calibration error {one.error:.4f}, "
                f"states {one.stated:.3f} where {one.true:.3f} is true"
            ),
        }
    said = table["radius_90_km"].to_numpy().astype(np.float64)
    held = share_interval(float(np.mean(km <= said)), len(km), Bootstrap(resamples=2000))
    ids = [token for token in table["area"].to_pylist() if token is not None]
    there = np.array([token is not None for token in table["area"].to_pylist()])
    truth = table["true_latitude"].to_numpy()[there], table["true_longitude"].to_numpy()[there]
    areas = cell.holds(s2.parse_cell_tokens(ids), *truth) if ids else np.zeros(1)
    yield {
        "name": f"90 % radius, {setting}",
        "rival": "one radius for all that holds as many (median km)",
        "ratio": float(np.quantile(km, held.value) / np.median(said)),
        "measured": (
            f"holds {100 * held.value:.1f} % [{100 * held.low:.1f}, {100 * held.high:.1f}], median {np.median(said):.0f} km; "
            f"areas: {100 * there.mean():.1f} % of crops have one, {100 * float(np.mean(areas)):.1f} % of these hold the truth"
        ),
    }


def train() -> None:
    """`BLACKOUT`, `SMOOTHED`, `REWARDED` and `BOTH`, those that are not there yet, each by the job that a user runs."""
    from geobatch.pipeline.align import GeoTokenAlign, align_encoder
    from geobatch.pipeline.train import GeoTokenTrain
    from geobatch.pipeline.train import train as job

    archive, truth, encoder, gallery = (str(DEMO / name) for name in ("training", "training.csv", "encoder", "gallery"))
    rest = {"archive": archive, "truth": truth, "encoder": encoder, "gallery": gallery, "preset": "small"}
    if not (BLACKOUT / CARD).is_file():
        job(GeoTokenTrain(**rest, output=str(BLACKOUT), blackout=0.3, neighbour_dropout=0.1))
    if not (SMOOTHED / CARD).is_file():
        job(GeoTokenTrain(**rest, output=str(SMOOTHED), smoothing_km=12.0))
    if not (REWARDED / REWARD).is_dir():
        shutil.copytree(DEMO / "model", REWARDED, dirs_exist_ok=True)
        job(GeoTokenTrain(**rest, output=str(REWARDED), reward="only"))
    if not (BOTH / LocationEncoder.CONFIG).is_file():
        align_encoder(GeoTokenAlign(archive=archive, truth=truth, output=str(BOTH), preset="small", against="both"))


if __name__ == "__main__":
    if sys.argv[1:] == ["train"]:
        train()
    else:
        for each in run():
            print(f"{each['ratio']:8.2f} x  {each['name']}, against {each['rival']}: {each['measured']}", flush=True)
