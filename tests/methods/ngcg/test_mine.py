"""Mined negatives against a search written out, over several steps, workers and restarts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.methods.ngcg.batches import Order
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.mine import Mine, nearest
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train.loop import Worker
from tests.engine.tiny_towers import smolvlm
from tests.methods.ngcg import learning
from tests.methods.ngcg.tiles import unit


@settings(max_examples=40, deadline=None)
@given(queries=st.integers(1, 6), tiles=st.integers(4, 30), count=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_most_alike_of_other_places(queries: int, tiles: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    of_tiles, of_queries = np.arange(tiles) % 4, random.integers(0, 4, queries)
    left, right = unit(queries, seed), unit(tiles, seed + 1)
    if tiles - int((of_tiles == 0).sum()) < count:
        return
    alike = [np.flatnonzero((np.arange(tiles) % 5 == 1) & (tiles > 20)) for _ in range(queries)]
    found = nearest(left, right, of_queries, of_tiles, count, alike)
    for query, place, rows in zip(left, of_queries, found, strict=True):
        able = [row for row in range(tiles) if of_tiles[row] != place and row not in alike[0]]
        assert rows.tolist() == sorted(able, key=lambda row: -float(right[row] @ query))[:count]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Pairs]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("mine")
    smolvlm(folder / "base")
    return Encoder.load(str(folder / "base"), encoding=Encoding()), learning.written(folder, [row // 2 for row in range(20)])


def made(pairs: Pairs, every: int = 4, count: int = 2, worker: Worker | None = None) -> Mine:
    return Mine(pairs, Order(pairs.groups, 6), every, count, worker or Worker())


def test_each_text_of_the_steps_to_come_gets_its_own(world: tuple[Encoder, Pairs]) -> None:
    encoder, pairs = world
    mine = made(pairs)
    assert [step for step in range(13) if mine.due(step)] == [4, 8, 12] and mine.of(4) is None
    mine.mine(encoder, 4, 7, 5)  # the training ends after step 6
    assert mine.rows.shape == (3, 6, 2) and mine.of(3) is None and mine.of(7) is None
    tiles = np.stack([encoder.encode_pictures([pairs.picture(row)])[0] for row in range(len(pairs))])
    order = Order(pairs.groups, 6)
    for step in (4, 5, 6):
        found = mine.of(step)
        assert found is not None
        for row, turn, rows in zip(*order.rows(step), found, strict=True):
            texts = pairs.texts(int(row))
            cosines = tiles @ encoder.encode_texts([texts[turn % len(texts)]])[0]
            cosines[pairs.groups == pairs.groups[row]] = -2
            assert pairs.groups[row] not in pairs.groups[rows]
            assert cosines[rows] == pytest.approx(np.sort(cosines)[::-1][:2], abs=1e-5)


def test_a_table_goes_through_a_checkpoint(world: tuple[Encoder, Pairs], tmp_path: Path) -> None:
    encoder, pairs = world
    mine, again = made(pairs), made(pairs)
    mine.mine(encoder, 4, 100, 5)
    torch.save(mine.state(), tmp_path / "state.pt")
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.start == 4 and np.array_equal(again.rows, mine.rows) and again.rows.dtype == np.int64
    assert made(pairs).state()["rows"].shape == (0, 0, 2)


def test_more_than_there_are_is_refused(world: tuple[Encoder, Pairs]) -> None:
    made(world[1], count=18)
    with pytest.raises(UserError, match=r"a text has 18 tiles of other places, not 19; lower --tuning.hard-negatives"):
        made(world[1], count=19)
    assert not made(world[1], every=0, count=19).due(4)
