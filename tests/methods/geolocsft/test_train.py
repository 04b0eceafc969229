"""Training: the loss is what it says, however many workers share it, whatever kills it, and it is measured in kilometres.

Twelve crops and a tiny Gemma 3 in float32. The reference is a loop of peft and torch alone, one example at a time, whose tokens
and mask come from the processor's own chat.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import distributed, multiprocessing, nn

from geobatch.engine.answer import Answer, parse
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geolocsft.config import Tuning, Validation
from geobatch.methods.geolocsft.data import batch
from geobatch.methods.geolocsft.prompts import messages, student
from geobatch.methods.geolocsft.train import HISTORY, Fit
from geobatch.train import lora
from geobatch.train.loop import Worker
from geobatch.train.lora import LoRA
from geobatch.train.shard import shard
from tests.engine import tiny
from tests.methods.geolocsft import pupil

STEPS = 20
QUICK = Tuning(lora=LoRA(rank=4, alpha=8), batch=4, micro_batch=1, steps=STEPS, learning_rate=3e-3, warm_up=5, bf16=False,
               checkpointing=False, bucket=3)  # fmt: skip
SILENT = Validation(images=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A base and a file of examples."""
    folder = tmp_path_factory.mktemp("world")
    base = pupil.base(tiny.gemma3, folder / "base")
    path, _ = pupil.examples(folder, base, pupil.crops(12))
    return base, path


def made(world: tuple[str, Path], tuning: Tuning = QUICK, validation: Validation = SILENT, worker: Worker | None = None,
         held: np.ndarray | None = None) -> Fit:  # fmt: skip
    base, path = world
    aside = pupil.Examples(path, pupil.DECODE, np.arange(0) if held is None else held)
    encoder = pupil.Encoder(pupil.Chat(base), "tag", tuning.coordinate_weight)
    return Fit(base, tuning, validation, pupil.opened(path), aside, encoder, worker)


def losses(fit: Fit) -> list[float]:
    while fit.step < fit.steps:
        fit.advance()
    return [row[1] for row in fit.history]


@pytest.fixture(scope="module")
def alone(world: tuple[str, Path]) -> Fit:
    """One worker's training, done."""
    torch.set_num_threads(1)
    fit = made(world)
    losses(fit)
    return fit


# The reference


def chatted(encoder: Any, picture: Any, answer: str) -> tuple[dict[str, Any], torch.Tensor]:
    """A whole chat by the processor, and labels that begin behind the last `model` and end with its end of turn."""
    turns = messages(student("tag"), answer)
    turns[1]["content"][0]["image"] = picture
    inputs = encoder.processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    ids = inputs["input_ids"][0]
    starts = torch.nonzero(ids == encoder.tokenizer.convert_tokens_to_ids("<start_of_turn>"))[-1].item()
    begins = next(at for at in range(int(starts), len(ids)) if "\n" in encoder.tokenizer.decode(ids[at])) + 1
    ends = int(torch.nonzero(ids == encoder.tokenizer.convert_tokens_to_ids("<end_of_turn>"))[-1])
    labels = torch.full_like(ids, -100)
    labels[begins : ends + 1] = ids[begins : ends + 1]
    return dict(inputs), labels[None]


def plain_loop(fit: Fit, base: str) -> list[float]:
    """The losses of a loop that knows nothing of ours but the order of examples and the first adapters."""
    projections = [name for kind in ("q", "k", "v", "o", "gate", "up", "down") for name in [f"{kind}_proj"]]
    model = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=projections, exclude_modules=".*vision_tower.*")
    model = peft.get_peft_model(model, config)
    peft.set_peft_model_state_dict(model, lora.tensors(fit.student))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.0)
    model.train()
    out = []
    for step in range(STEPS):
        rate = (step + 1) / 6 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 15))
        total, tokens = torch.zeros(()), 0
        for row in fit.order.rows(step).tolist():
            inputs, labels = chatted(fit.encoder, fit.examples.picture(row), fit.examples.answer(row))
            count = int((labels[:, 1:] >= 0).sum())
            total = total + model(**inputs, labels=labels).loss * count
            tokens += count
        optimiser.zero_grad()
        (total / tokens).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * rate
        optimiser.step()
        out.append(float(total.detach()) / tokens)
    return out


def test_losses_are_those_of_a_plain_peft_loop(world: tuple[str, Path], alone: Fit) -> None:
    expected = plain_loop(made(world), world[0])
    found = losses(alone)
    assert found[-1] < found[0] - 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


# However it is shared


def made_halfway(world: tuple[str, Path], tuning: Tuning, worker: Worker) -> dict[str, Any]:
    """The state after two of four steps."""
    fit = made(world, replace(tuning, steps=4), SILENT, worker)
    for _ in range(2):
        fit.advance()
    return fit.state()


