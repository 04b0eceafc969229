"""Paths on their way to another node: what arrives is of the kind that left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from geobatch.errors import UserError
from geobatch.nodes import brought
from geobatch.store.travel import Mounted, mounts, outlined, travelling


class Pair(NamedTuple):
    """A tuple with names."""

    at: Path
    number: int


@dataclass(frozen=True)
class Part:
    """Of what a stage is made with."""

    folder: Path
    name: str
    rest: tuple[str, ...] = ()


def test_a_path_is_a_path_and_a_string_a_string_where_they_arrive(tmp_path: Path) -> None:
    made = {
        "part": Part(tmp_path, str(tmp_path), (str(tmp_path), "/nowhere/at/all")),
        "list": [tmp_path, 3],
        "pair": Pair(tmp_path, 4),
    }
    sent = travelling(made, mounted=True)
    assert sent["part"].name == Mounted(str(tmp_path)) and sent != made
    assert brought(sent) == made and outlined(sent) == made
    assert mounts(sent) == [str(tmp_path)]
    assert travelling(made) == made and mounts(made) == []


def test_a_path_that_is_gone_where_it_arrives_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    sent = travelling({"model": tmp_path / "model"}, mounted=True)
    (tmp_path / "model").rmdir()
    with pytest.raises(UserError, match=r"does not see .*model; put it into a bucket"):
        brought(sent)
