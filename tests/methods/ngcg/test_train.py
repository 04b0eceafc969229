"""Training: against a plain loop of torch and peft, alone and shared, in pieces, killed and taken up again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from PIL import Image
from torch import distributed, multiprocessing, nn

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.held import score
from geobatch.methods.ngcg.train import ADAPTER, HISTORY, MERGED, Fit
from geobatch.train import lora
from geobatch.train.augment import Augment
from geobatch.train.loop import Worker
from geobatch.train.lora import LoRA
from tests.engine.tiny_towers import smolvlm
from tests.methods.ngcg import learning
from tests.methods.ngcg.bases import BASES

PLACES = [row // 2 for row in range(28)]
DORA = LoRA(rank=4, alpha=8, vision=True, targets="ngcg", dora=True, gaussian=True)
QUICK = Tuning(lora=replace(DORA, dora=False), batch=6, steps=4, learning_rate=3e-3, warm_up=0.3, bf16=False)
WHOLE = replace(QUICK, whole=True, learning_rate=1e-3)
#: Everything that is off by default.
ALL = replace(QUICK, steps=3, hard_every=2, hard_negatives=2, nested=(16, 40), symmetric=True, learn_temperature=True)
SILENT = Validation(pairs=0)

World = tuple[str, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base, and a folder with a file of pairs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    learning.written(folder, PLACES)
    return str(smolvlm(folder / "base", sharpness=3.0)), folder / "pairs.arrow"


def made(
    world: World, tuning: Tuning = QUICK, validation: Validation = SILENT, worker: Worker | None = None, held: range = range(0)
) -> Fit:
    pairs = learning.pairs.Pairs(world[1])
    return Fit(world[0], tuning, validation, pairs, pairs.subset(held), Encoding(), worker)


def losses(fit: Fit) -> list[float]:
    while fit.step < fit.steps:
        fit.advance()
    return [row[1] for row in fit.history]


def apart(one: Fit, other: Fit) -> float:
    """The largest difference of a trained number."""
    a, b = one.state()["weights"], other.state()["weights"]
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# The reference


def embedders(fit: Fit, base: str, model: Any) -> tuple[Callable[[str], torch.Tensor], Callable[[np.ndarray], torch.Tensor]]:
    """One text, or one tile, at a time: no padding, the last hidden state's last position."""
    processor = transformers.AutoProcessor.from_pretrained(base)

    def vector(inputs: Any) -> torch.Tensor:
        hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
        return hidden[0, -1] / hidden[0, -1].norm()

    def text(words: str) -> torch.Tensor:
        return vector(processor.tokenizer(words, return_tensors="pt"))

    def tile(pixels: np.ndarray) -> torch.Tensor:
        picture = Image.fromarray(pixels)
        return vector(
            processor(text="<image>", images=[picture], do_image_splitting=False, do_resize=False, return_tensors="pt")
        )

    return text, tile


def plain_loop(fit: Fit, base: str) -> list[float]:
    """The losses of a loop that knows nothing of ours but the order of pairs and the first adapters."""
    tuning, pairs = fit.tuning, fit.pairs
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    if not tuning.whole:
        names = r"(model\.text_model.*([qkvo]_proj|down_proj))|(model\.vision_model.*([qkv]_proj|out_proj))"
        settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, use_dora=tuning.lora.dora)
        model = peft.get_peft_model(model, settings)
        peft.set_peft_model_state_dict(model, lora.tensors(fit.encoder))
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
    still = ("bias", "norm", "magnitude")
    flat = [each for name, each in parameters.items() if any(word in name for word in still)]
    rest = [each for name, each in parameters.items() if not any(word in name for word in still)]
    optimiser = torch.optim.AdamW([{"params": rest, "weight_decay": 0.01}, {"params": flat, "weight_decay": 0.0}], lr=1.0)
    model.train()
    text, tile = embedders(fit, base, model)
    out = []
    for step in range(fit.steps):
        rate = (step + 1) / 3 if step < 2 else (4 - step) / 2
        said, shown = [], []
        for row, turn in zip(*(each.tolist() for each in fit.order.rows(step)), strict=True):
            said.append(text(pairs.texts(row)[turn % len(pairs.texts(row))]))
            shown.append(tile(pairs.picture(row)))
        total = torch.zeros(())
        for number, words in enumerate(said):
            logits = torch.stack([words @ other / 0.03 for other in shown])
            total = total + torch.logsumexp(logits, 0) - logits[number]
        optimiser.zero_grad()
        (total / len(said)).backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = tuning.learning_rate * rate
        optimiser.step()
        out.append(float(total.detach()) / len(said))
    return out


