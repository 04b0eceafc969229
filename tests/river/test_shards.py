"""A gallery held by two actors, searched by a river while one of them is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from geobatch.actors import Hands, Slice, run_river, start
from geobatch.engine.gallery import build
from geobatch.engine.gallery.members import members
from geobatch.errors import UserError
from geobatch.methods.geotoken.retrieve import Retrieve
from geobatch.schema import FATE, empty_columns
from geobatch.service import serving
from tests.engine.gallery.smooth import smooth, tables

TASKS = [pa.table({"shard": pa.array([shard], pa.int32())}) for shard in range(8)]
SLICES, ROWS = 6, 16


class Emit:
    """Vectors of pictures, a few slices a task."""

    takes_tasks = True

    def __call__(self, tasks: pa.Table) -> Iterator[Slice]:
        for shard in tasks["shard"].to_pylist():
            for number in range(SLICES):
                yield Slice(
                    shard=shard, number=number, last=number == SLICES - 1, end=0, skipped=0, rows=pictures(shard, number)
                )


def pictures(shard: int, number: int) -> pa.Table:
    vectors = smooth(ROWS, seed=100 * shard + number)[0]
    return pa.table(
        {
            "image_id": [f"{shard}/{number}/{row}" for row in range(ROWS)],
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
            **empty_columns(FATE, ROWS),
        }
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    assert not ray.is_initialized()
    start([Hands(stage=Emit), Hands(stage=Retrieve, make={"gallery": "", "neighbours": 5})])
    yield
    ray.shutdown()


def alive(name: str) -> bool:
    try:
        ray.get_actor(name)
    except ValueError:
        return False
    return True


@pytest.mark.timeout(180)
def test_a_shards_actor_dies_and_nothing_is_lost(cluster: None, tmp_path: Path) -> None:
    build(tmp_path, tables(*smooth(1500)))
    make = {"gallery": str(tmp_path), "neighbours": 5, "shards": 2}
    river = [Hands(stage=Emit), Hands(stage=Retrieve, make=make)]
    assert members(str(tmp_path), 2).cpus > 0, "a head that is not for work would hold them all"
    names = [f"{members(str(tmp_path), 2).name}-{number}" for number in range(2)]
    pieces: dict[tuple[int, int], pa.Table] = {}
    with serving(river):
        for done, block in enumerate(run_river(TASKS, river)):
            if done in (2, 9, 10):
                ray.kill(ray.get_actor(names[done % 2]), no_restart=False)
            for piece in Slice.from_block(block):
                assert (piece.shard, piece.number) not in pieces
                pieces[piece.shard, piece.number] = piece.rows
        assert all(map(alive, names))
    assert len(pieces) == len(TASKS) * SLICES
    alone = Retrieve(str(tmp_path), 5)
    for (shard, number), rows in pieces.items():
        expected = alone(pictures(shard, number))
        assert rows["image_id"].equals(expected["image_id"]) and not any(rows["reason"].to_pylist())
        found, wanted = (
            [[each["image_id"] for each in row] for row in table["neighbours"].to_pylist()] for table in (rows, expected)
        )
        assert found == wanted
        assert np.allclose(*(np.concatenate(table["neighbour_vectors"].to_pylist()) for table in (rows, expected)))


@pytest.mark.timeout(180)
def test_who_asks_first_starts_what_nobody_did_and_faults_come_through(cluster: None, tmp_path: Path) -> None:
    build(tmp_path, tables(*smooth(500)))
    stage = Retrieve(str(tmp_path), 5, shards=1)
    before = stage(pictures(0, 0))
    ray.kill(ray.get_actor(f"{stage.parts.name}-0"))  # for good, as when its owner died
    assert stage(pictures(0, 0)).equals(before)
    (tmp_path / "gallery.json").unlink()
    ray.kill(ray.get_actor(f"{stage.parts.name}-0"))
    with pytest.raises(UserError, match="is no gallery"):
        stage(pictures(0, 0))
    stage.parts.stop()
