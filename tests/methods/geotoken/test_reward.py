"""The reward model: what it reads, what it learns, and the stage that asks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Sampling, Training
from geobatch.methods.geotoken.draws import shared
from geobatch.methods.geotoken.inputs import codes_of, places_of
from geobatch.methods.geotoken.reward import Reward, RewardModel
from geobatch.methods.geotoken.reward_train import RewardFit, judged
from geobatch.methods.geotoken.sample import Sample
from tests.methods.geotoken.test_sample import changed, table_of
from tests.methods.geotoken.test_train import learnt
from tests.methods.geotoken.tiny import TINY, VARIANTS, batch_of, examples_of, model_of

TRAINING = Training(batch=16, steps=4, learning_rate=3e-3, bf16=False, neighbour_dropout=0.3, blackout=0.3)
REWARDING = Rewarding(samples=6, hidden=32, within_km=4000.0, training=TRAINING)


def reward_of(config: GeoToken = TINY, seed: int = 0) -> RewardModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RewardModel(config, hidden=32)
        model.begin(model_of(config))
        torch.nn.init.normal_(model.end)
    return model.eval()


def weights(fit: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in fit.model.parameters()])


@pytest.mark.parametrize("config", VARIANTS)
def test_a_candidate_is_judged_by_itself(config: GeoToken) -> None:
    """Candidates share an image's memory and nothing else: each alone, and with its image alone, has the same logits."""
    model, batch = reward_of(config), batch_of(config)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, config.vocabularies, (4, 5, config.length)))
    with torch.inference_mode():
        whole = model.logits(batch, codes)
        for image in range(4):
            for each in range(5):
                alone = model.logits(batch[image : image + 1], codes[image : image + 1, each : each + 1])
                torch.testing.assert_close(alone[0, 0], whole[image, each], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS)
def test_every_token_and_every_parameter_has_influence(config: GeoToken) -> None:
    model, batch = reward_of(config), batch_of(config)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (4, 2, config.length)))
    with torch.inference_mode():
        before = model.logits(batch, codes)
        for t in range(config.length):
            other = codes.clone()
            other[..., t] = (other[..., t] + 1) % 4
            assert not torch.allclose(model.logits(batch, other), before, atol=1e-5), t
    model(batch, codes, torch.tensor([[0, 1]] * 4)).backward()
    # Workers that average gradients want one of every parameter.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_draws_are_the_networks_own_and_judged_by_distance() -> None:
    examples = examples_of(images=32)
    fit = RewardFit(REWARDING, model_of(), examples)
    context, codes, right = fit.batch(1)
    assert codes.shape == (16, 6, TINY.length) and right.shape == (16, 6)
    rows = fit.rows(1)
    draws = shared(model_of(), context, [f"0/0/{row}" for row in rows], samples=6, temperature=0.7)
    for image in range(16):
        mine = draws.image_R == image
        expected = draws.codes_RT[mine].repeat_interleave(draws.count_R[mine], 0)
        assert torch.equal(codes[image], expected)
        latitude, longitude = places_of(codes[image].numpy(), TINY)
        off = haversine_km(latitude, longitude, examples.latitude[rows[image]], examples.longitude[rows[image]])
        assert right[image].tolist() == (off <= 4000).astype(int).tolist()
    # The next pass over the images draws anew.
    assert fit.steps_an_epoch == 2
    later = np.concatenate([fit.batch(step)[1].numpy() for step in (2, 3)])
    assert not np.array_equal(np.sort(later.ravel()), np.sort(np.concatenate([fit.batch(0)[1], codes]).ravel()))


@pytest.mark.parametrize("world", [2])
def test_workers_train_what_one_does(world: int) -> None:
    def gradient(rank: int, world: int) -> torch.Tensor:
        fit = RewardFit(REWARDING, model_of(), examples_of(images=32), rank=rank, world=world)
        fit.model(*fit.batch(0)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in fit.model.parameters()])

    parts = torch.stack([gradient(rank, world) for rank in range(world)]).mean(0)
    torch.testing.assert_close(parts, gradient(0, 1), atol=1e-6, rtol=1e-4)


