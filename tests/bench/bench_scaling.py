"""How the river scales: stages that sleep a known time, on 1 to 16 pretended nodes, then up to 64 slots on one.

    Deal ──▶ Doze ──▶ Tally        the real river's hands, slices and retries; a slice sleeps NAP seconds in Doze

What is asked is Ray's and the driver's own cost, so nothing here computes: a slot that sleeps takes no core, and a machine with
two of them carries 64. Weak scaling: each size has work for all of its slots; who gets how many is Ray's choice, so
the least and the most of a slot stand beside. Efficiency is ideal time over measured, the share of the time in which a slot
sleeps, twice: *steady*, over the window in which all slots are there and each has work (from when the last actor has begun its
first slice until the first has ended its last), which leaves out what a night has once, and *whole*, from the first slice's
beginning to the last one's end, in which actors' starting and the river's running empty count. The driver's share is its
processor time over the slices.

Each size runs in a process of its own, on a `ray.cluster_utils.Cluster` of its own: pretended nodes are real raylets with
object stores of their own, so slices and results travel as they do between machines, less the network.

`python -m tests.bench.bench_scaling` prints the table; with a number of nodes and of slots on each it runs that size alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray

from geobatch.actors import AHEAD, Hands, Slice, run_river
from geobatch.joining import SILENCE

#: Seconds that a slice takes in the stage that is scaled; 128 photographs take a decoder and an encoder 2 to 5.
NAP = 2.0

#: Slices of every slot at least, and for how many slots there is one more: those that came first must not have done all before
#: the last is there, and actors start one after the other.
ROUNDS, MORE = 6, 1

#: (nodes, slots on each)
NODES = [(1, 2), (2, 2), (4, 2), (8, 2), (16, 2)]
SLOTS = [(1, 4), (1, 8), (1, 16), (1, 32), (1, 64)]

#: Seconds between two looks at the processors.
_SAMPLE = 0.3

#: Bytes of rows in a slice on its way: 128 pictures of 336 pixels would be 40 MB; what is asked here is the cost of a slice.
_ROW = 1024


class Deal:
    """Hands out the slices of a task."""

    takes_tasks = True

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        for task in tasks.to_pylist():
            rows = pa.table({"reason": pa.nulls(1, pa.string()), "blob": [b"x" * _ROW]})
            yield Slice(shard=task["shard"], number=0, last=True, end=0, skipped=0, rows=rows)


class Doze:
    """Takes the time it is told, and says when."""

    def __init__(self, nap: float) -> None:
        self.nap = nap

    def __call__(self, table: pa.Table) -> pa.Table:
        began = time.time()
        time.sleep(self.nap)
        return (
            table.append_column("began", [[began]])
            .append_column("ended", [[time.time()]])
            .append_column("who", [[os.getpid()]])
        )


class Tally:
    """What the river's end sees of a slice."""

    takes_slices = True

    def __call__(self, piece: Slice) -> pa.Table:
        return piece.rows.select(["began", "ended", "who"]).append_column("node", [[os.uname().nodename]])


def trial(nodes: int, slots: int, nap: float = NAP) -> dict[str, float]:
    """One size, here: efficiency, seconds of starting, and processor seconds of the driver and of Ray's own processes."""
    from ray.cluster_utils import Cluster

    count = nodes * slots
    rounds = ROUNDS + count // MORE
    os.environ.update(SILENCE)
    # More at once than the cores start no faster, and all time out together.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "4")
    cluster = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={"num_cpus": 4, "object_store_memory": 120_000_000, "include_dashboard": False},
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=slots, resources={"slot": slots}, object_store_memory=80_000_000)
        cluster.wait_for_nodes()
        river = [
            Hands(stage=Deal, cpus=0.5, ahead=AHEAD),
            Hands(stage=Doze, make={"nap": nap}, workers=count, least=count, cpus=0.0, resources={"slot": 1.0}),
            Hands(stage=Tally, cpus=0.5, ahead=AHEAD),
        ]
        tasks = [pa.table({"shard": [shard]}) for shard in range(count * rounds)]
        ray_s = [process for process in psutil.Process().children(recursive=True) if "ray::" not in " ".join(process.cmdline())]
        began, blocks, samples = time.time(), [], [(time.time(), time.process_time(), _spent(ray_s))]
        for block in run_river(tasks, river):
            blocks.append(block)
            if time.time() - samples[-1][0] > _SAMPLE:
                samples.append((time.time(), time.process_time(), _spent(ray_s)))
        samples.append((time.time(), time.process_time(), _spent(ray_s)))
        seen = pa.concat_tables(blocks)
        assert len(seen) == len(tasks), f"{len(seen)} of {len(tasks)} slices came out"
        return {**_told(seen, samples, count), "starting": pc.max(_by_actor(seen)["began_min"]).as_py() - began}
    finally:
        ray.shutdown()
        cluster.shutdown()


