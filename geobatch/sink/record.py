"""The run's record: opened first, its plan frozen, its proof of completion written last.

Resuming costs one listing of the commits (and one GET a slice of shards that are committed in part); finishing costs one GET
a commit. Neither holds an image's row in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.errors import MachineError
from geobatch.sink.publish import Ending, now, publish
from geobatch.sink.table import Snapshot, latest
from geobatch.store import Store, join

#: What one read task gets: where its shard stands in the plan, and which of its slices are committed already.
TASK = pa.schema(
    [
        pa.field("shard", pa.int32()),
        pa.field("plan", pa.string()),  # URI of the manifest file
        pa.field("group", pa.int32()),  # its row group
        pa.field("done", pa.list_(pa.struct([pa.field("number", pa.int32()), pa.field("end", pa.int64())]))),
        pa.field("parts", pa.list_(pa.string())),  # URIs of the parts that hold those slices
    ]
)

#: Kinds whose shards are one slice with exactly the planned rows.
WHOLE = ("object", "zip")


@dataclass(kw_only=True)
class Run:
    """One run at one output.

    Fields:
        store: reaches the output.
        output: folder or `s3://bucket/prefix`.
        id: "000001", rising.
        record: what `run.json` says.
        resumed: whether an earlier driver started it.
    """

    store: Store
    output: str
    id: str
    record: dict[str, Any]
    resumed: bool
    _commits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def at(self, *parts: str) -> str:
        """URI below the run's folder."""
        return join(self.output, "runs", self.id, *parts)

    def plan(self) -> dict[str, Any] | None:
        """The frozen plan's record, or None while there is none."""
        uri = self.at("plan.json")
        found: dict[str, Any] | None = json.loads(self.store.get(uri)) if self.store.exists(uri) else None
        return found

    def freeze(self, tables: Iterable[pa.Table], counts: dict[str, int]) -> dict[str, Any]:
        """Writes the manifest as it streams in, one row group a shard, and freezes it.

        Args:
            tables: tables of PLAN, shards whole and in order.
            counts: read after the last table: what the planner listed and skipped.
        """
        files: list[dict[str, Any]] = []
        for table in tables:
            sizes, kinds = _shards(table)
            data = pa.BufferOutputStream()
            with pq.ParquetWriter(data, table.schema, compression="zstd") as writer:
                start = 0
                for size in sizes:
                    writer.write_table(table.slice(start, size), row_group_size=size)
                    start += size
            content = data.getvalue().to_pybytes()
            path = f"plan/{len(files):05d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
            self.store.put(self.at(path), content)
            files.append({"path": path, "first": table["shard"][0].as_py(), "rows": sizes, "kinds": kinds})
        record = {"files": files, "shards": sum(len(f["rows"]) for f in files), **counts}
        self.store.put_if_absent(self.at("plan.json"), json.dumps(record).encode())
        frozen = self.plan()
        if frozen is None:
            raise MachineError(f"{self.at('plan.json')} vanished after it was written; check the bucket's lifecycle rules")
        return frozen

    def commits(self) -> dict[tuple[int, int], str]:
        """(shard, slice) of every commit, with its URI: one listing, no reading."""
        found = {}
        for page in self.store.objects(self.at("commits")):
            for item in page:
                shard, number, _ = item.uri.rsplit("/", 1)[-1].split(".")
                found[int(shard), int(number)] = item.uri
        return found

    def committed(self) -> list[dict[str, Any]]:
        """What every commit says: one GET a commit that was not read before."""
        return self._read(list(self.commits().values()))

    def published(self) -> Snapshot | None:
        """The newest table, if this run has brought it about already (and its driver died before the proof); else None."""
        table = latest(self.store, self.output)
        return table if table is not None and table.record["run"] == self.id else None

    def remaining(self, plan: dict[str, Any]) -> Iterator[pa.Table]:
        """One table of TASK a shard that is not wholly committed; none once the table is published."""
        if self.published() is not None:
            return
        commits = self.commits()
        partial = {
            shard: uri for (shard, _), uri in commits.items() if _kind(plan, shard) not in WHOLE
        }  # of these only the contents tell whether the last slice is there
        contents = self._read([uri for key, uri in commits.items() if key[0] in partial])
        slices: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for commit in contents:
            slices[commit["shard"]].append(commit)
        for file in plan["files"]:
            for group, kind in enumerate(file["kinds"]):
                shard = file["first"] + group
                done = sorted(slices.get(shard, []), key=lambda commit: commit["number"])
                if (kind in WHOLE and (shard, 0) in commits) or _complete(done):
                    continue
                row = {
                    "shard": shard,
                    "plan": self.at(file["path"]),
                    "group": group,
                    "done": [{"number": commit["number"], "end": commit["end"]} for commit in done],
                    "parts": [join(self.output, commit["part"]["path"]) for commit in done if commit["part"]],
                }
                yield pa.Table.from_pylist([row], schema=TASK)

    def finish(
        self,
        plan: dict[str, Any],
        ended: str | None = None,
        add: Callable[[dict[str, Any]], dict[str, Any]] = lambda account: {},
    ) -> dict[str, Any]:
        """Checks that every image that entered left, publishes the table, and writes the proof of completion.

        Args:
            plan: the frozen plan's record.
            ended: why the run ends before everything is done; what is committed is published all the same (`publish`), what
                is not is found new by the next run.
            add: told the account once the table is published; gives what `done.json` holds beside it.

        Raises:
            MachineError: something is missing or doubled; nothing was published.
        """
        if (table := self.published()) is not None:
            ended = table.record.get("ended", ended)
        commits = self.committed()
        unfinished = _check(plan, commits, ended)
        ending = Ending(
            run=self.id,
            folder=self.at(),
            record=self.record,
            plan=plan,
            commits=commits,
            unfinished=frozenset(unfinished),
            ended=ended,
        )
        snapshot = publish(self.store, self.output, ending)
        self._sweep(commits)
        done = {**self._account(plan, commits, len(unfinished)), "ended": ended, "table": snapshot.version}
        done.update(add(done))
        self.store.put_if_absent(self.at("done.json"), json.dumps(done, indent=1).encode())
        return done

    def leave(
        self,
        plan: dict[str, Any],
        ended: str,
        add: Callable[[dict[str, Any]], dict[str, Any]] = lambda account: {},
        *,
        abandon: bool = False,
    ) -> dict[str, Any]:
        """Ends before everything is done and publishes nothing: what is committed waits for the next call, which goes on.

        Args:
            plan: the frozen plan's record.
            ended: why.
            add: as `finish` has it.
            abandon: nothing goes on with it either; the next call starts another run.

        Returns:
            The account as `finish` gives it, with "left": "open" or "abandoned", and the table that stands; `left.json` holds
            it.
        """
        commits, table = self.committed(), latest(self.store, self.output)
        unfinished = len(_check(plan, commits, ended))
        left = {**self._account(plan, commits, unfinished), "ended": ended, "left": "abandoned" if abandon else "open"}
        left["table"] = table.version if table is not None else None
        left.update(add(left))
        self.store.put(self.at("left.json"), json.dumps(left, indent=1).encode())
        if abandon:
            self.store.put_if_absent(self.at("abandoned.json"), b"{}")
        return left

    def left(self) -> dict[str, Any] | None:
        """What `leave` said last; None where the run was never left."""
        uri = self.at("left.json")
        found: dict[str, Any] | None = json.loads(self.store.get(uri)) if self.store.exists(uri) else None
        return found

    def _account(self, plan: dict[str, Any], commits: list[dict[str, Any]], unfinished: int) -> dict[str, Any]:
        """What the plan and the commits say of the run."""
        seconds: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for commit in commits:
            seconds.update(commit["seconds"])
            reasons.update(commit["reasons"])
        totals = {name: sum(commit[name] for commit in commits) for name in ("read", "placed", "rejected", "bytes")}
        return {
            "run": self.id,
            **totals,
            "reused": sum(commit.get("reused", 0) for commit in commits),
            "reasons": dict(reasons),
            "listed": plan.get("listed", 0),
            "skipped": plan.get("skipped", 0) + sum(commit["skipped"] for commit in commits),
            "known": plan.get("known", 0),
            "vanished": plan.get("vanished", 0),
            "returned": plan.get("returned", 0),
            "shards": plan["shards"],
            "unfinished": unfinished,
            "slices": len(commits),
            "seconds": {stage: round(spent, 2) for stage, spent in seconds.items()},
            "started": self.record["started"],
            "finished": now(),
        }

    def _sweep(self, commits: list[dict[str, Any]]) -> None:
        """Removes this run's parts that no commit names: left by workers that died between part and commit."""
        named = {commit["part"]["path"].rsplit("/", 1)[-1] for commit in commits if commit["part"]}
        for page in self.store.objects(join(self.output, "places")):
            names = [(item.uri, item.uri.rsplit("/", 1)[-1]) for item in page]
            self.store.delete(uri for uri, name in names if name.startswith(f"{self.id}-") and name not in named)

    def _read(self, uris: list[str]) -> list[dict[str, Any]]:
        missing = [uri for uri in uris if uri not in self._commits]
        for uri, got in zip(missing, self.store.get_many(missing), strict=True):
            if isinstance(got, BaseException):
                raise got
            self._commits[uri] = json.loads(got)
        return [self._commits[uri] for uri in uris]