def test_it_is_resumed_and_may_go_through_in_parts() -> None:
    examples = examples_of(images=32)
    rewarding = replace(REWARDING, training=replace(TRAINING, micro_batch=16))
    straight, first, second, small = (RewardFit(rewarding, model_of(), examples) for _ in range(4))
    for _ in range(4):
        straight.advance()
    for _ in range(2):
        first.advance()
    second.restore(first.state())
    small.micro_batch = 5
    for _ in range(2):
        second.advance()
    assert torch.equal(weights(second), weights(straight))
    for _ in range(4):
        small.advance()
    torch.testing.assert_close(learnt(small), learnt(straight), atol=1e-5, rtol=1e-5)
    # The network that draws is as it was: judging must not teach it.
    for one, other in zip(straight.trained.parameters(), model_of().parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_learns_which_draws_are_right() -> None:
    """By heart: places of 16 images, whose vectors tell where they are."""
    training = replace(TRAINING, steps=80, learning_rate=1e-2, neighbour_dropout=0.0, blackout=0.0, schedule="cosine")
    examples = examples_of(images=16)
    rewarding = replace(REWARDING, samples=10, within_km=7000.0, training=training)
    fit = RewardFit(rewarding, model_of(sharpness=1.0), examples, held=examples)
    for _ in range(80):
        fit.advance()
    figures = fit.history[-1]
    print(figures)
    assert figures["step"] == 80 and fit.measured(examples)["loss"] == figures["loss"]
    assert figures["loss"] < 0.8 * figures["loss_constant"] and figures["auc"] > 0.8
    assert figures["right_mean"] + 0.2 < figures["right_reward"] <= figures["right_any"]


def test_figures_are_what_they_say() -> None:
    odds = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.5, 3.0]])
    right = torch.tensor([[1, 0, 0], [0, 1, 0]])
    found = judged(odds, right)
    # Pairs (right, wrong): 2 beats 1, -1, 0.5, not 3; 0.5 beats -1, ties 0.5, loses to 1 and 3.
    assert found["auc"] == pytest.approx((3 + 1.5) / 8)
    assert found["right_mean"] == pytest.approx(1 / 3) and found["right_reward"] == 0.5 and found["right_any"] == 1.0
    expected = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3)
    assert found["loss_constant"] == pytest.approx(expected)
    assert found["loss"] == pytest.approx(float(np.mean(np.log1p(np.exp([-2, 1, -1, 0.5, -0.5, 3])))), rel=1e-6)


def test_rewards_are_aligned_with_their_candidates() -> None:
    model, table = reward_of(), Sample(model_of(), Sampling(samples=12), pass_on=True)(table_of())
    assert "neighbour_vectors" in table.column_names
    found = Reward(model, images=3)(table)
    assert "neighbour_vectors" not in found.column_names
    assert found.schema.field("rewards").type == pa.list_(pa.float32())
    whole = Reward(model, images=64)(table)["rewards"].to_pylist()
    context = batch_of(images=7)
    for row, (candidates, rewards) in enumerate(
        zip(found["candidates"].to_pylist(), found["rewards"].to_pylist(), strict=True)
    ):
        assert len(candidates) == len(rewards)
        latitude, longitude = (np.array([each[name] for each in candidates]) for name in ("latitude", "longitude"))
        codes = torch.from_numpy(codes_of(latitude, longitude, TINY))[None]
        with torch.inference_mode():
            logits = model.logits(context[row : row + 1], codes)[0]
        assert rewards == pytest.approx((logits[:, 1] - logits[:, 0]).tolist(), abs=1e-4)
        assert rewards == pytest.approx(whole[row], abs=1e-4)


def test_candidates_without_a_place_and_images_without_candidates() -> None:
    table = Sample(model_of(), Sampling(samples=12), pass_on=True)(table_of())
    candidates = table["candidates"].to_pylist()
    candidates[1][0]["latitude"] = None
    candidates[2] = []
    broken = table.set_column(
        table.column_names.index("candidates"), "candidates", pa.array(candidates, table["candidates"].type)
    )
    found, expected = Reward(reward_of())(broken)["rewards"].to_pylist(), Reward(reward_of())(table)["rewards"].to_pylist()
    assert found[1][0] is None and found[1][1:] == pytest.approx(expected[1][1:], abs=1e-4)
    assert found[2] == []
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    dead = Sample(model_of(), pass_on=True)(changed(table_of(), "vector", 3, None))
    rewards = Reward(reward_of())(dead)
    assert rewards["rewards"].to_pylist()[3] is None and rewards["reason"].to_pylist()[3] == "failed"


def test_a_saved_model_comes_back_and_others_are_refused(tmp_path: Path) -> None:
    model, batch = reward_of(), batch_of()
    model.save(tmp_path / "reward", training={"steps": 3})
    codes = torch.zeros(4, 2, TINY.length, dtype=torch.long)
    with torch.inference_mode():
        assert torch.equal(RewardModel.load(tmp_path / "reward").logits(batch, codes), model.logits(batch, codes))
    for folder in (tmp_path / "nothing", tmp_path / "network"):
        model_of().save(tmp_path / "network")
        with pytest.raises(UserError, match="--reward"):
            RewardModel.load(folder)
