"""The losses against plain loops, and two workers against one."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from geobatch.errors import UserError
from geobatch.geo import point
from geobatch.geo.distance import haversine_km
from geobatch.train import caching
from geobatch.train.infonce import Contrast, InfoNCE, Others, distances, nested

BATCH, SIZE = 12, 6


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left, right = (nn.functional.normalize(torch.randn(BATCH, SIZE, generator=generator), dim=1) for _ in range(2))
    lat, lon = 40 + torch.rand(BATCH, generator=generator) * 3, 179 + torch.rand(BATCH, generator=generator) * 2
    return left, right, torch.from_numpy(point.unit_vectors(lat.numpy(), lon.numpy())).float()


def plain(left: torch.Tensor, right: torch.Tensor, scale: float, target: list[list[float]], out: set[tuple[int, int]]) -> float:
    """Both directions, written out."""
    total = 0.0
    for a, b, weight in ((left, right, target), (right, left, [list(row) for row in zip(*target, strict=True)])):
        for i in range(len(a)):
            logits = {j: scale * float(a[i] @ b[j]) for j in range(len(b)) if (i, j) not in out}
            norm = math.log(sum(math.exp(value) for value in logits.values()))
            share = sum(weight[i])
            total -= sum(weight[i][j] / share * (logits[j] - norm) for j in logits)
    return total / (2 * len(left))


def test_pairs_are_targets() -> None:
    left, right, _ = batch()
    own = [[float(i == j) for j in range(BATCH)] for i in range(BATCH)]
    assert InfoNCE(Contrast(scale=8.0))(left, right).item() == pytest.approx(plain(left, right, 8.0, own, set()), abs=1e-5)


def test_images_of_the_same_place_are_no_negatives() -> None:
    left, right, points = batch()
    km = distances(points)
    out = {(i, j) for i in range(BATCH) for j in range(BATCH) if i != j and km[i, j] < 80}
    assert 0 < len(out) < BATCH * (BATCH - 1)
    own = [[float(i == j) for j in range(BATCH)] for i in range(BATCH)]
    ours = InfoNCE(Contrast(scale=8.0, same_km=80.0))(left, right, points)
    assert ours.item() == pytest.approx(plain(left, right, 8.0, own, out), abs=1e-5)


def test_what_is_called_the_same_is_no_negative() -> None:
    left, right, points = batch()
    lat, lon = point.lat_lon(points.double().numpy())
    losses = InfoNCE(Contrast(scale=8.0, same_cell=6))
    cells = losses.config.cells(lat, lon)
    assert cells is not None
    out = {(i, j) for i in range(BATCH) for j in range(BATCH) if i != j and cells[i] == cells[j]}
    assert 0 < len(out) < BATCH * (BATCH - 1)
    own = [[float(i == j) for j in range(BATCH)] for i in range(BATCH)]
    assert losses(left, right, same=cells).item() == pytest.approx(plain(left, right, 8.0, own, out), abs=1e-5)
    assert Contrast().cells(lat, lon) is None
    near = InfoNCE(Contrast(scale=8.0, same_km=80.0, same_cell=6))
    km = distances(points)
    out |= {(i, j) for i in range(BATCH) for j in range(BATCH) if i != j and km[i, j] < 80}
    assert near(left, right, points, cells).item() == pytest.approx(plain(left, right, 8.0, own, out), abs=1e-5)


def test_targets_fall_with_distance() -> None:
    left, right, points = batch()
    soft = torch.exp(-0.5 * (distances(points) / 60) ** 2).tolist()
    ours = InfoNCE(Contrast(scale=8.0, soft_km=60.0))(left, right, points)
    assert ours.item() == pytest.approx(plain(left, right, 8.0, soft, set()), abs=1e-5)


def test_between_images_each_looks_for_the_others_near_it() -> None:
    left, _, points = batch()
    km = distances(points)
    loss = InfoNCE(Contrast(scale=8.0, soft_km=60.0)).between(left, points)
    total, rows = 0.0, 0
    for i in range(BATCH):
        weight = {j: math.exp(-0.5 * (float(km[i, j]) / 60) ** 2) for j in range(BATCH) if j != i}
        if sum(weight.values()) <= math.exp(-8):
            continue
        norm = math.log(sum(math.exp(8 * float(left[i] @ left[j])) for j in weight))
        total -= sum(w / sum(weight.values()) * (8 * float(left[i] @ left[j]) - norm) for j, w in weight.items())
        rows += 1
    assert loss.item() == pytest.approx(total / rows, abs=1e-5)


def test_images_alone_have_no_loss_but_a_gradient() -> None:
    vectors = nn.functional.normalize(torch.randn(3, SIZE), dim=1).requires_grad_()
    far = torch.eye(3)
    loss = InfoNCE(Contrast(soft_km=10.0)).between(vectors, far)
    loss.backward()
    assert loss.item() == 0 and vectors.grad is not None and torch.isfinite(vectors.grad).all()


def test_gradients_are_finite_everywhere() -> None:
    left, right, points = batch()
    for config in (Contrast(soft_km=60.0), Contrast(same_km=500.0), Contrast()):
        a = left.clone().requires_grad_()
        InfoNCE(config)(a, right, points).backward()
        assert a.grad is not None and torch.isfinite(a.grad).all()
    a = left.clone().requires_grad_()
    InfoNCE(Contrast(soft_km=60.0)).between(a, points).backward()
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_the_scale_is_clamped_and_may_be_fixed() -> None:
    assert InfoNCE(Contrast(scale=500.0)).scale().item() == pytest.approx(100.0)
    assert not InfoNCE(Contrast(learn_scale=False)).log_scale.requires_grad


def test_two_meanings_of_near_contradict() -> None:
    for near in ({"same_km": 1.0}, {"same_cell": 9}):
        with pytest.raises(UserError, match="set one side to 0"):
            InfoNCE(Contrast(soft_km=1.0, **near))
    left, right, _ = batch()
    with pytest.raises(ValueError, match="need the places"):
        InfoNCE(Contrast(same_km=1.0))(left, right)


def further(seed: int = 4, rows: int = 8) -> torch.Tensor:
    """Rows that belong to no text."""
    return nn.functional.normalize(torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)), dim=1)


def one_way(texts: torch.Tensor, tiles: torch.Tensor, scale: float, numbers: tuple[list[int], list[int]]) -> float:
    """From the first rows to the second, of which the first len(texts) are their own; what has a text's number is left out."""
    total = 0.0
    for i, text in enumerate(texts):
        seen = [j for j in range(len(tiles)) if j == i or numbers[0][i] != numbers[1][j]]
        total -= scale * float(text @ tiles[i]) - math.log(sum(math.exp(scale * float(text @ tiles[j])) for j in seen))
    return total / len(texts)


