"""Paths that a stage is made with, as they travel from the driver to another node.

The driver opens models and galleries by their paths and puts these into the arguments of stages. Elsewhere such a path means
nothing: one below the driver's fetched folders becomes the `Remote` that it stands for, any other that exists here a
`Mounted`, which the other node must see as well. Both are asked where they are (`.here()`) on the node that makes the stage.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geobatch.errors import UserError
from geobatch.store import Changed, Denied, NotFound, Store, StoreConfig, Unreadable, split
from geobatch.store.fetch import remote_of
from geobatch.walk import walked


@dataclass(frozen=True)
class Mounted:
    """A path that every node must see: of a disk that all of them mount, or of the image that all of them run."""

    path: str

    def here(self) -> str:
        """The path.

        Raises:
            UserError: this node does not see it.
        """
        if not Path(self.path).exists():
            raise UserError(_blind(self.path))
        return self.path

    def outline(self) -> str:
        """The path."""
        return self.path


@dataclass(frozen=True)
class Proven:
    """A value that a node may use which reads what the driver reads: a path alone proves nothing, each node may have its own.

    Fields:
        value: what arrives.
        what: what it names, for the message.
        store: reaches the objects.
        objects: URIs that the driver has read just now; one of them is enough. None prove nothing, and nothing is asked.
    """

    value: Any
    what: str
    store: StoreConfig
    objects: tuple[str, ...]

    def here(self) -> Any:
        """The value.

        Raises:
            UserError: this node does not see the disk, or its rights are not the driver's.
        """
        store, gone, denied = Store(self.store), list[str](), ""
        for uri in self.objects:
            try:
                store.get(uri, 0, 1)
            except NotFound:
                gone.append(uri)
            except Denied:
                denied = uri
            except (Changed, Unreadable):
                return self.value  # it is there; what else is wrong with it, who reads it says
            else:
                return self.value
        if denied:
            raise UserError(
                f"node {socket.gethostname()} may not read {denied}, which the driver reads; give the nodes the driver's rights"
            )
        if any(_elsewhere(uri, alone=len(gone) == 1) for uri in gone):
            raise UserError(_blind(self.what))
        return self.value

    def outline(self) -> Any:
        """The value."""
        return self.value


def _blind(path: str) -> str:
    return (
        f"node {socket.gethostname()} does not see {path}; put it into a bucket (s3://…), or on a disk that all nodes mount at "
        "the same place"
    )


def _elsewhere(uri: str, *, alone: bool) -> bool:
    """Whether a file that is not here lies on a disk that is not; a single one may have been deleted since."""
    place = split(uri)
    return place.bucket is None and not (alone and Path(place.key).parent.exists())


@dataclass(frozen=True)
class AsPath:
    """What was a `Path` where it came from, and is one again where it arrives."""

    path: Any

    def here(self) -> Path:
        """As of what it stands for."""
        return Path(self.path.here())

    def outline(self) -> Path:
        """As of what it stands for."""
        return Path(self.path.outline())


def travelling(value: Any, mounted: bool = False) -> Any:
    """The value with `Remote`s in the place of paths below this machine's fetched folders.

    Args:
        value: arguments of a stage.
        mounted: also replace every other absolute path that exists here, by `Mounted`.
    """

    def change(each: Any) -> Any:
        if not isinstance(each, str | Path) or not str(each).startswith("/"):
            return each
        found: Any = remote_of(each)
        if found is None and mounted and os.path.exists(each):  # noqa: PTH110 — False for a name too long
            found = Mounted(str(each))
        if found is None:
            return each
        return AsPath(found) if isinstance(each, Path) else found

    return walked(value, change)


def outlined(value: Any) -> Any:
    """The value with paths of this machine again: for a driver that asks what a stage would need, not for the stage."""
    return walked(value, lambda each: each.outline() if hasattr(each, "outline") else each)


def mounts(value: Any) -> list[str]:
    """Paths in it that every node must see, each once."""
    found: list[str] = []

    def look(each: Any) -> None:
        inner = each.path if isinstance(each, AsPath) else each
        if isinstance(inner, Mounted):
            found.append(inner.path)

    walked(value, look)
    return list(dict.fromkeys(found))
