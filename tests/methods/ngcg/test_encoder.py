"""A vector is a function of its text or tile alone, and of the weights that were trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.inputs import Batch
from geobatch.train import lora
from geobatch.train.lora import LoRA
from geobatch.train.merge import merge
from tests.engine import tiny
from tests.methods.ngcg import bases

#: No change of batch or padding may move any number of a vector further.
CLOSE = 1e-4

TUNED = LoRA(rank=4, alpha=32, dropout=0.1, vision=True, targets="ngcg", dora=True)

some = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module", params=[name for name in bases.BASES if name != "smolvlm"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bases.BASES[request.param](tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture(scope="module", params=["last", "mean"])
def encoder(request: pytest.FixtureRequest, base: Path) -> Encoder:
    return Encoder.load(str(base), encoding=Encoding(pooling=request.param))


def vectors(encoder: Encoder, inputs: Batch) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = encoder(inputs).numpy()
    return found


def moved(inputs: Batch, left: int, right: int, pad: int) -> Batch:
    """The same rows with padding of so many tokens more on either side, what was on the right moved to the left."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    width = ids.shape[1] + left + right
    turned = {"input_ids": torch.full((len(ids), width), pad), "attention_mask": torch.zeros(len(ids), width, dtype=mask.dtype)}
    for row in range(len(ids)):
        kept = ids[row, mask[row].bool()]
        at = slice(width - right - len(kept), width - right)
        turned["input_ids"][row, at], turned["attention_mask"][row, at] = kept, 1
    return inputs | turned


@some
@given(texts=bases.texts, left=st.integers(0, 5), right=st.integers(0, 3), pad=st.integers(0, 300))
def test_the_side_of_the_padding_changes_no_text(encoder: Encoder, texts: list[str], left: int, right: int, pad: int) -> None:
    inputs = encoder.texts(texts)
    np.testing.assert_allclose(vectors(encoder, moved(inputs, left, right, pad)), vectors(encoder, inputs), atol=CLOSE)


@some
@given(pictures=bases.pictures, left=st.integers(0, 5), right=st.integers(0, 3))
def test_the_side_of_the_padding_changes_no_tile(
    encoder: Encoder, pictures: list[NDArray[np.uint8]], left: int, right: int
) -> None:
    inputs = encoder.pictures(pictures)
    pad = int(encoder.processor.tokenizer.pad_token_id)
    np.testing.assert_allclose(vectors(encoder, moved(inputs, left, right, pad)), vectors(encoder, inputs), atol=CLOSE)


@some
@given(texts=bases.texts, batch=st.integers(1, 4), data=st.data())
def test_neither_the_batch_nor_its_size_changes_a_text(
    encoder: Encoder, texts: list[str], batch: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    together = encoder.encode_texts([texts[at] for at in order], batch)
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone[list(order)], atol=CLOSE)


