"""GeoToken on a GPU: the paper's network at full size, and a small one whose results are a CPU's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geobatch.methods.geotoken.capacity import largest_micro_batch
from geobatch.methods.geotoken.config import GeoToken, Sampling, Training
from geobatch.methods.geotoken.draws import shared
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import Reward, RewardModel
from geobatch.methods.geotoken.sample import Sample
from geobatch.methods.geotoken.train import Fit
from tests.methods.geotoken.test_sample import table_of
from tests.methods.geotoken.tiny import TINY, batch_of, examples_of, model_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
PLAIN = Training(batch=16, steps=5, learning_rate=3e-3, bf16=False, neighbour_dropout=0.2, blackout=0.3, smoothing_km=200.0)


@pytest.fixture(autouse=True)
def exact() -> None:
    """Matrix products in float32 proper, as a CPU's."""
    torch.backends.cuda.matmul.allow_tf32 = False


def test_a_gpu_trains_what_a_cpu_does() -> None:
    fits = [Fit(TINY, replace(PLAIN, micro_batch=5), examples_of(images=40), device=each) for each in ("cpu", "cuda")]
    losses = [[fit.advance() for _ in range(5)] for fit in fits]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize("compile", ["off", "on"])
def test_a_gpu_draws_what_a_cpu_does(compile: str) -> None:
    table = table_of(images=7)
    cpu = Sample(model_of(), Sampling(compile="off"))(table)
    gpu = Sample(model_of(), Sampling(compile=compile, batch=7), device="cuda")(table)  # type: ignore[arg-type]
    for one, other in zip(cpu["candidates"].to_pylist(), gpu["candidates"].to_pylist(), strict=True):
        assert [(x["latitude"], x["longitude"], x["count"]) for x in one] == [
            (x["latitude"], x["longitude"], x["count"]) for x in other
        ]
        np.testing.assert_allclose([x["score"] for x in one], [x["score"] for x in other], atol=1e-3)


def test_rewards_are_a_cpus() -> None:
    torch.manual_seed(0)
    model = RewardModel(TINY, hidden=32)
    table = Sample(model_of(), pass_on=True)(table_of(images=7))
    cpu = Reward(model)(table)["rewards"].to_pylist()
    gpu = Reward(model, device="cuda")(table)["rewards"].to_pylist()
    for one, other in zip(cpu, gpu, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_the_papers_network_trains_at_the_largest_batch_that_fits() -> None:
    config = GeoToken.paper()
    training = Training(batch=256, steps=2, bf16=True)
    fit = Fit(config, training, examples_of(config, images=256, gallery=500), device="cuda")
    losses = [fit.advance() for _ in range(2)]
    assert fit.capacity is not None and fit.capacity.tried and 1 <= fit.micro_batch <= 256
    print(fit.capacity, losses, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at the most")
    assert np.isfinite(losses).all() and losses[1] < losses[0]
    again = largest_micro_batch(fit.model, fit.batch(0), bf16=True)
    assert again.images >= 1


def test_the_papers_network_draws_thirty_for_each_image() -> None:
    config = GeoToken.paper()
    torch.manual_seed(0)
    model = GeoTokenModel(config).eval()
    batch = batch_of(config, images=2)
    with torch.autocast("cuda", torch.bfloat16):
        draws = shared(model.cuda(), batch.to("cuda"), ["a", "b"])
    assert torch.bincount(draws.image_R, draws.count_R).tolist() == [30, 30]
    assert torch.isfinite(draws.log_probability_R).all()