NUMBERS, OTHERS = [0, 1, 2, 1, 3, 4, 5, 0, 6, 7, 8, 9], [2, 20, 21, 7, 22, 2, 23, 0]


def test_one_direction_knows_further_negatives_and_leaves_out_the_same_place() -> None:
    left, right, _ = batch()
    losses, others = InfoNCE(Contrast(scale=8.0)), further()
    same, same_others = torch.tensor(NUMBERS), torch.tensor(OTHERS)
    apart = list(range(100, 100 + BATCH))
    plainest = losses.towards(left, right)
    assert plainest.item() == pytest.approx(one_way(left, right, 8.0, (apart, apart)), abs=1e-5)
    masked = losses.towards(left, right, same)
    assert masked.item() == pytest.approx(one_way(left, right, 8.0, (NUMBERS, NUMBERS)), abs=1e-5)
    full = losses.towards(left, right, same, Others(others, same_others, same))
    assert full.item() == pytest.approx(one_way(left, torch.cat([right, others]), 8.0, (NUMBERS, NUMBERS + OTHERS)), abs=1e-5)
    assert len({round(each.item(), 4) for each in (plainest, masked, full)}) == 3
    # Both directions together are the symmetric loss.
    both = (losses.towards(left, right, same) + losses.towards(right, left, same)) / 2
    assert both.item() == pytest.approx(losses(left, right, same=same).item(), abs=1e-6)
    with pytest.raises(ValueError, match="knows no distances"):
        InfoNCE(Contrast(same_km=1.0)).towards(left, right)