@some
@given(pictures=bases.pictures, batch=st.integers(1, 4), data=st.data())
def test_neither_the_batch_nor_its_size_changes_a_tile(
    encoder: Encoder, pictures: list[NDArray[np.uint8]], batch: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(pictures))))
    together = encoder.encode_pictures([pictures[at] for at in order], batch)
    alone = np.concatenate([encoder.encode_pictures([picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone[list(order)], atol=CLOSE)


def whole_model(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_a_vector_is_the_hidden_state_that_transformers_gives_for_it_alone(base: Path, encoder: Encoder) -> None:
    """The slow reference: one row at a time, unpadded, through the whole model with its head."""
    model, pictures = whole_model(base), bases.noise(3)

    def reference(inputs: Batch) -> Tensor:
        if "image_grid_thw" in inputs:
            inputs |= {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
        pooled = states[-1] if encoder.encoding.pooling == "last" else states.mean(0)
        return pooled / pooled.norm()

    texts = torch.stack([reference(encoder.texts([text])) for text in bases.TEXTS])
    tiles = torch.stack([reference(encoder.pictures([picture])) for picture in pictures])
    np.testing.assert_allclose(encoder.encode_texts(bases.TEXTS), texts, atol=CLOSE)
    np.testing.assert_allclose(encoder.encode_pictures(pictures), tiles, atol=CLOSE)
    different = np.concatenate([texts, tiles])
    assert (different @ different.T)[~np.eye(len(different), dtype=bool)].max() < 0.9999  # or nothing was compared


def test_vectors_are_of_unit_length_and_may_be_cut(base: Path) -> None:
    whole, cut = Encoder.load(str(base)), Encoder.load(str(base), encoding=Encoding(dimensions=24))
    assert (whole.dimension, cut.dimension) == (64, 24)
    long, short = whole.encode_texts(bases.TEXTS), cut.encode_texts(bases.TEXTS)
    assert long.shape == (5, 64) and short.shape == (5, 24) and long.dtype == short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(long, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(short, long[:, :24] / np.linalg.norm(long[:, :24], axis=1, keepdims=True), atol=1e-6)
    assert whole.encode_texts([]).shape == whole.encode_pictures([]).shape == (0, 64)
    with pytest.raises(UserError, match="gives 64 numbers; ask for that many dimensions at most"):
        Encoder.load(str(base), encoding=Encoding(dimensions=65))


def test_smolvlm2_is_idefics3_by_another_name(tmp_path: Path) -> None:
    first, second = (Encoder.load(str(bases.BASES[kind](tmp_path / kind))) for kind in ("idefics3", "smolvlm"))
    assert np.array_equal(both(first), both(second))  # of the same seed


def test_a_tile_of_zeros_among_others_keeps_its_place(tmp_path: Path) -> None:
    folder = tiny.smolvlm(tmp_path)
    said = (folder / "processor_config.json").read_text()
    assert said.count('"image_mean"') == 1
    for name, value in (("image_mean", "[0.0, 0.0, 0.0]"), ("image_std", "[1.0, 1.0, 1.0]")):
        head, _, tail = said.partition(f'"{name}": ')
        said = head + f'"{name}": {value}' + tail[tail.index("]") + 1 :]
    (folder / "processor_config.json").write_text(said)
    encoder = Encoder.load(str(folder))
    first, last = bases.noise(2)
    together = encoder.encode_pictures([first, np.zeros((9, 9, 3), np.uint8), last])
    np.testing.assert_allclose(together[[0, 2]], encoder.encode_pictures([first, last]), atol=CLOSE)
    assert np.isfinite(together).all()


def tuned(base: Path, seed: int = 1) -> Encoder:
    """An encoder with adapters as a training might leave them."""
    encoder = Encoder.load(str(base), lora=TUNED, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(lora.trainable(encoder)):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + 0.2 * noise) if "magnitude" in name else parameter.add_(0.1 * noise)
    return encoder


def both(encoder: Encoder) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode_texts(bases.TEXTS), encoder.encode_pictures(bases.noise(3))])


def test_a_saved_adapter_is_the_trained_one_and_merged_within_rounding(base: Path, tmp_path: Path) -> None:
    trained = tuned(base)
    lora.save(lora.tensors(trained), lora.config_of(trained), tmp_path / "adapter")
    expected = both(trained)
    again = Encoder.load(str(base), tmp_path / "adapter")
    assert np.array_equal(both(again), expected)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert np.abs(expected - both(Encoder.load(str(base)))).max() > 0.01
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    np.testing.assert_allclose(both(Encoder.load(str(tmp_path / "merged"))), expected, atol=1e-5)
    with pytest.raises(UserError, match="exclude each other"):
        Encoder.load(str(base), tmp_path / "adapter", whole=True)


def test_adapters_learn_from_texts_and_tiles_and_nothing_else_does(base: Path) -> None:
    encoder = Encoder.load(str(base), lora=TUNED)
    frozen = {name: each.clone() for name, each in encoder.named_parameters() if not each.requires_grad}
    optimiser = torch.optim.SGD([each for _, each in lora.trainable(encoder)], lr=0.5)
    before = both(encoder)
    assert np.abs(before - both(Encoder.load(str(base)))).max() < 1e-5  # B begins with zeros
    encoder.train()
    texts, tiles = encoder(encoder.texts(bases.TEXTS[:3])), encoder(encoder.pictures(bases.noise(3)))
    assert texts.dtype == tiles.dtype == torch.float32 and texts.requires_grad and tiles.requires_grad
    torch.nn.functional.cross_entropy(texts @ tiles.T / 0.1, torch.arange(3)).backward()
    reached = {name for name, each in lora.trainable(encoder) if each.grad is not None and each.grad.abs().max() > 0}
    assert {name for name, _ in lora.trainable(encoder) if ".lora_B." in name} <= reached
    optimiser.step()
    assert np.abs(both(encoder) - before).max() > 1e-3
    assert encoder.training  # embedding in between put dropout back
    assert all(torch.equal(each, frozen[name]) for name, each in encoder.named_parameters() if name in frozen)


def test_embedding_while_training_has_no_dropout(base: Path) -> None:
    encoder = tuned(base)
    still = both(encoder)
    encoder.train()
    assert np.array_equal(both(encoder), still)
    inputs = encoder.texts(bases.TEXTS)
    assert not torch.equal(encoder(inputs), encoder(inputs))


def test_the_whole_network_is_trained_and_saved_as_it_was_named(base: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(str(base), whole=True)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    encoder.train()
    loss = (encoder(encoder.texts(bases.TEXTS[:2])) * encoder(encoder.pictures(bases.noise(2)))).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.05)
    encoder.eval()
    encoder.save(tmp_path / "whole")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "whole/model.safetensors")
    assert {name: each.shape for name, each in before.items()} == {name: each.shape for name, each in after.items()}
    assert sum(not torch.equal(before[name], after[name]) for name in before) > len(before) / 2
    again = Encoder.load(str(tmp_path / "whole"))
    assert np.array_equal(both(again), both(encoder))
    others = {path.name for path in base.iterdir()} - {"model.safetensors"}
    assert others <= {path.name for path in (tmp_path / "whole").iterdir()}
    assert (tmp_path / "whole/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_a_head_of_its_own_is_not_trained(tmp_path: Path) -> None:
    folder = tiny.smolvlm(tmp_path / "base")
    config = transformers.AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    transformers.AutoModelForImageTextToText.from_pretrained(folder, config=config).save_pretrained(folder)
    encoder = Encoder.load(str(folder), whole=True)
    assert {name for name, each in encoder.named_parameters() if not each.requires_grad} == {"model.lm_head.weight"}
    with pytest.raises(ValueError, match="adapters are on this network"):
        Encoder.load(str(folder), lora=TUNED).save(tmp_path / "none")


def test_half_precision_stays_near(base: Path) -> None:
    half = Encoder.load(str(base), dtype="bfloat16")
    found, expected = both(half), both(Encoder.load(str(base)))
    assert found.dtype == np.float32
    assert (1 - (found * expected).sum(1)).max() < 0.01
    adapted = Encoder.load(str(base), dtype="bfloat16", lora=replace(TUNED, dropout=0.0))
    assert {each.dtype for _, each in lora.trainable(adapted)} == {torch.float32}
    assert (1 - (both(adapted) * expected).sum(1)).max() < 0.01


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not load .* give a model's folder or hub name"):
        Encoder.load(str(tmp_path / "nowhere"))
    folder = tiny.internvl(tmp_path / "odd")
    said = (folder / "config.json").read_text()
    (folder / "config.json").write_text(said.replace('"model_type": "internvl",', '"model_type": "unheard_of",'))
    with pytest.raises(UserError, match=r"odd does not load .*unheard_of"):
        Encoder.load(str(folder))
    with pytest.raises(UserError, match="a 'gemma3' model sees tiles; use a base of"):
        Encoder.load(str(tiny.gemma3(tmp_path / "gemma")))


@pytest.fixture(autouse=True)
def still() -> Iterator[None]:
    """Dropout draws from torch's generator; no test leaves it elsewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(math.floor(math.pi * 100))
        yield