def _shards(table: pa.Table) -> tuple[list[int], list[str]]:
    runs = pc.run_end_encode(table["shard"].combine_chunks())
    ends = runs.run_ends.to_pylist()
    sizes = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return sizes, [table["kind"][end - 1].as_py() for end in ends]


def _kind(plan: dict[str, Any], shard: int) -> str:
    for file in reversed(plan["files"]):
        if shard >= file["first"]:
            kind: str = file["kinds"][shard - file["first"]]
            return kind
    raise MachineError(
        f"shard {shard} is committed but not planned; the run's folder was tampered with, choose another --output"
    )


def _complete(commits: list[dict[str, Any]]) -> bool:
    return bool(commits) and commits[-1]["last"] and len(commits) == commits[-1]["number"] + 1


def _check(plan: dict[str, Any], commits: list[dict[str, Any]], ended: str | None) -> set[int]:
    """The shards that are not wholly committed: none, unless the run ends before its time."""
    by_shard: dict[int, list[dict[str, Any]]] = defaultdict(list)
    unfinished: set[int] = set()
    for commit in commits:
        by_shard[commit["shard"]].append(commit)
        if commit["read"] != commit["placed"] + commit["rejected"]:
            raise MachineError(f"shard {commit['shard']}: read {commit['read']} images, {commit['placed']} placed and "
                               f"{commit['rejected']} rejected do not add up")  # fmt: skip
    for file in plan["files"]:
        for shard, (rows, kind) in enumerate(zip(file["rows"], file["kinds"], strict=True), file["first"]):
            done = sorted(by_shard.pop(shard, []), key=lambda commit: commit["number"])
            if not _complete(done):
                unfinished.add(shard)
            elif kind in WHOLE and done[0]["read"] != rows:
                raise MachineError(f"shard {shard}: {rows} images planned, {done[0]['read']} came out")
    if unfinished and ended is None:
        raise MachineError(f"shard {min(unfinished)} is not wholly committed; run the same command again")
    if by_shard:
        raise MachineError(f"commits of shards that were never planned: {sorted(by_shard)[:5]}; choose another --output")
    return unfinished
