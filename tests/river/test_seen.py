"""A run as it is seen from outside: estimated before, counted and logged while it works, accounted for at its end.

One Ray for all of it, whose metrics port is really scraped. The stage that sleeps a known time holds half a GPU that does not
exist, kills its worker once and rejects a known share.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as but
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from geobatch import metrics
from geobatch.actors import Hands, start
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import Rejection
from geobatch.pipeline import estimate as estimates
from geobatch.pipeline.account import Account
from geobatch.pipeline.estimate import estimate
from geobatch.pipeline.flow import Flow, flow
from geobatch.pipeline.frozen import expected
from geobatch.pipeline.journal import Journal
from geobatch.pipeline.machines import Node, nodes
from geobatch.pipeline.prices import Prices
from geobatch.pipeline.sample import Sample
from geobatch.stage import rejected
from geobatch.store import Store, StoreConfig
from tests.river.job import ROOT
from tests.sink.rows import located

IMAGES, SLICE, SLEEP, WORKERS = 240, 8, 0.02, 2
PRICES = Prices(own={"this machine": 3.6})

#: Whole run, estimated over measured, at most, and at least one over it.
FACTOR = 2.5


class Sleep:
    """Places images, `SLEEP` seconds each, but rejects those whose name ends in 7; dies once, if there is a folder for it."""

    def __init__(self, mark: str | None) -> None:
        self.mark = Path(mark) if mark else None

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.mark is not None and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SLEEP * len(table))
        names = table["image_id"].to_pylist()
        rows = located(names, table["uri"].to_pylist())
        bad = {row: Rejection("broken", "recipe") for row, name in enumerate(names) if name.endswith("7.jpg")}
        return rejected(rows.set_column(rows.column_names.index("size"), "size", table["size"]), "sleep", bad)


def job_of(folder: Path, mark: str | None) -> Flow:
    sleep = Hands(stage=Sleep, make={"mark": mark}, workers=WORKERS, cpus=0.5, gpus=0.5)
    archive = ArchiveConfig(uri=str(folder / "archive"), shard_rows=SLICE)
    return Flow(
        archive=archive, output=str(folder / "out"), store=StoreConfig(), method="geotoken", fingerprint="f", river=[sleep]
    )


@dataclass(frozen=True)
class Seen:
    """What was seen of one run, and where it lies."""

    folder: Path
    told: dict[str, Any]
    left: set[str]
    done: dict[str, Any]
    seconds: float
    scraped: dict[str, dict[tuple[tuple[str, str], ...], float]]
    observed: float
    machines: list[Node]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    (folder / "archive").mkdir()
    for number in range(IMAGES):
        (folder / f"archive/{number:03d}.jpg").write_bytes(b"x" * (100 + number))
    job = job_of(folder, mark=None)
    labels = {"instance": "g6.2xlarge", "market": "spot"}
    start(job.river, num_gpus=1, labels=labels, _system_config={"metrics_report_interval_ms": 1000})
    try:
        told = estimate(job, expected(job.archive, Store(), None), Sample(images=64), PRICES)
        left = {path.name for path in folder.iterdir()}
        before = scrape()
        job = but(job_of(folder, str(folder / "mark")), watches=(Account(PRICES), Journal(str(folder / "log"))))
        began = time.monotonic()
        done = flow(job)
        seconds = time.monotonic() - began
        observed = ray.get(ray.remote(num_cpus=0)(cost).remote())
        yield Seen(folder, told, left, done, seconds, settled(before), observed, nodes("auto"))
    finally:
        ray.shutdown()


def cost() -> float:
    """Seconds of CPU that one call takes in a worker, whoever else is on the machine."""
    table = pa.table({"reason": pa.nulls(256, pa.string()), "size": pa.array([1] * 256, pa.int64())})
    metrics.observe("Timed", 256, 0.01, table)
    began = time.thread_time()
    for _ in range(1000):
        metrics.observe("Timed", 256, 0.01, table)
    return (time.thread_time() - began) / 1000


def scrape() -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Our metrics at this node's port: name -> our tags -> value, summed over workers."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as page:
        text = page.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(Counter)
    for name, tags, value in re.findall(r"^(ray_geobatch_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        own = {tag: said for tag, said in re.findall(r'(\w+)="([^"]*)"', tags) if tag in ("status", "reason", "stage", "of")}
        found[name][tuple(sorted(own.items()))] += float(value)
    return found


def settled(before: dict[str, Any]) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What was counted since `before`, once it is all there: workers report each second."""
    until = time.monotonic() + 15
    while True:
        now = scrape()
        since = {name: {tags: value - before.get(name, {}).get(tags, 0) for tags, value in now[name].items()} for name in now}
        if sum(since.get("ray_geobatch_images_total", {}).values()) >= IMAGES or time.monotonic() > until:
            return since
        time.sleep(0.3)


