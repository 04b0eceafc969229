"""Whether a cluster can train at all, asked before anything is prepared for it, and again by each worker as it starts.

Two things go wrong on clusters and are found out late: workers that no node could ever hold wait for ever, and workers on
other nodes write checkpoints to disks of their own, or find nothing there to learn from. The first is laid out like the stages
of a river. The second is tried: a file of a name that nobody else has is put where the checkpoints go, and beside the model,
where what is learnt from lies, and every node looks for it; a path alone proves nothing, since each node may have one of its
own. Checkpoints may lie in a bucket; what is learnt from is mapped into memory, off a disk.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from geobatch import nodes
from geobatch.actors import join_cluster
from geobatch.errors import UserError
from geobatch.layout import Pool, settle
from geobatch.store.travel import mounts


@dataclass(frozen=True)
class Mark:
    """A file that shows a node that it sees the folder it lies in; no file where the folder is a bucket's."""

    folder: str
    file: str = ""

    def here(self) -> str:
        """The folder.

        Raises:
            UserError: this node does not see it.
        """
        if self.file and not Path(self.file).exists():
            raise UserError(self.told(socket.gethostname()))
        return self.folder

    def told(self, node: str) -> str:
        """What to do about a node that does not see it."""
        return (
            f"node {node} does not see {self.folder}, where training keeps its files; put --output on a disk that all nodes "
            "mount at the same place, and --loop.storage too if it is a folder"
        )


class Asks(Protocol):
    """What of a training's settings (`geobatch.train.loop.Loop`) the cluster must answer to."""

    @property
    def workers(self) -> int:
        """Workers that train together."""

    @property
    def each(self) -> dict[str, float]:
        """What each asks of its node, as Ray names it."""

    def kept(self, output: Path) -> str:
        """Where the checkpoints of a model at `output` lie."""


def ready(loop: Asks, output: Path, address: str | None) -> None:
    """Asks a cluster, before anything is prepared for training, whether it can train; nothing where none is joined.

    Raises:
        UserError: the workers find no room, or a node does not see where the checkpoints or the model go.
    """
    join_cluster(address)
    if ray.is_initialized():
        enough(loop)
        for folder in (str(output.parent.resolve()), loop.kept(output)):
            with marked(folder):
                pass


def enough(loop: Asks) -> None:
    """That the workers find room together on the nodes there are or could be.

    Raises:
        UserError: they do not.
    """
    workers, each = loop.workers, loop.each
    there = nodes.seen()
    if not there.known:
        return
    for kind, amount in each.items():
        if amount * workers > there.total(kind):
            raise UserError(
                f"{workers} workers need {amount * workers:g} {kind}s and the cluster has or could have "
                f"{there.total(kind):g}; lower --loop.workers"
            )
    try:
        settle([Pool(name="training", each=each, least=workers, most=workers)], there)
    except UserError:
        asks = ", ".join(f"{amount:g} {kind}" for kind, amount in each.items() if amount)
        raise UserError(
            f"{workers} workers with {asks} each do not fit the nodes there are or could be: {there}; lower --loop.workers or "
            "--loop.cpus"
        ) from None


@contextmanager
def marked(folder: str) -> Iterator[Mark]:
    """A mark in the folder for as long as workers may start. Every node alive must see it.

    Raises:
        UserError: one does not.
    """
    if "://" in folder:
        yield Mark(folder)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / f".seen-{uuid.uuid4().hex}"
    file.touch()
    try:
        mark = Mark(folder, str(file))
        if blind := nodes.unseen(file):
            raise UserError(mark.told(blind[0]))
        yield mark
    finally:
        file.unlink(missing_ok=True)


def mounted(make: Any) -> None:
    """That every node alive sees the local paths in what workers are made of.

    Raises:
        UserError: one does not.
    """
    for path in mounts(make):
        if blind := nodes.unseen(Path(path)):
            raise UserError(
                f"node {blind[0]} does not see {path}, which training reads; put it into a bucket (s3://…), or on a disk that "
                "all nodes mount at the same place"
            )
