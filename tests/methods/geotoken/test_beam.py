"""Beam search against enumeration, and against the same search without a cache."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geobatch.methods.geotoken.beam import _shares, beam
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.draws import greedy
from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.model import GeoTokenModel
from tests.methods.geotoken.tiny import TINY, VARIANTS, batch_of, model_of

LEAVES = 6 * 4**3


def slow(model: GeoTokenModel, context: Context, width: int) -> list[list[tuple[float, tuple[int, ...]]]]:
    """The same search image by image, each prefix through the whole decoder again."""
    out = []
    for row in range(len(context)):
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for t, values in enumerate(model.config.vocabularies):
            alone = context[torch.full((len(best),), row)]
            codes = torch.zeros(len(best), model.config.length, dtype=torch.long)
            for at, (_, prefix) in enumerate(best):
                codes[at, :t] = torch.tensor(prefix, dtype=torch.long)
            with torch.inference_mode():
                log = model.logits(model.encode(alone), codes)[t].double().log_softmax(-1)
            children = [
                (score + float(log[at, code]), (*prefix, code))
                for at, (score, prefix) in enumerate(best)
                for code in range(values)
            ]
            best = sorted(children, key=lambda each: -each[0])[:width]
        out.append(best)
    return out


@pytest.mark.parametrize("config", VARIANTS)
def test_beams_are_those_of_the_search_without_a_cache(config: GeoToken) -> None:
    model, batch = model_of(config), batch_of(config, images=3)
    found = beam(model, batch, width=5)
    expected = slow(model, batch, 5)
    assert found.image_R.tolist() == [row for row in range(3) for _ in range(5)]
    assert [tuple(codes) for codes in found.codes_RT.tolist()] == [codes for each in expected for _, codes in each]
    scores = torch.tensor([score for each in expected for score, _ in each], dtype=torch.float64)
    torch.testing.assert_close(found.log_probability_R, scores, atol=1e-4, rtol=1e-4)


def test_a_beam_as_wide_as_all_cells_is_exact() -> None:
    model, batch = model_of(sharpness=3.0), batch_of(images=2)
    every = torch.tensor(list(product(range(6), *[range(4)] * 3)))
    found = beam(model, batch, width=LEAVES)
    for row in range(2):
        with torch.inference_mode():
            logits = model.logits(model.encode(batch[torch.full((LEAVES,), row)]), every)
        log = sum(x.double().log_softmax(-1).gather(1, every[:, t, None])[:, 0] for t, x in enumerate(logits))
        best = log.argsort(descending=True)
        mine = found.image_R == row
        assert mine.sum() == LEAVES
        torch.testing.assert_close(found.log_probability_R[mine], log[best], atol=1e-4, rtol=1e-4)
        assert torch.equal(found.codes_RT[mine][:20], every[best][:20])
    narrow = beam(model, batch, width=5)
    assert bool((narrow.log_probability_R <= found.log_probability_R.reshape(2, -1)[:, :5].flatten() + 1e-6).all())


def test_a_beam_of_one_is_greedy() -> None:
    model, batch = model_of(), batch_of(images=6)
    found, (codes, log) = beam(model, batch, width=1, stands_for=7), greedy(model, batch)
    assert torch.equal(found.codes_RT, codes) and found.count_R.tolist() == [7] * 6
    torch.testing.assert_close(found.log_probability_R, log, atol=1e-5, rtol=1e-5)


def test_tempered_probabilities_are_those_at_the_temperature() -> None:
    model, batch = model_of(sharpness=3.0), batch_of(images=2)
    found = beam(model, batch, width=4, temperature=0.5)
    with torch.inference_mode():
        logits = model.logits(model.encode(batch[found.image_R]), found.codes_RT)
    expected = sum((x.double() / 0.5).log_softmax(-1).gather(1, found.codes_RT[:, t, None])[:, 0] for t, x in enumerate(logits))
    torch.testing.assert_close(found.tempered_R, expected, atol=1e-4, rtol=1e-4)
    assert found.prefixes == 2 * (1 + (TINY.length - 1) * 4)


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=8), st.integers(0, 40))
def test_shares_are_whole_and_add_up(log: list[float], total: int) -> None:
    tempered = torch.tensor([log], dtype=torch.float64)
    shares = _shares(tempered, total)[0]
    assert int(shares.sum()) == total and int(shares.min()) >= 0
    exact = tempered.softmax(-1)[0] * total
    assert bool(((shares - exact).abs() < 1 + 1e-9).all())
