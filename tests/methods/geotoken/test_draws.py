"""Draws that share prefixes are K independent draws: the same ones given the same numbers, and in distribution."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.draws import Draws, choose, greedy, independent, naive, shared, uniforms
from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.model import GeoTokenModel
from tests.methods.geotoken.tiny import VARIANTS, batch_of, model_of

LEAVES = 6 * 4**3


def repeated(batch: Context, times: int) -> Context:
    return Context(*(value.repeat(times, *[1] * (value.dim() - 1)) for value in batch.tensors()))


def leaves(draws: Draws) -> np.ndarray:
    """(LEAVES,) how often each cell of TINY was drawn."""
    code = (draws.codes_RT * torch.tensor([64, 16, 4, 1])).sum(1)
    return np.bincount(code.numpy(), draws.count_R.numpy(), LEAVES)


def enumerated(model: GeoTokenModel, batch: Context, temperature: float) -> np.ndarray:
    """(LEAVES,) probability of each cell, from teacher forcing on all of them."""
    codes = torch.tensor(list(product(range(6), *[range(4)] * 3)))
    with torch.inference_mode():
        logits = model.logits(model.encode(repeated(batch, LEAVES)), codes)
    log = sum((x.double() / temperature).log_softmax(-1).gather(1, codes[:, t, None])[:, 0] for t, x in enumerate(logits))
    return log.exp().numpy()


def p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Chi-square; cells expected fewer than 5 times are put together."""
    rare = expected < 5
    pairs = [(observed[~rare], expected[~rare])]
    if rare.any():
        pairs.append((observed[rare].sum(keepdims=True), expected[rare].sum(keepdims=True)))
    return float(stats.chisquare(*(np.concatenate(side) for side in zip(*pairs, strict=True))).pvalue)


@pytest.mark.parametrize("config", VARIANTS)
def test_shared_independent_and_naive_draws_are_the_same_draws(config: GeoToken) -> None:
    model, batch, ids = model_of(config), batch_of(config), list("abcd")
    one, two, three = (draw(model, batch, ids, samples=20, seed=5) for draw in (shared, independent, naive))
    for other in (two, three):
        assert torch.equal(one.codes_RT, other.codes_RT)
        assert torch.equal(one.image_R, other.image_R)
        assert torch.equal(one.count_R, other.count_R)
        torch.testing.assert_close(one.log_probability_R, other.log_probability_R, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.tempered_R, other.tempered_R, atol=1e-4, rtol=1e-4)
    assert one.prefixes < two.prefixes == 4 * 20 * config.length
    assert torch.bincount(one.image_R, one.count_R).tolist() == [20] * 4


def test_candidates_are_distinct_and_ordered() -> None:
    draws = shared(model_of(), batch_of(images=9), [str(k) for k in range(9)])
    rows = torch.cat([draws.image_R[:, None], draws.codes_RT], dim=1)
    assert torch.equal(torch.unique(rows, dim=0), rows)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_chi_square_against_the_enumerated_distribution(temperature: float) -> None:
    model, batch = model_of(), batch_of(images=1)
    ids = [f"image {k}" for k in range(500)]
    observed = leaves(shared(model, repeated(batch, 500), ids, samples=30, temperature=temperature))
    assert p_value(observed, enumerated(model, batch, temperature) * 15_000) > 1e-3
    # The test has the power to see a temperature that is 5 % off.
    assert p_value(observed, enumerated(model, batch, temperature * 1.05) * 15_000) < 1e-3


def test_chi_square_against_the_naive_loop() -> None:
    model, batch = model_of(), batch_of(images=1)
    one = leaves(shared(model, repeated(batch, 500), [f"one {k}" for k in range(500)], samples=30))
    two = leaves(naive(model, repeated(batch, 500), [f"two {k}" for k in range(500)], samples=30))
    rare = one + two < 10
    tables = np.stack([np.append(counts[~rare], counts[rare].sum()) for counts in (one, two)])
    assert stats.chi2_contingency(tables).pvalue > 1e-3


def test_draws_of_one_image_are_independent_of_each_other() -> None:
    """If they were not, the number of an image's draws that fall on a face would vary by more, or less, than binomially."""
    model, batch = model_of(), batch_of(images=1)
    draws = shared(model, repeated(batch, 2000), [str(k) for k in range(2000)], samples=30)
    share = enumerated(model, batch, 0.7).reshape(6, 64).sum(1)
    face = int(np.argmin(abs(share - 0.5)))
    counts = np.bincount(draws.image_R, draws.count_R * (draws.codes_RT[:, 0] == face), 2000)
    expected = stats.binom.pmf(np.arange(31), 30, share[face]) * 2000
    assert p_value(np.bincount(counts.astype(int), minlength=31), expected) > 1e-3


def test_an_images_draws_do_not_depend_on_its_batch() -> None:
    model, batch, ids = model_of(), batch_of(images=7), [f"s3://bucket/{k}.jpg" for k in range(7)]
    whole = shared(model, batch, ids)
    for row in range(7):
        alone = shared(model, batch[row : row + 1], ids[row : row + 1])
        mine = whole.image_R == row
        assert torch.equal(whole.codes_RT[mine], alone.codes_RT) and torch.equal(whole.count_R[mine], alone.count_R)


def test_numbers_depend_on_name_and_seed_only() -> None:
    both = uniforms(["a", "b"], 0, 5, 7)
    assert both.shape == (2, 5, 7) and float(both.min()) >= 0 and float(both.max()) < 1
    assert torch.equal(uniforms(["b"], 0, 5, 7)[0], both[1])
    assert not torch.equal(both[0], both[1]) and not torch.equal(uniforms(["a"], 1, 5, 7)[0], both[0])
    # A seed and a name cannot run into each other.
    assert not torch.equal(uniforms(["1a"], 1, 5, 7), uniforms(["a"], 11, 5, 7))


def test_choose_never_names_an_impossible_value() -> None:
    tempered = torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf, 0.0, -torch.inf]], dtype=torch.float64)
    for uniform in (0.0, 0.5, 1 - 2**-53):
        chosen = choose(tempered, torch.tensor([uniform, uniform], dtype=torch.float64))
        assert chosen.tolist() == [0, 1]
    thirds = torch.full((4, 3), 1 / 3, dtype=torch.float64).log()
    assert choose(thirds, torch.tensor([0.0, 0.33, 0.34, 1 - 2**-53], dtype=torch.float64)).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("config", VARIANTS)
def test_greedy_takes_the_likeliest_token_each_time(config: GeoToken) -> None:
    model, batch = model_of(config), batch_of(config)
    codes, log = greedy(model, batch)
    with torch.inference_mode():
        logits = model.logits(model.encode(batch), codes)
    assert torch.equal(torch.stack([x.argmax(-1) for x in logits], dim=1), codes)
    expected = sum(x.double().log_softmax(-1).amax(-1) for x in logits)
    torch.testing.assert_close(log, expected, atol=1e-4, rtol=1e-4)


def test_a_cold_draw_is_the_greedy_one() -> None:
    model, batch = model_of(), batch_of(images=5)
    draws = shared(model, batch, list("abcde"), temperature=1e-4)
    codes, log = greedy(model, batch)
    assert torch.equal(draws.codes_RT, codes) and draws.count_R.tolist() == [30] * 5
    torch.testing.assert_close(draws.log_probability_R, log, atol=1e-5, rtol=1e-5)