def work(rank: int, world: tuple[str, Path], folder: str) -> None:
    """One of two workers, first with whole copies and then with parts of every layer."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ways: dict[str, Worker] = {
        "ddp": Worker(rank, 2, "cpu", nn.parallel.DistributedDataParallel, False, rank, 2),
        "fsdp": Worker(rank, 2, "cpu", shard, True, rank, 2),
    }
    for way, worker in ways.items():
        tuning = replace(QUICK, checkpointing=way == "fsdp")
        fit = made(world, tuning, Validation(every=STEPS // 2, tokens=10, batch=2), worker, np.arange(3))
        found = losses(fit)
        state = fit.state()
        first, second = (
            made(world, replace(tuning, steps=4), SILENT, worker),
            made(world, replace(tuning, steps=4), SILENT, worker),
        )
        straight = [first.advance() for _ in range(4)][2:]
        second.restore(made_halfway(world, tuning, worker))
        again = [second.advance() for _ in range(2)]
        ends = [each.state()["adapters"] for each in (first, second)]
        same = straight == again and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        torch.save({"losses": found, "measured": fit.measured, "state": state, "same": same}, f"{folder}/{way}{rank}.pt")
    distributed.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def shared(world: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers brought back."""
    folder = tmp_path_factory.mktemp("shared")
    multiprocessing.spawn(work, (world, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_workers_are_one(world: tuple[str, Path], alone: Fit, shared: Path, way: str) -> None:
    both = [torch.load(shared / f"{way}{rank}.pt") for rank in range(2)]
    assert both[0]["losses"] == both[1]["losses"] and both[0]["measured"] == both[1]["measured"]
    np.testing.assert_allclose(both[0]["losses"], losses(alone), atol=1e-4)
    assert both[0]["same"] and both[1]["same"]  # restored after two of four steps, to the bit
    expected = alone.state()["adapters"]
    for rank in range(2):
        found = both[rank]["state"]["adapters"]
        assert found.keys() == expected.keys()
        assert max(float((found[name] - expected[name]).abs().max()) for name in found) < 1e-3
    # Three held-out examples on two workers: the fourth seat is computed and not counted.
    single = made(world, QUICK, Validation(tokens=10, batch=3), held=np.arange(3))
    single.restore(both[0]["state"])
    measured = single.validate()
    assert measured.keys() == both[0]["measured"].keys()
    assert measured["loss"] == pytest.approx(both[0]["measured"]["loss"], abs=1e-5)
    assert measured["answered"] == both[0]["measured"]["answered"]


def test_the_state_of_two_workers_is_the_state_of_one(alone: Fit, shared: Path) -> None:
    for way in ("ddp", "fsdp"):
        state = torch.load(shared / f"{way}0.pt")["state"]
        assert state["step"] == STEPS and state["moments"].keys() == alone.state()["moments"].keys()
        for name, moments in alone.state()["moments"].items():
            assert moments.keys() == state["moments"][name].keys()
            torch.testing.assert_close(state["moments"][name]["exp_avg"], moments["exp_avg"], atol=1e-4, rtol=1e-2)


# Whatever interrupts it


def test_a_restored_training_goes_on_as_if_never_stopped(world: tuple[str, Path], tmp_path: Path) -> None:
    tuning = replace(QUICK, steps=4, lora=LoRA(rank=4, alpha=8, dropout=0.2), checkpointing=True)
    straight, first = made(world, tuning), made(world, tuning)
    losses(straight)
    for _ in range(2):
        first.advance()
    torch.save(first.state(), tmp_path / "state.pt")
    second = made(world, replace(tuning, micro_batch=1))
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.rand(100)  # what else a process draws has no influence
    losses(second)
    assert second.history == straight.history
    one, other = second.state()["adapters"], straight.state()["adapters"]
    assert all(torch.equal(one[name], other[name]) for name in one)


# Smaller promises


def test_micro_batches_and_checkpointing_change_nothing_but_memory(world: tuple[str, Path]) -> None:
    runs = [(1, False), (4, False), (3, True)]
    found = [losses(made(world, replace(QUICK, steps=2, micro_batch=size, checkpointing=again))) for size, again in runs]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-5)


def test_qwen_learns_and_answers_as_gemma_does(tmp_path: Path) -> None:
    """Positions in three dimensions and pictures of many sizes: padding and order of a batch change nothing there either."""
    base = pupil.base(tiny.qwen25vl, tmp_path / "base")
    path, encoder = pupil.examples(tmp_path, base, pupil.crops(6))
    one, several = (
        Fit(base, replace(QUICK, steps=4, micro_batch=size), Validation(tokens=10, batch=size), pupil.opened(path),
            pupil.opened(path), encoder) for size in (1, 4)
    )  # fmt: skip
    np.testing.assert_allclose(losses(several), losses(one), atol=2e-5)
    assert one.history[-1][1] < one.history[0][1]
    assert one.measured["loss"] == pytest.approx(several.measured["loss"], abs=1e-4)
    assert several.written([several.held.picture(row) for row in range(6)]) == [
        one.written([one.held.picture(row)])[0] for row in range(6)
    ]


def test_coordinates_may_weigh_more(world: tuple[str, Path]) -> None:
    heavy = made(world, replace(QUICK, coordinate_weight=4.0))
    (part, *_) = heavy.parts(0)
    inner = heavy.student.train()
    assert set(part.weights[0].tolist()) == {0.0, 1.0, 4.0}
    with torch.no_grad():
        total = float(inner(part))
        digits = replace(part, weights=(part.weights == 4).float())
        others = replace(part, weights=(part.weights == 1).float())
        assert total == pytest.approx(4 * float(inner(digits)) + float(inner(others)), rel=1e-5)


def test_logits_in_parts_are_logits_at_once(world: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = made(world)
    one = batch(
        [fit.encoder.example(fit.examples.picture(row), fit.examples.answer(row)) for row in (0, 2)], fit.encoder.pad_id
    )
    whole = fit.student(one)
    whole.backward()
    expected = [parameter.grad.clone() for parameter in fit.parameters.values() if parameter.grad is not None]
    fit.optimiser.zero_grad()
    monkeypatch.setattr("geobatch.methods.geolocsft.student.LOGITS", 7)
    parts = fit.student(one)
    parts.backward()
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    for parameter, gradient in zip(fit.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_the_learning_rate_follows_its_schedule(world: tuple[str, Path]) -> None:
    fit = made(world, replace(QUICK, steps=100, warm_up=9, learning_rate=1.0))
    assert [fit.learning_rate(step) for step in (0, 4, 8, 9)] == pytest.approx([0.1, 0.5, 0.9, 1.0])
    assert fit.learning_rate(54) == pytest.approx(0.5, abs=0.01) and fit.learning_rate(99) < 1e-3
    flat = made(world, replace(QUICK, steps=100, warm_up=0, schedule="constant", learning_rate=1.0))
    assert {flat.learning_rate(step) for step in range(100)} == {1.0}
    assert made(world, replace(QUICK, steps=None, epochs=2.5)).steps == math.ceil(2.5 * 12 / 4)


def test_bfloat16_holds_the_base_and_not_the_adapters(world: tuple[str, Path]) -> None:
    fit = made(world, replace(QUICK, bf16=True, steps=2))
    found = losses(fit)
    kinds = {parameter.dtype for name, parameter in fit.student.named_parameters() if "lora_" not in name}
    assert kinds == {torch.bfloat16} and {each.dtype for each in fit.parameters.values()} == {torch.float32}
    np.testing.assert_allclose(found, losses(made(world, replace(QUICK, steps=2))), rtol=0.03)


def test_validation_measures_what_is_written(world: tuple[str, Path]) -> None:
    fit = made(world, QUICK, Validation(tokens=30, batch=5), held=np.arange(12))
    measured = fit.validate()
    texts = fit.written([fit.held.picture(row) for row in range(12)])
    off = []
    for row, text in enumerate(texts):
        found, (latitude, longitude) = parse(*text), fit.held.places([row])
        off.append(
            float(haversine_km(found.latitude, found.longitude, latitude, longitude)[0])
            if isinstance(found, Answer)
            else math.inf
        )
    assert measured["answered"] == np.isfinite(off).mean()
    assert measured["within_2500km"] == np.mean([each <= 2500 for each in off])
    assert measured["median_km"] == np.median(off) or (math.isinf(measured["median_km"]) and math.isinf(np.median(off)))
    with torch.no_grad():
        parts = [fit.encoder.example(fit.held.picture(row), fit.held.answer(row)) for row in range(12)]
        total = sum(float(fit.student.eval()(part)) for part in parts)
    assert measured["loss"] == pytest.approx(total / sum(float(part.weights.sum()) for part in parts), rel=1e-5)


def test_what_is_saved_tells_every_loss(alone: Fit, tmp_path: Path) -> None:
    state = alone.state()
    alone.save(tmp_path / "adapter")
    history = json.loads((tmp_path / "adapter" / HISTORY).read_text())
    assert [row["loss"] for row in history] == [row[1] for row in alone.history] and history[-1]["step"] == STEPS
    assert sum(tensor.numel() for tensor in state["adapters"].values()) == lora.counts(alone.student).trainable
    size = sum(path.stat().st_size for path in tmp_path.rglob("*"))
    torch.save(state, tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 4 * size  # adapters and two moments; no base


def test_what_cannot_be_trained_is_refused(world: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shared equally by 3 workers"):
        made(world, worker=Worker(0, 3))
    other = pupil.base(tiny.gemma3, tmp_path / "base")
    settings = json.loads((tmp_path / "base/generation_config.json").read_text())
    (tmp_path / "base/generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 1}))
    with pytest.raises(UserError, match="does not stop at token 5; add it to eos_token_id"):
        made((other, world[1]))
