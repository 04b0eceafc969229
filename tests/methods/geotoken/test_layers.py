"""Attention written out against torch's own, and the layout that shares an image's memory."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from geobatch.methods.geotoken.layers import Kept, Rows, _explicit, _short
from tests.methods.geotoken.tiny import TINY


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
def test_attention_written_out_equals_torchs(causal: bool, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 5, 2, 7, 8, generator=generator).unbind()
    mask = (torch.rand(5, 1, 1, 7, generator=generator) < 0.7) if masked else None
    if mask is not None:
        mask[..., 0] = True
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(_explicit(query, key, value, mask, 0.0, causal), expected)
    half = [x.bfloat16() for x in (query, key, value)]
    assert _short(half[0], half[1])
    torch.testing.assert_close(_explicit(*half, mask, 0.0, causal).float(), expected, atol=0.03, rtol=0.03)


def test_long_rows_and_float32_are_left_to_torch() -> None:
    long = torch.zeros(1, 1, 364, 8, dtype=torch.bfloat16)
    assert not _short(long, long)
    assert not _short(long[:, :, :4].float(), long.float())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any), st.randoms())
def test_spread_and_gather_are_inverse_in_any_order(counts: list[int], random: Random) -> None:
    images = [image for image, count in enumerate(counts) for _ in range(count)]
    random.shuffle(images)
    image_R = torch.tensor(images)
    x_RW = torch.arange(len(image_R) * 2.0).reshape(-1, 2) + 1
    rows = Rows.of(image_R, len(counts))
    spread = rows.spread(x_RW)
    assert spread.shape == (len(counts), max(counts), 2)
    assert torch.equal(rows.gather(spread), x_RW)
    for image, count in enumerate(counts):
        assert torch.equal(spread[image, :count], x_RW[image_R == image])
        assert not spread[image, count:].any()


def test_kept_keys_follow_their_branches() -> None:
    """Against concatenation: prefixes [a, b] grow, b branches twice, all grow again."""
    kept = Kept(TINY, 5, torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    first = tuple(torch.randn(2, 2, 2, 1, 8, generator=generator))
    kept.append(0, first)
    parents = torch.tensor([0, 1, 1, 1])
    kept.branch(2, parents[2:], 1)
    second = tuple(torch.randn(2, 4, 2, 1, 8, generator=generator))
    for found, old, new in zip(kept.append(1, second), first, second, strict=True):
        assert torch.equal(found, torch.cat([old[parents], new], dim=2))
