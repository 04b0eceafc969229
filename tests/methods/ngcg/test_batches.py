"""The order of pairs against a slow reference of what batches without a place twice can be; what is read of them."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.methods.ngcg.batches import Batches, Order, batches_of, changed
from geobatch.methods.ngcg.config import Encoding, Tuning
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train.augment import Augment
from geobatch.train.loop import Worker
from tests.engine.tiny_towers import smolvlm
from tests.methods.ngcg import learning


def most(counts: list[int], size: int) -> int:
    """Full batches that can be dealt by always taking from the places that have most left: no way deals more."""
    left = [-count for count in counts]
    heapq.heapify(left)
    dealt = 0
    while len(left) >= size:
        taken = [heapq.heappop(left) + 1 for _ in range(size)]
        for each in taken:
            if each:
                heapq.heappush(left, each)
        dealt += 1
    return dealt


def groups_of(counts: list[int], seed: int) -> np.ndarray:
    """Places of so many pairs each, in random order, with numbers that are no positions."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 7 - 5, counts))


def passes(order: Order, first: int, last: int) -> np.ndarray:
    """(passes, M, B) pairs."""
    steps = range(first * order.batches, last * order.batches)
    return np.array([order.rows(step)[0] for step in steps]).reshape(last - first, order.batches, -1)


COUNTS = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=25)