def test_nested_losses_are_of_the_first_numbers_renormalised() -> None:
    left, right, _ = batch()
    losses = InfoNCE(Contrast(scale=8.0))
    cut = [(left, right), *((left[:, :d] / left[:, :d].norm(dim=1)[:, None], right[:, :d] / right[:, :d].norm(dim=1)[:, None])
                            for d in (2, 4))]  # fmt: skip
    apart = list(range(BATCH))
    expected = sum(one_way(*pair, 8.0, (apart, apart)) for pair in cut) / 3
    assert nested(losses.towards, [left, right], (2, 4)).item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(nested(losses.towards, [left, right], ()), losses.towards(left, right))


def test_distances_are_the_earths() -> None:
    _, _, points = batch(3)
    lat, lon = point.lat_lon(points.double().numpy())
    exact = haversine_km(lat[:, None], lon[:, None], lat, lon)
    assert (distances(points) - torch.from_numpy(exact)).abs().max() < 0.1
    assert (distances(points).diagonal() == 0).all()


def model() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(SIZE, 10), nn.Tanh(), nn.Linear(10, SIZE))


class Losses(nn.Module):
    """A network and all losses, as training wraps them."""

    def __init__(self) -> None:
        super().__init__()
        self.network = model()
        self.pairs, self.places = InfoNCE(Contrast(scale=8.0, same_km=40.0)), InfoNCE(Contrast(scale=8.0, soft_km=60.0))
        self.texts = InfoNCE(Contrast(scale=8.0))

    def embed(self, left: torch.Tensor, right: torch.Tensor) -> list[torch.Tensor]:
        return [nn.functional.normalize(self.network(side), dim=1) for side in (left, right)]

    def loss(self, a: torch.Tensor, b: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        same = (points[:, 1] * 100).long() % 5
        more = Others(nn.functional.normalize(b + points.repeat(1, 2), dim=1), same + 1, same)  # of this worker's rows alone
        one_way = nested(
            lambda *sides: self.texts.towards(*sides[:2], same, more._replace(vectors=sides[2])), [a, b, more[0]], (3,)
        )
        return self.pairs(a, b, points, same) + self.places.between(a, points) + self.places(a, b, points) + one_way

    def forward(self, left: torch.Tensor, right: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return self.loss(*self.embed(left, right), points)


def gradients(losses: nn.Module, rows: slice) -> list[torch.Tensor]:
    value = losses(*(value[rows] for value in batch()))
    value.backward()
    return [value.detach(), *(value.grad for value in losses.parameters())]


def cached(rows: slice) -> list[torch.Tensor]:
    """The same by way of the cache, two rows at a time."""
    losses = Losses()
    left, right, points = (value[rows] for value in batch())
    pieces = [lambda at=at: (left[at : at + 2], right[at : at + 2]) for at in range(0, len(left), 2)]
    value = caching.backward(
        pieces, lambda piece: losses.embed(*piece), lambda parts: losses.loss(*parts, points), torch.device("cpu")
    )
    caching.averaged(losses.parameters())
    return [value, *(value.grad for value in losses.parameters())]


def work(rank: int, folder: str) -> None:
    """One of two workers with every second image."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rows = slice(rank, None, 2)
    wrapped = nn.parallel.DistributedDataParallel(Losses())
    torch.save({"wrapped": gradients(wrapped, rows), "cached": cached(rows)}, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's destructor was seen to wait for ever for a peer that had left first


def test_two_workers_have_the_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = gradients(Losses(), slice(None))
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        for way in ("wrapped", "cached"):
            assert len(shared[way]) == len(alone) == 8
            for ours, expected in zip(shared[way], alone, strict=True):
                assert float(expected.norm()) > 1e-6
                assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-6), way