@pytest.mark.parametrize(
    "tuning",
    [QUICK, replace(QUICK, lora=DORA), WHOLE, replace(WHOLE, distinct=False, seed=3)],
    ids=["lora", "dora", "whole", "any"],
)
def test_losses_are_those_of_a_plain_loop(world: World, tuning: Tuning) -> None:
    expected = plain_loop(made(world, tuning), world[0])
    fit = made(world, tuning)
    found = losses(fit)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len({round(loss, 3) for loss in found}) == 4
    groups = [fit.pairs.groups[fit.order.rows(step)[0]].tolist() for step in range(4)]
    assert all(len(set(each)) == 6 for each in groups) == tuning.distinct


def entropies(texts: np.ndarray, tiles: np.ndarray, of_texts: list[int], of_tiles: list[int], scale: float) -> float:
    """Mean over texts of -log softmax at their own tile, among tiles of other places."""
    total = 0.0
    for i, text in enumerate(texts):
        among = [j for j in range(len(tiles)) if j == i or of_tiles[j] != of_texts[i]]
        total += math.log(sum(math.exp(scale * float(text @ tiles[j])) for j in among)) - scale * float(text @ tiles[i])
    return total / len(texts)


def test_every_option_together_is_what_it_says(world: World) -> None:
    """The loss of a step behind a mining: both directions, hard tiles for all texts, three lengths of vectors, learnt scale."""
    fit = made(world, replace(ALL, micro_batch=4))
    for _ in range(2):
        fit.advance()
    scale = 1 / fit.temperature
    fit.mined.mine(fit.encoder.eval(), 2, fit.steps, 5)
    hard = fit.mined.of(2)
    assert hard is not None
    rows, turns = fit.order.rows(2)
    said = [fit.pairs.texts(row)[turn % len(fit.pairs.texts(row))] for row, turn in zip(rows, turns, strict=True)]
    texts = np.stack([fit.encoder.encode_texts([text])[0] for text in said])
    shown = [*rows.tolist(), *hard.reshape(-1).tolist()]
    tiles = np.stack([fit.encoder.encode_pictures([fit.pairs.picture(row)])[0] for row in shown])
    places = fit.pairs.groups[shown].tolist()
    expected = 0.0
    for size in (64, 16, 40):
        a, b = (each[:, :size] / np.linalg.norm(each[:, :size], axis=1, keepdims=True) for each in (texts, tiles))
        expected += entropies(a, b, places[:6], places, scale) / 6 + entropies(b[:6], a, places[:6], places[:6], scale) / 6
    assert fit.advance() == pytest.approx(expected, abs=1e-4)


def test_texts_that_read_alike_are_not_told_apart(tmp_path: Path, world: World) -> None:
    rows = learning.table(list(range(6)))
    texts = [["snow"], ["a lake"], ["snow"], ["a bay"], ["hills"], ["snow"]]
    learning.pairs.write([rows.set_column(rows.column_names.index("texts"), "texts", [texts])], tmp_path / "pairs.arrow")
    for distinct in (True, False):
        fit = made((world[0], tmp_path / "pairs.arrow"), replace(QUICK, symmetric=True, distinct=distinct))
        order = fit.order.rows(0)[0]
        said = np.stack([fit.encoder.encode_texts(fit.pairs.texts(row))[0] for row in order])
        shown = np.stack([fit.encoder.encode_pictures([fit.pairs.picture(row)])[0] for row in order])
        words = [{"snow": 0}.get(fit.pairs.texts(row)[0], 1 + row) if distinct else row for row in order.tolist()]
        both = entropies(said, shown, words, words, 1 / 0.03) + entropies(shown, said, words, words, 1 / 0.03)
        assert fit.advance() == pytest.approx(both / 2, abs=1e-4)


