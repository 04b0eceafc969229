"""Training: it learns, it is the same however it is shared or interrupted, and it says what it cannot do."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.config import Training
from geobatch.methods.geotoken.draws import greedy
from geobatch.methods.geotoken.examples import Batches
from geobatch.methods.geotoken.held import evaluate
from geobatch.methods.geotoken.inputs import context, places_of
from geobatch.methods.geotoken.train import Fit
from tests.methods.geotoken.tiny import TINY, examples_of

QUICK = Training(batch=16, steps=10, learning_rate=3e-3, bf16=False, neighbour_dropout=0.3)


def gradients(fit: Fit) -> list[torch.Tensor]:
    batch, codes = fit.batch(0)
    fit.model.zero_grad()
    fit.model(batch, codes).backward()
    return [parameter.grad for parameter in fit.model.parameters() if parameter.grad is not None]


def weights(fit: Fit) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in fit.model.parameters()])


@pytest.mark.parametrize("bf16", [False, True])
def test_a_tiny_set_is_learnt_by_heart(bf16: bool) -> None:
    examples = examples_of(replace(TINY, level=6))
    fit = Fit(replace(TINY, level=6), replace(QUICK, steps=250, bf16=bf16, schedule="cosine", neighbour_dropout=0.0), examples)
    losses = [fit.advance() for _ in range(fit.steps)]
    figures = evaluate(fit.model, examples, batch=5)
    assert losses[0] > 1 and losses[-1] < 0.1
    assert [figures[f"token_{t}"] for t in range(7)] == [1.0] * 7
    assert figures["loss"] < 0.1
    # All tokens right: the place is off by half a level-6 cell at most, about 140 km.
    assert figures["greedy_200km"] == 1.0 and figures["greedy_1km"] < 1.0


@pytest.mark.parametrize("world", [2, 4])
def test_the_mean_of_workers_gradients_is_the_gradient_of_one(world: int) -> None:
    examples = examples_of(images=40)
    whole = gradients(Fit(TINY, QUICK, examples))
    parts = [gradients(Fit(TINY, QUICK, examples, rank=rank, world=world)) for rank in range(world)]
    for expected, *found in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(found).mean(0), expected, atol=1e-6, rtol=1e-4)


def test_every_image_is_seen_once_an_epoch_by_one_worker() -> None:
    examples = examples_of(images=50)
    fits = [Fit(TINY, QUICK, examples, rank=rank, world=2) for rank in range(2)]
    assert fits[0].steps_an_epoch == 3
    epochs = [np.concatenate([fit.rows(step) for step in range(at, at + 3) for fit in fits]) for at in (0, 3)]
    assert all(len(np.unique(rows)) == 48 for rows in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_restored_fit_goes_on_as_if_never_stopped() -> None:
    config, examples = replace(TINY, dropout=0.2), examples_of(images=40)
    straight, first = Fit(config, QUICK, examples), Fit(config, QUICK, examples)
    for _ in range(6):
        straight.advance()
    for _ in range(3):
        first.advance()
    second = Fit(config, replace(QUICK), examples)
    second.restore(first.state())
    torch.rand(100)  # what else a process draws has no influence
    losses = [second.advance() for _ in range(3)]
    assert second.step == 6 and len(set(losses)) == 3
    assert torch.equal(weights(second), weights(straight))
    other = Fit(config, replace(QUICK, seed=1), examples)
    assert not torch.equal(weights(other), weights(Fit(config, QUICK, examples)))


def test_the_learning_rate_follows_its_schedule() -> None:
    examples = examples_of(images=48)
    paper = Fit(TINY, Training(batch=16, epochs=4, learning_rate=1.0, gamma=0.9), examples)
    assert paper.steps == 12
    assert [paper.learning_rate(step) for step in range(12)] == pytest.approx([0.9 ** (step // 3) for step in range(12)])
    cosine = Fit(TINY, Training(batch=16, steps=100, learning_rate=1.0, schedule="cosine", warm_up=10), examples)
    assert cosine.learning_rate(0) == pytest.approx(0.1, rel=1e-3)
    assert cosine.learning_rate(50) == pytest.approx(0.5)
    assert cosine.learning_rate(99) < 1e-3
    cosine.advance()
    assert cosine.optimiser.param_groups[0]["lr"] == cosine.learning_rate(0)


def test_a_batch_is_the_context_of_its_arrays() -> None:
    examples = examples_of(images=30)
    rows = np.array([3, 17, 4])
    batch, codes = Batches(TINY, examples).take(rows)
    near = examples.neighbours[rows]
    lost = near < 0
    assert lost.any()
    expected = context(
        TINY,
        examples.vectors[rows],
        examples.gallery.vectors[near],
        np.where(lost, np.nan, examples.gallery.latitude[near]),
        np.where(lost, np.nan, examples.gallery.longitude[near]),
    )
    assert torch.equal(batch.present_BM, expected.present_BM)
    assert torch.equal(batch.views_BVD, expected.views_BVD)
    for name in ("neighbour_views_BMVD", "neighbour_codes_BMT", "neighbour_points_BM3"):
        assert torch.equal(getattr(batch, name)[~lost], getattr(expected, name)[~lost]), name
    assert codes.shape == (3, TINY.length)


def test_neighbours_are_hidden_as_often_as_asked() -> None:
    examples = replace(examples_of(images=40), neighbours=np.zeros((40, 3), np.int64))
    fit = Fit(TINY, replace(QUICK, neighbour_dropout=0.25), examples)
    shown = torch.stack([fit.batch(step)[0].present_BM for step in range(50)]).double()
    assert float(shown.mean()) == pytest.approx(0.75, abs=0.04)


def test_evaluation_measures_what_it_says() -> None:
    examples = examples_of(images=23)
    fit = Fit(TINY, QUICK, examples)
    figures = evaluate(fit.model, examples, batch=7)
    batch, codes = Batches(TINY, examples).take(np.arange(23))
    with torch.inference_mode():
        assert figures["loss"] == pytest.approx(float(fit.model.eval()(batch, codes)), rel=1e-5)
    # A level-3 cell is over 1,000 km wide: knowing the face right is knowing the place to a few thousand km.
    off = haversine_km(*_greedy_places(fit), examples.latitude, examples.longitude)
    assert figures["greedy_2500km"] == pytest.approx(float((off <= 2500).mean()))


def _greedy_places(fit: Fit) -> tuple[Any, Any]:
    batch, _ = fit.batches.take(np.arange(len(fit.batches)))
    return places_of(greedy(fit.model, batch)[0].numpy(), TINY)


def test_the_wrapper_is_what_computes_the_loss() -> None:
    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *arguments: Any) -> torch.Tensor:
            return 2 * self.inner(*arguments)

    examples = examples_of()
    plain, doubled = Fit(TINY, QUICK, examples), Fit(TINY, QUICK, examples, wrap=Doubled)
    assert doubled.advance() == pytest.approx(2 * plain.advance())


def test_what_cannot_be_trained_is_refused() -> None:
    examples = examples_of()
    with pytest.raises(UserError, match="shared equally by 3 workers"):
        Fit(TINY, QUICK, examples, world=3)
    with pytest.raises(UserError, match="less than one batch"):
        Fit(TINY, replace(QUICK, batch=18), examples)
    with pytest.raises(UserError, match="not 10 long"):
        Fit(replace(TINY, vector_size=5), QUICK, examples)
    with pytest.raises(UserError, match="retrieve that many"):
        Fit(replace(TINY, neighbours=4), QUICK, examples)


HARD = replace(QUICK, blackout=0.5, smoothing_km=300.0)


def learnt(fit: Fit) -> torch.Tensor:
    """The weights but for the biases of keys: these add the same to all scores of a row, so that their gradient is nothing
    but rounding, of which AdamW makes whole steps.
    """
    values = {name: value.detach().clone() for name, value in fit.model.named_parameters()}
    for name, value in values.items():
        if name.endswith("key_value.bias"):
            value[: len(value) // 2] = 0
    return torch.cat([value.flatten() for value in values.values()])


def wide_examples(images: int = 40) -> Any:
    """Twice the neighbours that the network reads, so that farther ones may move up."""
    examples = examples_of(images=images)
    rng = np.random.default_rng(1)
    return replace(examples, neighbours=np.concatenate([examples.neighbours, rng.integers(0, 40, (images, 3))], axis=1))


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_micro_batches_make_the_plain_step(micro_batch: int) -> None:
    plain, small = (Fit(TINY, replace(HARD, micro_batch=size), wide_examples()) for size in (16, micro_batch))
    losses = [[fit.advance() for _ in range(4)] for fit in (plain, small)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(learnt(small), learnt(plain), atol=1e-5, rtol=1e-5)
    assert not torch.equal(weights(plain), weights(Fit(TINY, HARD, wide_examples())))


@pytest.mark.parametrize("world", [2, 4])
def test_what_is_hidden_and_smoothed_is_the_same_for_any_number_of_workers(world: int) -> None:
    def whole_and_part(world: int) -> list[torch.Tensor]:
        fits = [Fit(TINY, HARD, wide_examples(), rank=rank, world=world) for rank in range(world)]
        each = []
        for fit in fits:
            fit.model.zero_grad()
            fit.model(*fit.batch(3)).backward()
            each.append(torch.cat([parameter.grad.flatten() for parameter in fit.model.parameters()]))
        return each

    alone, shared = whole_and_part(1)[0], torch.stack(whole_and_part(world)).mean(0)
    torch.testing.assert_close(shared, alone, atol=1e-6, rtol=1e-4)


def test_a_blackout_changes_what_is_seen_and_nothing_else() -> None:
    examples = wide_examples()
    with_, without = (Fit(TINY, replace(QUICK, neighbour_dropout=0.0, blackout=share), examples) for share in (1.0, 0.0))
    seen, plain = with_.seen(2)[0], without.seen(2)[0]
    assert not torch.equal(seen.neighbour_points_BM3, plain.neighbour_points_BM3)
    assert torch.equal(seen.views_BVD, plain.views_BVD) and torch.equal(with_.seen(2)[1], without.seen(2)[1])


def test_images_kept_out_are_measured_and_the_best_weights_kept() -> None:
    examples = examples_of(images=40)
    training = replace(QUICK, steps=9, validate_steps=2, keep="best", learning_rate=3e-2)
    rows = np.random.default_rng(0).permutation(40)
    fit = Fit(TINY, training, examples.some(rows[:30]), held=examples.some(rows[30:]))
    seen: dict[int, torch.Tensor] = {}
    while fit.step < fit.steps:
        fit.advance()
        seen[fit.step] = weights(fit)
    assert [each["step"] for each in fit.history] == [2, 4, 6, 8, 9]
    assert {"loss", "greedy_25km", "token_0"} <= fit.history[0].keys()
    best = min(fit.history, key=lambda each: each["loss"])
    assert fit.figures()["best_step"] == best["step"] < 9  # random places: what is learnt is of no use
    kept = torch.cat([fit.weights()[name].flatten() for name, _ in fit.model.named_parameters()])
    assert torch.equal(kept, seen[int(best["step"])])
    assert not Fit(TINY, training, examples, held=examples, rank=1, world=2).history
    last = Fit(TINY, replace(training, keep="last", steps=2, validate_steps=0), examples, held=examples)
    last.advance(), last.advance()
    assert [each["step"] for each in last.history] == [2]
    assert torch.equal(last.weights()["codes.weight"], last.model.state_dict()["codes.weight"])


def test_a_restored_fit_goes_on_with_every_option() -> None:
    config = replace(TINY, dropout=0.2)
    training = replace(HARD, micro_batch=3, validate_steps=2, keep="best")
    examples = wide_examples()
    straight, first = (Fit(config, training, examples, held=examples) for _ in range(2))
    for _ in range(6):
        straight.advance()
    for _ in range(3):
        first.advance()
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second = Fit(config, training, examples, held=examples)
    second.restore(torch.load(buffer, weights_only=True))
    for _ in range(3):
        second.advance()
    assert torch.equal(weights(second), weights(straight))
    assert second.history == straight.history and second.best.keys() == straight.best.keys()
    assert all(torch.equal(second.best[name], straight.best[name]) for name in straight.best)
    # A size found by counting is part of the state: another machine must not change the dropout's masks.
    found = Fit(config, replace(training, micro_batch=0), examples)
    found.advance()
    other = Fit(config, replace(training, micro_batch=0), examples)
    other.restore({**found.state(), "micro_batch": 7})
    other.advance()
    assert found.micro_batch == 16 and other.micro_batch == 7


def test_workers_talk_once_a_step(tmp_path: Path) -> None:
    """Under torch's own wrapper, whose hook counts: the gradients of all micro-batches are exchanged together."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    exchanged: list[int] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, and wants no strings
        exchanged.append(bucket.index())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        wrapped = torch.nn.parallel.DistributedDataParallel(module)
        wrapped.register_comm_hook(None, hook)
        return wrapped

    try:
        fit = Fit(TINY, replace(HARD, micro_batch=3), wide_examples(), wrap=wrap)
        alone = Fit(TINY, replace(HARD, micro_batch=16), wide_examples())
        for step in range(3):
            exchanged.clear()
            assert fit.advance() == pytest.approx(alone.advance(), abs=1e-5)
            assert exchanged.count(0) == 1, step
        torch.testing.assert_close(learnt(fit), learnt(alone), atol=1e-5, rtol=1e-5)
    finally:
        torch.distributed.destroy_process_group()
