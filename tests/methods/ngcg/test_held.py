"""Figures of retrieval against counting by hand, and encoders that know nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.methods.ngcg import held
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.train.loop import Worker
from tests.engine.tiny_towers import smolvlm
from tests.methods.ngcg import learning
from tests.methods.ngcg.tiles import unit


def by_hand(query: np.ndarray, gallery: np.ndarray, place: int, places: np.ndarray) -> int:
    """The rank of the first hit when what ties with it stands before it."""
    cosines = gallery @ query
    best = max(float(cosine) for cosine, other in zip(cosines, places, strict=True) if other == place)
    return sum(float(cosine) >= best for cosine, other in zip(cosines, places, strict=True) if other != place)


@settings(max_examples=40, deadline=None)
@given(
    queries=st.integers(1, 12), places=st.integers(1, 6), more=st.integers(0, 20), seed=st.integers(0, 99), coarse=st.booleans()
)
def test_ranks_are_counted(queries: int, places: int, more: int, seed: int, coarse: bool) -> None:
    random = np.random.default_rng(seed)
    of_gallery = np.concatenate([np.arange(places), random.integers(0, places, more)]) * 11
    of_queries = random.integers(0, places, queries) * 11
    left, right = unit(queries, seed), unit(len(of_gallery), seed + 1)
    if coarse:  # few values, many ties
        left, right = np.sign(left).round(), np.sign(right).round()
    found = held.ranked(left, right, of_queries, of_gallery)
    assert found.tolist() == [
        by_hand(*each, of_gallery) for each in ((q, right, p) for q, p in zip(left, of_queries, strict=True))
    ]


def test_many_queries_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, gallery = np.arange(50) // 2, unit(50, 1)
    whole = held.ranked(unit(50, 2), gallery, groups, groups)
    monkeypatch.setattr(held, "_QUERIES", 7)
    assert np.array_equal(held.ranked(unit(50, 2), gallery, groups, groups), whole)


def test_who_answers_everything_alike_finds_nothing() -> None:
    groups = np.arange(40)
    same = np.ones((40, 8), np.float32) / np.sqrt(8, dtype=np.float32)
    assert set(held.ranked(same, same, groups, groups).tolist()) == {39}
    assert set(held.ranked(same * np.nan, same, groups, groups).tolist()) == {39}
    assert set(held.ranked(same, same * np.nan, groups, groups).tolist()) == {39}
    lame = unit(40, 3)
    lame[5] = np.nan  # one tile without numbers hides, and stands before every other
    ranks = held.ranked(unit(40, 3), lame, groups, groups)
    assert ranks[5] == 39 and set(np.delete(ranks, 5).tolist()) == {1}


def test_all_texts_are_searched_for_in_both_directions(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    smolvlm(tmp_path / "base")
    encoder = Encoder.load(str(tmp_path / "base"), encoding=Encoding())
    pairs = learning.written(tmp_path, [row // 2 for row in range(14)])
    figures = held.measure(encoder, pairs, 3, Worker())
    assert set(figures) == {f"{way}_r{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)}
    texts = [(text, int(pairs.groups[row])) for row in range(14) for text in pairs.texts(row)]
    assert len(texts) > 14
    said = np.stack([encoder.encode_texts([text])[0] for text, _ in texts])
    tiles = np.stack([encoder.encode_pictures([pairs.picture(row)])[0] for row in range(14)])
    of_texts = np.array([group for _, group in texts])
    t2i = np.array([by_hand(said[row], tiles, group, pairs.groups) for row, group in enumerate(of_texts)])
    i2t = np.array([by_hand(tiles[row], said, group, of_texts) for row, group in enumerate(pairs.groups)])
    for k in (1, 5, 10):
        assert figures[f"t2i_r{k}"] == pytest.approx((t2i < k).mean()) and figures[f"i2t_r{k}"] == pytest.approx(
            (i2t < k).mean()
        )
    assert held.score(figures) == pytest.approx(np.mean([(t2i < k).mean() for k in (1, 5, 10)]))
    assert 0 < held.score(figures) < 1
