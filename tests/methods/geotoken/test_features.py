"""A table of vectors, step by step: every row once an epoch, the same rows for the same step, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.methods.geotoken.features import Features, index

SIZE = 3


def write(folder: Path, lengths: list[int], group: int = 7, first: int = 0, size: int = SIZE) -> list[tuple[Path, list[int]]]:
    """Parts whose vectors and latitudes carry a number; every ninth row was rejected."""
    parts = []
    for part, length in enumerate(lengths):
        number = np.arange(first, first + length)
        alive = number % 9 != 4
        vectors = [[float(each)] * size if there else None for each, there in zip(number, alive, strict=True)]
        table = pa.table(
            {
                "vector": pa.array(vectors, pa.list_(pa.float32())),
                "latitude": pa.array([each / 1000 if there else None for each, there in zip(number, alive, strict=True)]),
                "longitude": pa.array([-each / 1000 for each in number]),
                "status": ["placed" if there else "rejected" for there in alive],
            }
        )
        path = folder / f"{part}.parquet"
        pq.write_table(table, path, row_group_size=group)
        parts.append((path, []))
        first += length
    return parts


def numbers(features: Features, step: int, rank: int = 0, world: int = 1) -> list[int]:
    rows = features.batch(step, rank, world)
    assert rows.vectors.shape == (len(rows), SIZE) and rows.vectors.dtype == np.float32
    assert np.allclose(rows.places[:, 0] * 1000, rows.vectors[:, 0]) and np.allclose(rows.places[:, 1], -rows.places[:, 0])
    return [round(float(each)) for each in rows.vectors[:, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("features")
    parts = write(made, [40, 1, 33, 80])
    parts[2] = (parts[2][0], [0, 9, 32])  # superseded by a later run
    assert index(parts, made) == 154 - len([n for n in range(154) if n % 9 == 4]) - 3
    return made


def alive() -> set[int]:
    return {number for number in range(154) if number % 9 != 4} - {41, 50, 73}


@settings(max_examples=25)
@given(batch=st.integers(2, 134), buffer=st.integers(1, 300), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_holds_every_row_once(folder: Path, batch: int, buffer: int, seed: int, epoch: int) -> None:
    features = Features(folder, batch, buffer, seed)
    steps = len(features) // batch
    assert len(features) == len(alive())
    drawn = [number for step in range(epoch * steps, (epoch + 1) * steps) for number in numbers(features, step)]
    assert len(drawn) == steps * batch == len(set(drawn))
    assert set(drawn) <= alive() and len(alive()) - len(drawn) < batch


def test_a_step_is_a_function_of_seed_and_number(folder: Path) -> None:
    going, jumping = Features(folder, 16, 30, 1), Features(folder, 16, 30, 1)
    drawn = [numbers(going, step) for step in range(20)]
    for step in (19, 3, 7, 8, 0):
        assert numbers(jumping, step) == drawn[step]
    assert drawn != [numbers(Features(folder, 16, 30, 2), step) for step in range(20)]
    assert drawn[:8] != drawn[8:16]  # another epoch is another order
    left = [alive() - {number for each in drawn[at : at + 8] for number in each} for at in (0, 8)]
    assert len(left[0]) == len(left[1]) == 6 and left[0] != left[1]  # and leaves out the rest of other batches


def test_workers_share_a_batch(folder: Path) -> None:
    for step in range(9):
        whole = numbers(Features(folder, 16, 30, 1), step)
        for rank in range(2):
            assert numbers(Features(folder, 16, 30, 1), step, rank, 2) == whole[rank::2]


def test_at_most_two_pools_are_held(folder: Path) -> None:
    features = Features(folder, 16, 20, 1)
    for step in range(24):
        numbers(features, step)
        assert sum(len(pool) for pool in features._pools.values()) <= 2 * (20 + 7)


def test_neighbours_in_the_archive_are_parted(folder: Path) -> None:
    """Rows that follow each other in a part seldom share a batch, though pools are read in runs."""
    features = Features(folder, 16, 64, 0)
    near = [min(abs(a - b) for b in drawn if b != a) for step in range(8) for drawn in [numbers(features, step)] for a in drawn]
    assert np.median(near) >= 2


def test_a_part_that_begins_with_nothing_is_measured_by_what_follows(tmp_path: Path) -> None:
    """Its first row groups were superseded; what it holds is not of the other part's encoder."""
    first, second = tmp_path / "a", tmp_path / "b"
    for each in (first, second):
        each.mkdir()
    gone = list(range(14))
    parts = [(write(first, [20])[0][0], gone)]
    assert index(parts, first) == 6
    assert sorted(numbers(Features(first, 6, 100, 0), 0)) == list(range(14, 20))
    with pytest.raises(UserError, match="vectors of 2 and of 3"):
        index([*parts, (write(second, [20], size=2)[0][0], gone)], tmp_path)


def test_what_is_no_table_of_vectors_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for each in (first, second):
        each.mkdir()
    parts = write(first, [12])
    with pytest.raises(UserError, match="no training picture has a place"):
        index([(parts[0][0], list(range(12)))], tmp_path)
    with pytest.raises(UserError, match="vectors of 2 and of 3"):
        index([*parts, *write(second, [12], size=2)], tmp_path)
    index(parts, first)
    write(first, [8])  # another table lies there now
    with pytest.raises(UserError, match="is not what it was"):
        Features(first, 4, 100, 0).batch(0)
    assert json.loads((first / "features.json").read_text())["dimension"] == SIZE
