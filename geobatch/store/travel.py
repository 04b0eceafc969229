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
            raise UserError(f"node {socket.gethostname()} does not see {self.path}; put it into a bucket (s3://…), or on a "
                            "disk that all nodes mount at the same place")  # fmt: skip
        return self.path

    def outline(self) -> str:
        """The path."""
        return self.path


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
