"""One run over an archive, whatever its stages: list, freeze, work, prove.

The driver may die anywhere. What it leaves in the bucket says how far it came (`geobatch.sink`), and the same call goes on
from there. A worker may die as well: Ray restarts it and gives it its slice again, three times; if that fails, or a node is
lost in a way Ray does not survive, the driver lists the commits and sends what is missing through a fresh river, as long as
each pass commits something.

A run may end before its work is done, in order: watches (`watch`) say when it is enough, `drain` lets through what is under
way, and the run is finished with what it has. One that is to take the place of a standing table does so whole or not at all:
it stays open for the next call where time or money ended it, and is abandoned where something is wrong with it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import ray

from geobatch.access import submission
from geobatch.actors import AHEAD, Hands, Slice, join_cluster, run_river, settled, start
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.source import Read
from geobatch.errors import GeobatchError, UserError
from geobatch.joining import joins
from geobatch.pipeline.canary import Canary
from geobatch.pipeline.causes import Patience, users_fault
from geobatch.pipeline.deadline import Ended, Hurried
from geobatch.pipeline.drain import Drain, gate_of
from geobatch.pipeline.folder import sent
from geobatch.pipeline.frozen import Wanted, freeze, lies_inside
from geobatch.pipeline.narrow import guarded, ledger_of
from geobatch.pipeline.reach import proven, seen
from geobatch.pipeline.stages import applied
from geobatch.pipeline.watch import Watch, Watching
from geobatch.progress import Progress, say
from geobatch.schema import REUSED
from geobatch.service import Service, asking, serving
from geobatch.sink import Run, Stamp, Write, open_run
from geobatch.sink.lease import Lease
from geobatch.sink.record import WHOLE
from geobatch.sink.reuse import Reuse
from geobatch.store import Store, StoreConfig, split

#: Slices that are written at a time: of two PUTs of 50 ms each, one at a time let 7 slices a second pass, four let 26.
WRITES = 4

#: Words of endings (`Watch.enough`) after which the next call goes on with a run that is to take a table's place.
GO_ON = ("deadline", "cost", "price")


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What one run is.

    Fields:
        archive: what is read.
        output: where the table lies.
        store: how the output is reached, and the archive where nothing else is said.
        archive_store: how the archive is reached.
        method: name of the method, or of the kind of rows ("gallery", "pictures").
        fingerprint: hash of everything that decides a row.
        river: the stages between Read and Write.
        coarsen_km: rounds every coordinate that is written; 0 leaves them.
        relocate: start the table anew where its fingerprint differs.
        address: Ray cluster, or None for this machine.
        what: two words for the progress line.
        watches: look on and may end the run before its time.
        canary: a few images that go before all others; a watch, too.
        stages: what single stages ask for instead, as the flag --stages says it.
        wanted: what is done beside what is new; None: no more, and neither are objects marked that are gone nor places reused
            for equal bytes.
    """

    archive: ArchiveConfig
    output: str
    store: StoreConfig
    method: str
    fingerprint: str
    river: list[Hands]
    coarsen_km: float = 0.0
    relocate: bool = False
    address: str | None = None
    what: str = "located"
    watches: tuple[Watch, ...] = ()
    stages: tuple[str, ...] = ()
    wanted: Wanted | None = None
    archive_store: StoreConfig | None = None
    canary: Canary | None = None

    @property
    def looking_on(self) -> tuple[Watch, ...]:
        """The watches; the canary before all others, so that a journal, the last of them, tells what it found."""
        return self.watches if self.canary is None else (self.canary, *self.watches)

    @property
    def source(self) -> StoreConfig:
        """How the archive is reached."""
        return self.archive_store or self.store