def _by_actor(seen: pa.Table) -> pa.Table:
    """When each actor began its first slice and ended its last."""
    return seen.group_by("who").aggregate([("ended", "max"), ("began", "min")])


def _told(seen: pa.Table, samples: list[tuple[float, float, float]], count: int) -> dict[str, float]:
    """Over the window in which every slot is there and has work: its length, slices, efficiency, processor seconds of both."""
    actors = _by_actor(seen)
    assert len(actors) == count, f"{len(actors)} of {count} actors had work"
    start, end = pc.max(actors["began_min"]).as_py(), pc.min(actors["ended_max"]).as_py()
    assert end - start > 0, "the last actor began when the first had ended: give more rounds"
    naps = [(max(row["began"], start), min(row["ended"], end)) for row in seen.to_pylist()]
    slept = sum(max(0.0, late - early) for early, late in naps)
    at, driver, others = np.array(samples).T
    spent = [float(np.diff(np.interp([start, end], at, each))[0]) for each in (driver, others)]
    slices = sum(start < row["ended"] <= end for row in seen.to_pylist())
    shares = seen["who"].value_counts().field("counts")
    wall = pc.max(seen["ended"]).as_py() - pc.min(seen["began"]).as_py()
    whole = pc.sum(pc.subtract(seen["ended"], seen["began"])).as_py() / (count * wall)
    return {"window": end - start, "slices": slices, "efficiency": slept / (count * (end - start)), "driver": spent[0],
            "ray": spent[1], "whole": whole, "least": pc.min(shares).as_py(), "most": pc.max(shares).as_py()}  # fmt: skip


def _spent(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def apart(nodes: int, slots: int) -> dict[str, float]:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gb", dir="/tmp") as scratch:
        environment = {**os.environ, "RAY_TMPDIR": scratch, "RAY_AUTH_MODE": "disabled", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        environment.pop("RAY_ADDRESS", None)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.bench.bench_scaling", str(nodes), str(slots)],
            env=environment, capture_output=True, text=True, timeout=900, check=False, cwd=Path(__file__).parent.parent.parent,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{nodes} nodes of {slots} slots: {ran.stderr[-2000:]}")
        found: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
        return found


def run() -> list[dict[str, Any]]:
    """The table of both sweeps, and a row for the largest size of each against the smallest."""
    rows = []
    for what, sizes in (("nodes", NODES), ("slots of one node", SLOTS)):
        found = []
        for nodes, slots in sizes:
            found.append((nodes, slots, apart(nodes, slots)))
            print(line(*found[-1]), flush=True)
        (_, _, least), (nodes, slots, most) = found[0], found[-1]
        said = ", ".join(
            f"{a * b} {100 * each['efficiency']:.0f} % ({100 * each['whole']:.0f} % whole)" for a, b, each in found
        )
        rows.append(
            {
                "name": f"weak scaling over {what}, {nodes * slots} slots",
                "rival": f"{found[0][0] * found[0][1]} slots",
                "ratio": most["efficiency"] / least["efficiency"],
                "measured": f"efficiency by slots {said}, slices of {NAP:g} s; the driver takes "
                f"{1000 * most['driver'] / most['slices']:.0f} ms of processor a slice, Ray's own processes "
                f"{1000 * most['ray'] / most['slices']:.0f} ms, so the driver alone is full at "
                f"{NAP * most['slices'] / most['driver']:.0f} slots",
            }
        )
    return rows


def line(nodes: int, slots: int, told: dict[str, float]) -> str:
    """A row of the table."""
    return (
        f"{nodes:3d} nodes × {slots:2d} slots: efficiency {100 * told['efficiency']:5.1f} % over {told['window']:5.1f} s, "
        f"{told['slices']:.0f} slices, {told['least']:.0f} to {told['most']:.0f} a slot; {100 * told['whole']:5.1f} % whole, "
        f"started after {told['starting']:5.1f} s; processor a slice: driver "
        f"{1000 * told['driver'] / told['slices']:5.1f} ms, Ray {1000 * told['ray'] / told['slices']:5.1f} ms"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(trial(int(sys.argv[1]), int(sys.argv[2]))))
    else:
        for each in run():
            print(f"{each['ratio']:.2f} x  {each['name']}, against {each['rival']}: {each['measured']}")
