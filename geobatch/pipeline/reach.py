"""How a job's archive and its output are reached, and that both answer, before anything is started.

One `--store` serves both until something is named for one of them: another endpoint, another account's profile, a key that
seals what is written. Credentials that are missing, wrong or expired, and buckets that do not exist, are found here, in a
second, and not once a model is loaded and a cluster waits.

Nodes of a cluster may see other disks and have other rights than the driver. Those alive are asked whether they see a folder
(`seen`). Those that come later, and rights, are tried where work begins: a stage there reads what the driver has just read
(`proven`, `geobatch.store.travel.Proven`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.source import Read
from geobatch.pipeline.folder import seen_by_all
from geobatch.sink import Run, Write
from geobatch.sink.reuse import Reuse
from geobatch.store import ALONE, Store, StoreConfig, StoreOverride, Unreadable, misnamed, split
from geobatch.store.travel import Proven

#: Objects that the driver reads for its nodes to read, at most, and of how many shards it tries as many.
_PROOFS = 3


class Asked(Protocol):
    """What a job says about its stores."""

    @property
    def archive(self) -> str:
        """Where images lie."""

    @property
    def output(self) -> str:
        """Where the table goes."""

    @property
    def store(self) -> StoreConfig:
        """How buckets are reached."""

    @property
    def archive_store(self) -> StoreOverride:
        """What is different about the archive's."""

    @property
    def output_store(self) -> StoreOverride:
        """What is different about the output's."""


class Reach(NamedTuple):
    """How both are reached."""

    archive: StoreConfig
    output: StoreConfig


def reached(asked: Asked) -> Reach:
    """How archive and output are reached; a bucket is asked for one page of its listing.

    Raises:
        UserError: credentials are missing, wrong or expired, or there is no such bucket.
        MachineError: a store does not answer.
    """
    reach = Reach(asked.archive_store.over(asked.store), asked.output_store.over(asked.store))
    for uri, config in ((asked.archive, reach.archive), (asked.output, reach.output)):
        if split(uri).bucket is not None:
            Store(config).require_credentials(uri)
    return reach


def seen(uri: str, by: str | None = None) -> None:
    """That every node alive sees what lies on this machine's disk; nothing where it lies in a bucket, or not here.

    Args:
        uri: what is asked of the nodes.
        by: what it stands for; itself by default.

    Raises:
        UserError: a node does not see it.
        MachineError: a node does not answer.
    """
    place = split(uri)
    if place.bucket is None and Path(place.key).exists():
        seen_by_all({place.key: by or place.key})


def proven(river: list[Hands], run: Run, archive: ArchiveConfig, source: StoreConfig, tasks: list[pa.Table]) -> list[Hands]:
    """The river whose ends look, where they are made, whether their node reads what this process reads.

    Args:
        river: from Read to Write.
        run: whose record lies at the output.
        archive: what is read.
        source: reaches it.
        tasks: what is left to be read.
    """
    objects = proofs(run.store, Store(source), tasks)
    output = Proven(split(run.output).uri, run.output, run.store.config, (run.at("run.json"),))
    known: dict[type[Any], dict[str, Proven]] = {
        Read: {"archive": Proven(archive, archive.uri, source, objects), "output": replace(output, value=run.store.config)},
        Write: {"output": output},
        Reuse: {"output": output},
    }
    return [replace(hands, make={**hands.make, **known.get(hands.stage, {})}) for hands in river]


def proofs(store: Store, source: Store, tasks: list[pa.Table]) -> tuple[str, ...]:
    """URIs of a few of the tasks' objects that this process can read; none where it can read none of those it tries.

    Args:
        store: reaches the manifest.
        source: reaches the archive.
        tasks: tables of `geobatch.sink.record.TASK`.
    """
    found: list[str] = []
    for task in (tasks[:: max(1, len(tasks) // _PROOFS)])[:_PROOFS]:
        (row,) = task.to_pylist()
        manifest = pq.ParquetFile(pa.BufferReader(store.get(row["plan"]))).read_row_group(row["group"], columns=["uri"])
        for uri in manifest["uri"].to_pylist()[: _PROOFS - len(found)]:
            if misnamed(uri) is not None:  # a row of a manifest
                continue
            try:
                source.get(uri, 0, 1)
            except (*ALONE, Unreadable):
                continue
            found.append(uri)
    return tuple(dict.fromkeys(found))