def flow(job: Flow) -> dict[str, Any]:
    """Runs it to its end and returns the account that `done.json` holds.

    Returns:
        The account, with `"new": False` where nothing was left to do, `"ended"` where a watch ended it, `"left"` ("open",
        "abandoned") where it therefore published nothing, `"resumed"` where an earlier driver began it, and `"as_asked"`:
        whether that one was asked for what this call is.

    Raises:
        UserError: the output is another's, or another run is working at it; the archive holds nothing, access is denied.
        MachineError: workers kept failing; the same command takes the run up again.
    """
    if job.source.endpoint == job.store.endpoint:
        _apart(job.archive.uri, job.output)
    join_cluster(job.address)
    job = replace(job, river=sent(job.river, job.address))
    stages = applied(job.river, job.stages)
    if ray.is_initialized():  # before hours of listing: can the cluster ever do it
        settled([*stages, *asking(stages)], tell=False)
        seen(job.archive.uri)
    store = Store(job.store)
    store.require_conditional_writes(job.output)  # before the lease: one that can never be taken is asked for for ever
    with Lease(store, job.output, who=submission()) as lease:
        if ray.is_initialized():
            seen(lease.uri, job.output)
        return _held(job, store, lease)


def _held(job: Flow, store: Store, lease: Lease) -> dict[str, Any]:
    """The run, with the output for oneself."""
    archive = json.loads(json.dumps(described(job.archive)))
    asked = (job.wanted or Wanted()).asked()
    run, table = open_run(
        store, job.output, method=job.method, fingerprint=job.fingerprint, archive=archive, relocate=job.relocate, asked=asked
    )
    as_asked = run.record.get("asked", asked) == asked
    if run.resumed:
        say(f"taking up run {run.id} at {job.output}, started {run.record['started']}")
        if not as_asked:
            say("that run was asked for other images, and does those first")
    elif job.relocate and table is not None:
        say(
            f"--relocate: table {table.version} at {job.output} is this model's and these settings' already, what it holds is "
            "kept; --all does everything again"
        )
    watching = Watching(job.looking_on)
    frozen = run.plan() if run.resumed else None
    if frozen is None:
        try:
            frozen = freeze(run, job.archive, store, table, job.wanted, source=Hurried(job.source, watching.enough))
        except Ended as early:
            return {"new": False, "ended": str(early), "left": "open"}
        if frozen is None:
            assert table is not None
            say(
                f"nothing new in {job.archive.uri}: table {table.version} at {job.output} holds all of it, "
                f"{table.record['rows']:,} rows"
            )
            return {"new": False, "table": table.version, "rows": table.record["rows"], "run": table.record["run"]}
    try:
        watching.begin(run, frozen)
        ended = _work(run, frozen, job, lease, watching)
        lease.check()
        about = {"new": True, "resumed": run.resumed, "as_asked": as_asked}
        if ended is not None and (
            run.record["relocate"] or (run.record.get("asked", asked)["everything"] and table is not None)
        ):
            return about | run.leave(frozen, ended, watching.end, abandon=ended.split(":", maxsplit=1)[0] not in GO_ON)
        return about | run.finish(frozen, ended=ended, add=watching.end)
    finally:
        watching.close()


def _work(run: Run, frozen: dict[str, Any], job: Flow, lease: Lease, watching: Watching) -> str | None:
    """Passes until everything is committed, or a watch has enough: its reason, where something is left undone."""
    whole = all(kind in WHOLE for file in frozen["files"] for kind in file["kinds"])
    images = sum(sum(file["rows"]) for file in frozen["files"]) if whole else None
    ledger = ledger_of(run.id)
    patience, passes, committed = Patience(job.output), 0, 0
    error, alone = None, True
    try:
        while tasks := list(run.remaining(frozen)):
            before, committed = committed, len(run.commits())
            if error is not None or not alone:  # a canary's own pass commits nothing
                patience.after(committed > before, error, ledger.ask("closer")[0])
            lease.check()
            if (reason := watching.enough()) is not None:
                return reason
            passes += 1
            done = (images - _images(frozen, tasks)) if images is not None else 0
            river = _river(run, job, passes, ledger, frozen.get("reuse"), last=patience.last)
            if joins(job.address):
                river = proven(river, run, job.archive, job.source, tasks)
            members = asking(river)
            start([*river, *members], job.address)
            ledger.start()  # who asks first would own it, and an actor takes what it owns with it
            river = settled([*river, *members])[: len(river)]
            if job.canary is not None:
                tasks = job.canary.leading(tasks)
            alone, error, reason = all(task["shard"][0].as_py() < 0 for task in tasks), None, None
            try:
                with Progress(job.what, images, done=done) as progress:
                    reason = _pass(tasks, river, members, lease, watching, progress)
            except (ray.exceptions.RayError, GeobatchError) as failure:
                if fault := users_fault(error := failure):
                    raise fault from None
            if reason is not None:
                return reason if next(run.remaining(frozen), None) is not None else None
        return None
    finally:
        ledger.stop()