@settings(max_examples=120, deadline=None)
@given(counts=COUNTS, size=st.integers(2, 8), seed=st.integers(0, 5))
def test_no_batch_shows_a_place_twice_and_none_can_be_dealt_besides(counts: list[int], size: int, seed: int) -> None:
    groups = groups_of(counts, seed)
    if most(counts, size) == 0:
        with pytest.raises(UserError, match="less than one batch"):
            Order(groups, size)
        return
    order = Order(groups, size, seed=seed)
    assert order.batches == most(counts, size)
    assert order.waiting == len(groups) - order.batches * size
    for each in passes(order, 0, 3):
        assert all(len(set(groups[batch].tolist())) == size for batch in each)
        assert len(np.unique(each)) == each.size  # a pair comes once a pass


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, size=st.integers(2, 8), seed=st.integers(0, 5))
def test_nothing_waits_for_ever(counts: list[int], size: int, seed: int) -> None:
    groups = groups_of(counts, seed)
    if most(counts, size) == 0:
        return
    order = Order(groups, size, seed=seed)
    # One of c pairs of a place comes every c / M-th pass, and one more is lost to what does not fill a batch.
    largest = max(-(-count // order.batches) for count in counts) + 1
    many = 4 * largest
    seen = np.bincount(passes(order, 0, many).reshape(-1), minlength=len(groups))
    assert seen.min() >= many // largest
    for place in set(groups.tolist()):
        assert np.ptp(seen[groups == place]) <= 1


@settings(max_examples=40, deadline=None)
@given(
    counts=COUNTS, size=st.integers(2, 6), seed=st.integers(0, 5), jumps=st.lists(st.integers(0, 60), min_size=1, max_size=6)
)
def test_a_step_is_a_function_of_seed_and_number(counts: list[int], size: int, seed: int, jumps: list[int]) -> None:
    groups = groups_of(counts, seed)
    if most(counts, size) == 0:
        return
    walked = Order(groups, size, seed=seed)
    for step in jumps:  # there and back, as who resumes does
        fresh = Order(groups, size, seed=seed)
        assert all(np.array_equal(a, b) for a, b in zip(walked.rows(step), fresh.rows(step), strict=True))


def test_another_seed_and_another_pass_are_another_order() -> None:
    groups = groups_of([3] * 20, 0)
    order = Order(groups, 6)
    first, second = passes(order, 0, 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, passes(Order(groups, 6, seed=1), 0, 1)[0])


def test_without_the_law_batches_are_any() -> None:
    groups = groups_of([30, 2, 2], 1)
    with pytest.raises(UserError, match=r"3 places are less than one batch; lower --tuning.batch from 10, or allow"):
        Order(groups, 10)
    order = Order(groups, 10, distinct=False)
    assert order.batches == 3 and order.waiting == 4
    assert any(len(set(groups[batch].tolist())) < 10 for batch in passes(order, 0, 1)[0])
    seen = np.bincount(passes(order, 0, 17).reshape(-1), minlength=34)
    assert seen.sum() == 17 * 30 and np.ptp(seen) <= 1  # who waited goes first
    with pytest.raises(UserError, match=r"34 pairs are less than one batch; lower --tuning.batch from 40$"):
        Order(groups, 40, distinct=False)
    with pytest.raises(UserError, match=r"lower --tuning.batch from 40$"):
        batches_of(groups, 40)


def test_places_meet_as_by_chance() -> None:
    """54 tiles of each of 60 buildings, as GeoText has: filled in order, ten buildings would meet for 54 batches on end."""
    groups = np.repeat(np.arange(60), 54)
    order = Order(groups, 10)
    assert order.batches == 324 and order.waiting == 0
    together = np.zeros((60, 60))
    for batch in groups[passes(order, 0, 1)[0]]:
        together[np.ix_(batch, batch)] += 1
    met = together[np.triu_indices(60, 1)]
    expected = 324 * 10 * 9 / (60 * 59)
    assert met.mean() == pytest.approx(expected)
    assert met.std() < 1.6 * expected**0.5 and met.max() < 4 * expected
    # And the batches that a building is in lie anywhere in the pass.
    where = [np.flatnonzero((groups[passes(order, 0, 1)[0]] == building).any(1)).mean() for building in range(60)]
    assert 140 < np.mean(where) < 185 and np.std(where) < 25


def test_one_huge_place_makes_passes_short_and_training_no_shorter() -> None:
    groups = groups_of([90, *[1] * 10], 2)
    order = Order(groups, 2)
    assert order.batches == 10 and order.waiting == 80
    assert order.steps(20) == 1000  # 20 times 100 pairs, two a step
    seen = np.bincount(passes(order, 0, 18).reshape(-1), minlength=100)
    big = groups == Counter(groups.tolist()).most_common(1)[0][0]
    assert set(seen[big].tolist()) == {2} and set(seen[~big].tolist()) == {18}


def test_texts_take_turns_even_where_pairs_wait() -> None:
    groups = groups_of([40, 3, 3, 3, 3], 3)
    order = Order(groups, 3)
    assert order.waiting
    shown: dict[int, list[int]] = {}
    for step in range(30 * order.batches):
        for row, turn in zip(*order.rows(step), strict=True):
            shown.setdefault(int(row), []).append(int(turn))
    assert len(shown) == len(groups)
    for turns in shown.values():
        assert turns == list(range(turns[0], turns[0] + len(turns)))
    assert len({turns[0] % 3 for turns in shown.values()}) == 3  # they do not all begin with the first


# What is read of them


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Pairs]:
    folder = tmp_path_factory.mktemp("batches")
    smolvlm(folder / "base")
    return Encoder.load(str(folder / "base"), encoding=Encoding()), learning.written(folder, [row // 2 for row in range(24)])


def read(world: tuple[Encoder, Pairs], tuning: Tuning, worker: Worker | None = None) -> Batches:
    encoder, pairs = world
    return Batches(pairs, encoder, Order(pairs.groups, tuning.batch), tuning, worker or Worker())


def test_workers_share_a_batch_and_pieces_a_workers_part(world: tuple[Encoder, Pairs]) -> None:
    pairs = world[1]
    hard = np.arange(12).reshape(6, 2)
    alone = read(world, Tuning(batch=6)).read(3, hard)
    (piece,) = alone.pieces
    rows, turns = Order(pairs.groups, 6).rows(3)
    assert alone.groups.tolist() == pairs.groups[rows].tolist() and alone.others.tolist() == pairs.groups[hard].tolist()
    texts = [pairs.texts(int(row))[turn % len(pairs.texts(int(row)))] for row, turn in zip(rows, turns, strict=True)]
    assert torch.equal(piece.texts["input_ids"], world[0].texts(texts)["input_ids"])
    assert len(set(alone.words.tolist())) == len(set(texts)) == 6
    shown = [pairs.picture(int(row)) for own, more in zip(rows, hard, strict=True) for row in (own, *more)]
    assert torch.equal(piece.tiles["pixel_values"], world[0].pictures(shown)["pixel_values"])
    for rank in range(2):
        part = read(world, Tuning(batch=6, micro_batch=2), Worker(rank, 2)).read(3, hard)
        assert part.groups.tolist() == alone.groups[rank::2].tolist() and part.words.tolist() == alone.words[rank::2].tolist()
        assert [len(each.texts["input_ids"]) for each in part.pieces] == [2, 1]
        pixels = torch.cat([each.tiles["pixel_values"] for each in part.pieces])
        every = piece.tiles["pixel_values"]
        assert torch.equal(pixels, every.reshape(6, 3, *every.shape[1:])[rank::2].reshape(9, *every.shape[1:]))


def test_changes_of_tiles_are_applied_and_a_function_of_the_step(world: tuple[Encoder, Pairs]) -> None:
    plain = Tuning(batch=6)
    tuning = replace(plain, augment=Augment(turn=10.0))

    def pixels(tuning: Tuning, step: int, worker: Worker | None = None) -> torch.Tensor:
        return read(world, tuning, worker).read(step).pieces[0].tiles["pixel_values"]

    assert torch.equal(pixels(tuning, 1), pixels(tuning, 1))
    assert (pixels(tuning, 1) - pixels(plain, 1)).abs().mean() > 0.05
    assert torch.equal(pixels(plain, 1), pixels(replace(plain, seed=0), 1))
    order = Order(world[1].groups, 6).rows(1)[0]
    assert not torch.equal(pixels(tuning, 1, Worker(1, 2)), pixels(tuning, 1)[1::2]) and len(order) == 6


def test_pictures_of_several_sizes_are_changed_and_keep_their_places() -> None:
    random = np.random.default_rng(0)
    sizes = [(20, 30), (16, 16), (20, 30), (16, 16), (16, 16)]
    pictures = [random.integers(60, 200, (*size, 3), np.uint8) for size in sizes]
    still = Augment(turn=0, exposure=0, contrast=0, tint=0, noise=0, blur=0)
    same = changed(pictures, still, torch.Generator().manual_seed(1))
    assert all(np.array_equal(a, b) for a, b in zip(pictures, same, strict=True))
    seen = changed(pictures, Augment(), torch.Generator().manual_seed(1))
    assert [each.shape for each in seen] == [each.shape for each in pictures] and {each.dtype.name for each in seen} == {
        "uint8"
    }
    assert all((a != b).any() for a, b in zip(pictures, seen, strict=True))
    brighter = changed(pictures, replace(still, exposure=0.5), torch.Generator().manual_seed(2))
    for before, after in zip(pictures, brighter, strict=True):  # each by a gain of its own, in the place it had
        inner = after < 255
        assert np.ptp(after[inner] / before[inner].astype(float)) < 0.02  # rounding to levels is 0.5 of 60