def test_nor_are_mined_tiles_of_which_the_text_itself_is_said(tmp_path: Path, world: World) -> None:
    rows = learning.table(list(range(6)))
    said = [["snow"], ["a lake"], ["snow"], ["a bay"], ["hills"], ["a lake", "snow"]]
    learning.pairs.write([rows.set_column(rows.column_names.index("texts"), "texts", [said])], tmp_path / "pairs.arrow")
    for distinct in (True, False):
        fit = made((world[0], tmp_path / "pairs.arrow"), replace(QUICK, steps=3, hard_every=2, distinct=distinct))
        order, turns = fit.order.rows(0)
        texts = [said[row][turn % len(said[row])] for row, turn in zip(order, turns, strict=True)]
        fit.mined.mine(fit.encoder.eval(), 0, 2, 6)
        found = fit.mined.of(0)
        assert found is not None
        snow = [row for text, (row,) in zip(texts, found, strict=True) if text == "snow"]
        assert (set(snow) <= {1, 3, 4}) == distinct and len(snow) >= 2
        fit.mined.rows[0] = 5  # whatever was found: a tile of which two things are said, one of them snow
        vectors = np.stack([fit.encoder.encode_texts([text])[0] for text in texts])
        shown = np.stack([fit.encoder.encode_pictures([fit.pairs.picture(int(row))])[0] for row in [*order, *[5] * 6]])
        total = 0.0
        for at, (row, text) in enumerate(zip(order, texts, strict=True)):
            among = [j for j in range(6) if j == at or not distinct or texts[j] != text]
            among += [] if row == 5 or (distinct and text in said[5]) else range(6, 12)
            cosines = shown[among] @ vectors[at] / 0.03
            total += float(np.log(np.exp(cosines).sum()) - cosines[among.index(at)])
        assert fit.advance() == pytest.approx(total / 6, abs=1e-4)


# However it is cut and shared


@pytest.mark.parametrize("tuning", [ALL, replace(WHOLE, steps=2)], ids=["all", "whole"])
def test_pieces_are_the_whole(world: World, tuning: Tuning) -> None:
    whole, pieces = made(world, tuning), made(world, replace(tuning, micro_batch=4))
    np.testing.assert_allclose(losses(whole), losses(pieces), atol=1e-4)
    assert apart(whole, pieces) < 1e-4
    assert apart(whole, made(world, tuning)) > 1e-3


@pytest.mark.parametrize("kind", ["internvl", "qwen2_5_vl"])
def test_other_families_learn_the_same_way(world: World, tmp_path: Path, kind: str) -> None:
    other = str(BASES[kind](tmp_path / "base")), world[1]
    tuning = replace(QUICK, steps=3, lora=DORA, hard_every=2)
    whole, pieces = made(other, tuning), made(other, replace(tuning, micro_batch=4))
    np.testing.assert_allclose(losses(whole), losses(pieces), atol=1e-4)
    assert apart(whole, pieces) < 1e-4
    still = [name for name, each in whole.trained.items() if each.grad is None or not each.grad.abs().sum()]
    assert not still  # every adapter of both towers is reached


def shares(world: World, worker: Worker) -> dict[str, Any]:
    """Losses and figures of a training, and every gradient of a step's part."""
    out: dict[str, Any] = {}
    for name, tuning in (("all", ALL), ("pieces", replace(ALL, micro_batch=2)), ("whole", replace(WHOLE, steps=2, clip=1e9))):
        fit = made(world, tuning, Validation(every=2, batch=3), worker, range(0, 28, 3))
        found = losses(fit)
        gradients = {key: each.grad for key, each in fit.trained.items() if each.grad is not None}
        out[name] = {
            "losses": found,
            "figures": fit.figures(),
            "gradients": gradients,
            "state": fit.state(),
        }
    return out


