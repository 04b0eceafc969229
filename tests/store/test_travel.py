"""Paths on their way to another node: what arrives is of the kind that left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from geobatch.errors import UserError
from geobatch.nodes import brought
from geobatch.store import Store, StoreConfig
from geobatch.store.travel import Mounted, Proven, mounts, outlined, travelling
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy


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


def test_a_value_is_good_where_what_the_driver_reads_is_there(tmp_path: Path) -> None:
    """Nothing is said of a file that was deleted since, much of a disk that is not there."""
    (tmp_path / "photos").mkdir()
    files = [tmp_path / f"photos/{number}.jpg" for number in range(2)]
    for path in files:
        path.touch()
    sent = {"archive": Proven(7, "photos", StoreConfig(), tuple(map(str, files)))}
    alone = {"archive": Proven(7, "photos", StoreConfig(), (str(files[0]),))}
    assert outlined(sent) == brought(sent) == brought(alone) == {"archive": 7}
    files[0].unlink()
    assert brought(sent) == brought(alone) == {"archive": 7}
    files[1].unlink()
    assert brought(alone) == {"archive": 7}
    with pytest.raises(UserError, match=r"does not see photos; put it into a bucket \(s3://…\), or on a disk that all nodes"):
        brought(sent)  # another node's folder of that name
    (tmp_path / "photos").rmdir()
    with pytest.raises(UserError, match="does not see photos"):
        brought(alone)
    assert brought({"archive": Proven(7, "photos", StoreConfig(), ())}) == {"archive": 7}


def test_a_nodes_rights_are_tried_by_what_the_driver_has_read(s3: S3Server, proxy: FaultyProxy) -> None:
    uris = tuple(f"s3://{s3.bucket()}/{name}" for name in ("a", "b"))
    for uri in uris:
        Store(s3.config()).put(uri, b"x")
    sent = Proven(7, "photos", s3.config(endpoint=proxy.endpoint, attempts=1), uris)
    for spoiled in ({}, {"^GET .*/a$": "403"}, {"": "500"}):  # a store that is down says nothing of rights
        proxy.spoiled = spoiled
        assert sent.here() == 7
    proxy.spoiled = {"^GET": "403"}
    with pytest.raises(UserError, match=r"may not read s3://.*/b, which the driver reads; give the nodes the driver's rights"):
        sent.here()
    Store(s3.config()).delete(uris)
    proxy.spoiled = {}
    assert sent.here() == 7