def _river(run: Run, job: Flow, number: int, ledger: Service, index: dict[str, Any] | None, *, last: bool) -> list[Hands]:
    """All stages of a pass, from tasks to commits."""
    stamp = Stamp(run=run.id, method=job.method, model=job.fingerprint, coarsen_km=job.coarsen_km)
    gate = gate_of(f"{run.id}-{number}") if job.looking_on else None
    # A reader feeds more than four decoders (200 MB/s against 12 to 50 each).
    readers = max(1, max((hands.workers for hands in job.river), default=1) // 4)
    reads = {"archive": job.archive, "store": job.source, "output": job.store, "gate": gate, "last": last}
    read = Hands(stage=Read, make=reads, workers=readers, cpus=0.5)
    output = split(job.output).uri  # absolute: a node's processes have folders of their own
    writes = {"output": output, "stamp": stamp, "store": job.store}
    write = Hands(stage=Write, make=writes, cpus=0.5, at_once=WRITES, ahead=AHEAD)
    stages = [
        guarded(hands, ledger, gate if first else None)
        for first, hands in zip(chain([True], repeat(False)), job.river, strict=False)
    ]
    if index is not None:
        made = {"output": output, "folder": run.at(), "index": index, "store": job.store}
        stages.insert(0, Hands(stage=Reuse, make=made, workers=readers, cpus=0.5, guard=computed))
    return applied([read, *stages, write], job.stages)


def computed(stage: Any, piece: Slice) -> pa.Table:
    """Guard of `geobatch.sink.reuse.Reuse`: a canary whose bytes the table knows is looked at all the same."""
    if piece.shard >= 0:
        rows: pa.Table = stage(piece.rows)
        return rows
    return piece.rows.append_column(REUSED, pa.nulls(len(piece.rows), REUSED.type))


def _pass(
    tasks: list[pa.Table], river: list[Hands], members: list[Hands], lease: Lease, watching: Watching, progress: Progress
) -> str | None:
    """Sends the tasks through once; returns why a watch ended it, if one did."""
    with serving(river), ExitStack() as stack:
        watching.river(river)
        gate = river[0].make["gate"]
        drain = stack.enter_context(Drain(watching, gate)) if gate is not None else None
        try:
            for block in run_river(tasks, river, cut=drain.cut_with if drain else None, beside=members):
                lease.check()
                for row in block.to_pylist():
                    if row["shard"] >= 0:
                        progress.add(
                            row["read"], f"{row['rejected']} of the last {row['read']} rejected" if row["rejected"] else ""
                        )
                    watching.slice(row)
                    if drain is not None:
                        drain.slice(row)
        except (ray.exceptions.RayError, GeobatchError):
            if drain is not None:
                drain.check()  # a watch that raised broke the pass off; what Ray says of that names no cause
            if drain is None or drain.reason is None:
                raise
            lease.check()  # what was under way when the run was ended and failed is the next run's
        if drain is None:
            return None
        drain.check()
        return drain.reason


def _images(frozen: dict[str, Any], tasks: list[pa.Table]) -> int:
    rows = {file["first"] + group: size for file in frozen["files"] for group, size in enumerate(file["rows"])}
    return sum(rows[task["shard"][0].as_py()] for task in tasks)


def _apart(archive: str, output: str) -> None:
    if lies_inside(output, archive):
        raise UserError(f"--output {output} lies inside --archive {archive}, which would be read again; choose another place")


def described(config: Any) -> dict[str, Any]:
    """A config dataclass as the JSON that a fingerprint hashes."""
    return asdict(config)