def work(rank: int, world: World, folder: str) -> None:
    """One of two workers."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(shares(world, Worker(rank, 2)), f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's destructor was seen to wait for ever for a peer that had left first


def test_two_workers_are_one(world: World, tmp_path: Path) -> None:
    """2 x 3 is 1 x 6: losses, gradients, weights, mined negatives and figures; one-way, both ways, nested, in pieces; and one
    takes up what two began.
    """
    multiprocessing.spawn(work, (world, str(tmp_path)), nprocs=2)
    alone = shares(world, Worker())
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, expected in alone.items():
        for found in (each[name] for each in both):
            np.testing.assert_allclose(found["losses"], expected["losses"], atol=1e-4)
            assert torch.equal(found["state"]["mined"]["rows"], expected["state"]["mined"]["rows"])
            for ours, theirs in ((found, expected), (found["state"], expected["state"])):
                part = "weights" if "weights" in ours else "gradients"
                assert ours[part].keys() == theirs[part].keys()
                for key, value in theirs[part].items():
                    assert torch.allclose(ours[part][key], value, atol=1e-4), (name, part, key)
        assert both[0][name]["losses"] == both[1][name]["losses"]
        assert both[0][name]["figures"] == both[1][name]["figures"]
    assert alone["all"]["state"]["mined"]["rows"].shape == (1, 6, 2) and len(alone["whole"]["gradients"]) > 50
    longer = made(world, replace(ALL, steps=4), Validation(every=2, batch=3), held=range(0, 28, 3))
    longer.restore(both[0]["all"]["state"])
    assert longer.figures() == both[0]["all"]["figures"] and math.isfinite(longer.advance()) and longer.step == 4


# Whatever interrupts it


@pytest.mark.parametrize(
    "tuning",
    [
        replace(ALL, lora=replace(DORA, dropout=0.2), augment=Augment(), micro_batch=4, steps=4),
        replace(WHOLE, steps=4, hard_every=2, augment=Augment()),
    ],
    ids=["lora", "whole"],
)
def test_a_killed_training_goes_on_to_the_bit(world: World, tmp_path: Path, tuning: Tuning) -> None:
    """Taken up again after three steps, one behind a mining; the best so far comes along."""
    validation = Validation(every=2, batch=4)
    straight, first = (made(world, tuning, validation, held=range(10)) for _ in range(2))
    losses(straight)
    for _ in range(3):
        first.advance()
    torch.save(first.state(), tmp_path / "state.pt")
    second = made(world, tuning, validation, held=range(10))
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.rand(100)  # what else a process draws has no influence
    assert second.advance() == straight.history[-1][1]
    assert second.history == straight.history and second.figures() == straight.figures()
    assert apart(second, straight) == 0 and apart(first, straight) > 1e-5
    for fit, name in ((second, "second"), (straight, "straight")):
        fit.save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "second") for path in (tmp_path / "second").rglob("*.*"))
    assert files and all(
        (tmp_path / "second" / path).read_bytes() == (tmp_path / "straight" / path).read_bytes() for path in files
    )


def test_a_checkpoint_of_another_training_is_refused(world: World) -> None:
    with pytest.raises(KeyError, match="differ in"):
        made(world).restore(made(world, WHOLE).state())


# What comes of it


def test_it_learns_and_the_best_is_kept(world: World, tmp_path: Path) -> None:
    """Places it was shown and wordings it was not: chance is one of fourteen."""
    tuning = replace(WHOLE, steps=30, learning_rate=2e-3, nested=(16,))
    fit = made(world, tuning, Validation(every=10, batch=14), held=range(28))
    before = fit.validate()
    found = losses(fit)
    assert np.mean(found[-5:]) < np.mean(found[:5]) - 0.7
    assert score(fit.measured) > score(before) + 0.2
    # What is saved is what was best, whatever was measured last.
    assert fit.best["score"] >= score(fit.measured) and fit.best["step"] % 10 == 0
    fit.best = {**fit.best, "step": 7, "weights": {name: each * 0.5 for name, each in fit.best["weights"].items()}}
    now = fit.state()["weights"]
    fit.save(tmp_path)
    assert all(torch.equal(each, now[name]) for name, each in fit.state()["weights"].items())
    loaded = dict(Encoder.load(str(tmp_path / MERGED), encoding=Encoding()).named_parameters())
    assert all(torch.equal(loaded[name], each) for name, each in fit.best["weights"].items())
    assert fit.figures()["saved_step"] == 7 and fit.figures()["validation_t2i_r1"] == fit.best["figures"]["t2i_r1"]
    history = json.loads((tmp_path / HISTORY).read_text())
    assert [row["loss"] for row in history] == found and history[-1]["temperature"] == pytest.approx(0.03)


def test_a_saved_adapter_gives_the_vectors_that_were_trained(world: World, tmp_path: Path) -> None:
    fit = made(world, replace(QUICK, lora=replace(DORA, rank=3, alpha=24, dropout=0.1)), Validation(keep="last"), held=range(4))
    losses(fit)
    assert "weights" not in fit.best and fit.figures()["saved_step"] == 4
    fit.save(tmp_path)
    loaded = Encoder.load(world[0], tmp_path / ADAPTER, Encoding())
    fit.encoder.eval()
    texts = [text for row in range(4) for text in fit.pairs.texts(row)]
    assert np.array_equal(loaded.encode_texts(texts), fit.encoder.encode_texts(texts))
    bare = Encoder.load(world[0], encoding=Encoding())
    assert np.abs(loaded.encode_texts(texts) - bare.encode_texts(texts)).max() > 1e-3
    assert sum(each.numel() for each in fit.trained.values()) == lora.counts(fit.encoder).trainable


# Smaller promises


def test_hard_tiles_are_among_the_negatives(world: World) -> None:
    fit = made(world, replace(QUICK, steps=3, hard_every=2, hard_negatives=3))
    shapes = []
    for step in range(3):
        fit.advance()
        drawn = fit.batches.read(step, fit.mined.of(step))
        shapes.append(tuple(drawn.others.shape))
        with torch.no_grad():
            texts, tiles = fit._embed(drawn.pieces[0])
            loss = float(fit._loss(drawn, (texts, tiles)))
            without = float(fit._loss(replace(drawn, others=drawn.others[:, :0]), (texts, tiles[:, :1])))
        assert (loss > without + 1e-3) == (step == 2)
        assert not (drawn.others == drawn.groups[:, None]).any()
    assert shapes == [(6, 0), (6, 0), (6, 3)]


def test_weights_that_no_vector_depends_on_are_left_alone(world: World) -> None:
    fit = made(world, replace(WHOLE, steps=1, weight_decay=0.5))
    idle = nn.Parameter(torch.ones(3, 3))
    fit.trained["idle"] = idle
    fit._parameters.append(idle)
    fit._optimiser.add_param_group({"params": [idle], "weight_decay": 0.5})
    fit.advance()
    assert idle.grad is None and torch.equal(idle.detach(), torch.ones(3, 3))


def test_only_matrices_decay(world: World) -> None:
    fit = made(world, replace(WHOLE, learn_temperature=True))
    names = {id(each): name for name, each in fit.trained.items()}
    decays = {names[id(each)]: group["weight_decay"] for group in fit._optimiser.param_groups for each in group["params"]}
    assert len(decays) == len(fit.trained)
    for name, decay in decays.items():
        still = name.endswith("bias") or "norm" in name or name == "log_scale"
        assert decay == (0.0 if still else 0.01), name
    assert decays["log_scale"] == 0


def test_the_temperature_is_learnt_or_fixed(world: World) -> None:
    fixed, learnt = made(world), made(world, replace(QUICK, learn_temperature=True))
    for fit in (fixed, learnt):
        losses(fit)
    assert [row[4] for row in fixed.history] == pytest.approx([0.03] * 4)
    assert len({row[4] for row in learnt.history}) == 4 and learnt.figures()["temperature"] != pytest.approx(0.03, rel=1e-4)


def test_bfloat16_holds_the_base_and_not_what_is_trained(world: World) -> None:
    tuning = replace(QUICK, bf16=True, steps=2, micro_batch=3, lora=replace(DORA, dropout=0.1))
    fit = made(world, tuning, Validation(batch=4), held=range(4))
    found = losses(fit)
    assert {each.dtype for each in fit.trained.values()} == {torch.float32}
    assert {each.dtype for name, each in fit.encoder.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    np.testing.assert_allclose(found, losses(made(world, replace(QUICK, steps=2))), rtol=0.1)
    assert all(math.isfinite(value) for value in fit.figures().values())


def test_the_loss_over_chance_is_of_the_last_steps(world: World) -> None:
    fit = made(world, replace(QUICK, batch=6))
    fit.history = [[float(step), 0.5, 1.0, 0.0, 0.03] for step in range(60)]
    assert fit.figures()["loss_over_chance"] == pytest.approx(0.5 / math.log(6))
    fit.history[-3:] = [[0.0, loss, 1.0, 0.0, 0.03] for loss in (1.6, 1.8, 2.0)]  # the last twentieth of sixty
    assert fit.figures()["loss_over_chance"] == pytest.approx(1.8 / math.log(6))


def test_what_cannot_be_trained_is_refused(world: World) -> None:
    for tuning, worker, words in (
        (QUICK, Worker(0, 4), "4 workers cannot share a batch of 6 equally; use a multiple"),
        (QUICK, Worker(sharded=True), "not spread over workers; set --loop.parallel ddp"),
        (replace(QUICK, nested=(64,)), Worker(), "vectors of 64 numbers cannot be cut to"),
        (replace(QUICK, batch=20), Worker(), "14 places are less than one batch"),
    ):
        with pytest.raises(UserError, match=words):
            made(world, tuning, worker=worker)


@pytest.mark.parametrize("what", ["weight", "gradient"])
def test_a_step_without_numbers_is_not_taken(world: World, what: str) -> None:
    broken = made(world)
    first = next(iter(broken.trained.values()))
    if what == "weight":
        first.data.fill_(math.nan)
    else:
        first.register_hook(lambda gradient: gradient * math.inf)
    before = broken.state()["weights"]
    with pytest.raises(UserError, match=r"the loss of step 1 is .*; lower --tuning.learning-rate"):
        broken.advance()
    assert broken.step == 0
    for key, each in broken.state()["weights"].items():
        assert torch.equal(each.nan_to_num(), before[key].nan_to_num())
