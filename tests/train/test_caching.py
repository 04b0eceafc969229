"""Gradients by way of the cache against plain ones, with everything that could make two passes differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from geobatch.errors import UserError
from geobatch.train import caching
from geobatch.train.infonce import Contrast, InfoNCE

CPU = torch.device("cpu")


class Pair(nn.Module):
    """Two towers with dropout and their loss; the second may be frozen, the third part is nobody's."""

    def __init__(self, frozen: bool = False, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 8))
        self.right = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout))
        self.right.requires_grad_(not frozen)
        self.contrast = InfoNCE(Contrast(scale=8.0))

    def embed(self, piece: tuple[Tensor, Tensor]) -> list[Tensor]:
        a, b = nn.functional.normalize(self.left(piece[0]), dim=1), nn.functional.normalize(self.right(piece[1]), dim=1)
        return [a, b, piece[0]]

    def loss(self, parts: list[Tensor]) -> Tensor:
        return self.contrast(parts[0], parts[1])


def pieces(sizes: list[int]) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    def make(size: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(size, 6, generator=generator), torch.randn(size, 4, generator=generator)

    return [lambda size=size, seed=seed: make(size, seed) for seed, size in enumerate(sizes)]


def plain(pair: Pair, made: list[Callable[[], tuple[Tensor, Tensor]]]) -> Tensor:
    """All graphs at once: the same embeddings, nothing cached."""
    parts = [pair.embed(make()) for make in made]
    loss = pair.loss([torch.cat(part) for part in zip(*parts, strict=True)])
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("sizes", [[4, 4, 4], [5, 1, 6], [12]])
def test_the_gradient_is_the_plain_one(frozen: bool, sizes: list[int]) -> None:
    expected, ours = Pair(frozen), Pair(frozen)
    torch.manual_seed(9)
    loss = plain(expected, pieces(sizes))
    after = torch.rand(1)
    torch.manual_seed(9)
    assert caching.backward(pieces(sizes), ours.embed, ours.loss, CPU).item() == pytest.approx(loss.item(), rel=1e-6)
    assert torch.rand(1) == after  # whoever draws next draws as if there had been one pass
    for name, value in expected.named_parameters():
        mine = ours.get_parameter(name).grad
        if value.grad is None:
            assert mine is None and frozen and name.startswith("right")
            continue
        assert mine is not None and float(value.grad.norm()) > 1e-4
        assert float((mine - value.grad).abs().max()) < 1e-6 * float(value.grad.abs().max()) + 1e-8


def test_dropout_that_is_not_replayed_would_be_seen() -> None:
    """The reason for replaying: passes with other noise give another gradient."""
    first, second = Pair(), Pair()
    for seed, pair in ((9, first), (10, second)):
        torch.manual_seed(seed)
        caching.backward(pieces([6, 6]), pair.embed, pair.loss, CPU)
    assert first.left[0].weight.grad is not None
    assert float((first.left[0].weight.grad - second.left[0].weight.grad).abs().max()) > 1e-3


def test_gradients_are_added_to_what_is_there() -> None:
    pair = Pair(dropout=0.0)
    for _ in range(2):
        caching.backward(pieces([6, 6]), pair.embed, pair.loss, CPU)
    once = Pair(dropout=0.0)
    plain(once, pieces([6, 6]))
    assert torch.allclose(pair.left[0].weight.grad, 2 * once.left[0].weight.grad, atol=1e-6)


def test_memory_is_of_a_piece() -> None:
    """What autograd keeps of a piece is gone before the next."""
    kept: list[int] = []
    live = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal live
        live += value.numel()
        kept.append(live)
        return value

    def embed_of(pair: Pair) -> Callable[[tuple[Tensor, Tensor]], list[Tensor]]:
        def embed(piece: tuple[Tensor, Tensor]) -> list[Tensor]:
            nonlocal live
            live = 0
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                return pair.embed(piece)

        return embed

    pair = Pair()
    caching.backward(pieces([4] * 8), embed_of(pair), pair.loss, CPU)
    in_pieces = max(kept)
    kept.clear()
    whole = Pair()
    embed_of(whole)((torch.randn(32, 6), torch.randn(32, 4)))
    assert in_pieces < 0.35 * max(kept)


def test_normalisation_over_the_batch_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(UserError, match="1 normalises over the batch"):
        caching.refuse_batch_norm(network)
    caching.refuse_batch_norm(network.requires_grad_(False))


def test_alone_there_is_nothing_to_average() -> None:
    network = nn.Linear(2, 1)
    network.weight.grad = torch.ones(1, 2)
    caching.averaged(network.parameters())
    assert (network.weight.grad == 1).all() and network.bias.grad is None