def test_what_is_scraped_is_what_happened(seen: Seen) -> None:
    images = {dict(tags)["reason"]: value for tags, value in seen.scraped["ray_geobatch_images_total"].items() if value}
    assert images == {"": seen.done["placed"], "broken": seen.done["rejected"]} == {"": IMAGES * 0.9, "broken": IMAGES * 0.1}
    assert seen.scraped["ray_geobatch_read_bytes_total"][()] == seen.done["bytes"] == sum(100 + n for n in range(IMAGES))
    for name, value in (("images", IMAGES * 0.9), ("slices", IMAGES / SLICE)):
        assert seen.scraped[f"ray_geobatch_stage_{name}_total"][(("stage", "Sleep"),)] == value
    busy = seen.scraped["ray_geobatch_stage_seconds_total"][(("stage", "Sleep"),)]
    assert busy == pytest.approx(seen.done["seconds"]["Sleep"], rel=0.01) and busy >= IMAGES * SLEEP
    assert seen.scraped["ray_geobatch_retries_total"][(("of", "slice"),)] >= 1
    gpu = seen.scraped["ray_geobatch_gpu_busy_seconds_total"][(("stage", "Sleep"),)]
    assert gpu == pytest.approx(busy / 2, rel=0.02)
    assert seen.scraped["ray_geobatch_gpu_held_seconds_total"][(("stage", "Sleep"),)] >= gpu


def test_counting_costs_less_than_a_hundredth_of_a_slice(seen: Seen) -> None:
    """10 ms is what the quickest stage works on a slice of 256 small images."""
    print(f"one observation: {1e6 * seen.observed:.1f} µs")
    assert seen.observed < 0.01 * 0.01


def test_the_dashboard_names_what_is_exported_and_nothing_else(seen: Seen) -> None:
    text = (ROOT / "jobs/cluster/dashboard.json").read_text()
    named = set(re.findall(r"ray_\w+", text))
    exported = {name: metric for metric in metrics.METRICS for name in metric.exported()}
    assert named <= exported.keys()
    assert {exported[name] for name in named} == set(metrics.METRICS), "a metric that no panel shows"
    assert {name for name in seen.scraped if seen.scraped[name]} == exported.keys(), "what a real Ray serves"


def test_the_dashboard_is_one() -> None:
    board = json.loads((ROOT / "jobs/cluster/dashboard.json").read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in board["panels"]}) == len(places)
    for panel in board["panels"]:
        assert panel["title"] and panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")") and "$session" in target["expr"]
            tags = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert tags <= grouped, f"{panel['title']}: a legend of what is summed away"


def test_done_json_holds_the_account(seen: Seen) -> None:
    done = json.loads((seen.folder / "out/runs/000001/done.json").read_text())
    assert done.items() <= seen.done.items()
    assert done["slowest"] == "Sleep" and done["stages"]["Sleep"]["workers"] == WORKERS
    assert done["stages"]["Sleep"]["images_a_second"] == pytest.approx(WORKERS * IMAGES / done["seconds"]["Sleep"], rel=1e-3)
    assert done["stages"]["Sleep"]["images_a_second"] <= WORKERS / SLEEP
    hours = done["machines"]["this machine"]["hours"]
    assert hours == pytest.approx(done["wall_seconds"] / 3600, rel=0.1, abs=1e-3) and 0 < done["wall_seconds"] <= seen.seconds
    assert done["usd"] == pytest.approx(hours * 3.6, abs=1e-3)
    assert done["usd_a_million"] == pytest.approx(done["usd"] / IMAGES * 1e6, rel=0.01, abs=1)


def test_a_node_of_a_cluster_tells_its_type_by_its_labels(seen: Seen) -> None:
    (node,) = seen.machines
    assert node.names[0] == "g6.2xlarge spot" and re.fullmatch(r"\d+ CPU \+ 1 GPU", node.names[-1])
    assert Prices().kind(node.names) == "g6.2xlarge spot"


def test_the_log_has_a_line_for_every_commit(seen: Seen) -> None:
    lines = [json.loads(line) for line in (seen.folder / "log").read_text().splitlines()]
    slices = [line for line in lines if line["event"] == "slice"]
    commits = [json.loads(path.read_text()) for path in (seen.folder / "out/runs/000001/commits").iterdir()]
    for told, name in (
        ("slice", "number"),
        ("read", "read"),
        ("reasons", "reasons"),
        ("seconds", "seconds"),
        ("bytes", "bytes"),
    ):
        assert {line["shard"]: line[told] for line in slices} == {commit["shard"]: commit[name] for commit in commits}
    assert lines[-1]["event"] == "end" and lines[-1]["account"]["usd"] == seen.done["usd"]


def test_the_estimate_wrote_nothing_and_was_right(seen: Seen) -> None:
    told = seen.told
    assert seen.left == {"archive"}, "a dry run leaves nothing behind"
    assert (told["images"], told["images_known"], told["shards"]) == (IMAGES, True, IMAGES // SLICE)
    assert told["bytes"] == seen.done["bytes"] and 64 <= told["sample"]["read"] < IMAGES
    assert told["slowest"] == "Sleep"
    assert told["stages"]["Sleep"]["seconds_an_image"] >= SLEEP
    assert told["images_a_second"] <= told["images_a_second_at_best"] <= WORKERS / SLEEP
    assert told["seconds_at_best"] <= told["seconds"]
    ratio = told["seconds"] / seen.seconds
    print(f"estimated {told['seconds']:.1f} s, took {seen.seconds:.1f} s: {ratio:.2f}")
    assert 1 / FACTOR < ratio < FACTOR
    assert told["usd"] == pytest.approx(told["seconds"] / 3600 * 3.6, abs=1e-3)
    lines = estimates.lines(told, "out")
    assert "240 images" in lines[0] and "nothing of it stays" in lines[0] and any("<- the slowest" in line for line in lines)
