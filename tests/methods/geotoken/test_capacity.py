"""Memory: what a step keeps is counted tensor by tensor, and what fits follows from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from geobatch.methods.geotoken import capacity
from geobatch.methods.geotoken.capacity import free_bytes, largest_micro_batch, saved_bytes
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.train import Fit
from tests.methods.geotoken.tiny import TINY, examples_of


class Chain(nn.Module):
    """Two matrix products and a ReLU whose saved tensors can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Saves x (8), the ReLU's output (16), which the second product shares, and the squares' base (4)."""
        return self.two(self.one(x).relu()).square().sum()


def test_saved_bytes_are_those_of_a_graph_written_down() -> None:
    for images in (1, 5):
        assert saved_bytes(Chain(), [torch.randn(images, 8)], bf16=False) == images * 4 * (8 + 16 + 4)


def test_saved_bytes_grow_with_images_alone() -> None:
    config = replace(TINY, dropout=0.1)
    fit = Fit(config, Training(batch=16, steps=1, bf16=False), examples_of(config))
    batch = fit.batch(0)
    fit.model.train()
    before = torch.random.get_rng_state()
    one, two, three = (saved_bytes(fit.model, [part[:n] for part in batch], bf16=False) for n in (2, 4, 6))
    assert three - two == pytest.approx(two - one, rel=0.01)
    assert torch.equal(torch.random.get_rng_state(), before)  # counting draws no dropout of the step's


def test_what_fits_is_what_the_count_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(TINY, Training(batch=16, steps=1, bf16=False), examples_of())
    fit.model.train()
    batch = fit.batch(0)
    whole = largest_micro_batch(fit.model, batch, bf16=False)
    assert whole.images == 16 and not whole.tried
    wanted = int((whole.bytes_fixed + 5.5 * whole.bytes_an_image) / capacity.FILLED)
    monkeypatch.setattr(capacity, "free_bytes", lambda device: wanted)
    assert largest_micro_batch(fit.model, batch, bf16=False).images == 5
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 2 * wanted + 1)
    assert largest_micro_batch(fit.model, batch, bf16=False, sharing=2).images == 5  # each worker has half of the machine
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 0)
    assert largest_micro_batch(fit.model, batch, bf16=False).images == 1
    assert all(parameter.grad is None for parameter in fit.model.parameters())
    assert "5 images" not in str(whole) and "16 images at a time (counted)" in str(whole)
    # A step takes it, and says so.
    fit.advance()
    assert fit.micro_batch == 1 and fit.figures()["micro_batch"] == 1 and fit.figures()["mib_an_image"] > 0


def agree(rank: int, folder: str) -> None:
    """One of two workers, of which the second has room for three images only."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    fit = Fit(TINY, Training(batch=16, steps=1, bf16=False), examples_of(), rank=rank, world=2, local_world=2)
    found = largest_micro_batch(fit.model, fit.batch(0), bf16=False)
    if rank:
        wanted = int(2 * (found.bytes_fixed + 3.5 * found.bytes_an_image) / capacity.FILLED)
        capacity.free_bytes = lambda device: wanted
    fit.advance()
    assert fit.capacity is not None
    (Path(folder) / f"{rank}").write_text(f"{fit.capacity.images} {fit.micro_batch}")
    distributed.barrier()
    os._exit(0)  # gloo's destructor was seen to wait for ever for a peer that had left first


def test_workers_agree_on_what_the_least_of_them_holds(tmp_path: Path) -> None:
    multiprocessing.spawn(agree, (str(tmp_path),), nprocs=2)
    assert [(tmp_path / f"{rank}").read_text() for rank in range(2)] == ["8 3", "3 3"]


def test_this_machine_has_memory() -> None:
    assert 1 << 28 < free_bytes(torch.device("cpu")) < 1 << 44


def test_the_papers_network_keeps_a_few_hundred_megabytes_an_image() -> None:
    """On the meta device, which computes shapes and nothing else."""
    config = GeoToken.paper()
    with torch.device("meta"):
        model = GeoTokenModel(config)
    assert 16 * model.parameters_in_all == pytest.approx(0.88e9, rel=0.02)
