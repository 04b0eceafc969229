"""Texts and tiles become what the processors of `transformers` would have made of them, and nothing else does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.inputs import Inputs
from tests.methods.ngcg import bases

#: What asks each processor for one square that it does not change.
ONE_SQUARE: dict[str, dict[str, Any]] = {
    "internvl": {"crop_to_patches": False, "do_resize": False},
    "idefics3": {"do_image_splitting": False, "do_resize": False},
    "smolvlm": {"do_image_splitting": False, "do_resize": False},
    "qwen2_5_vl": {"do_resize": False},
}

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=bases.BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, bases.BASES[request.param](tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture(scope="module")
def inputs(base: tuple[str, Path]) -> Inputs:
    return Inputs(str(base[1]), Encoding())


def test_a_tile_is_what_the_processor_makes_of_the_bare_image_token(base: tuple[str, Path], inputs: Inputs) -> None:
    kind, folder = base
    if kind == "smolvlm":  # whose own processor, for its videos' sake, needs num2words
        image = transformers.AutoImageProcessor.from_pretrained(folder)
        processor: Any = transformers.Idefics3Processor(image, inputs.tokenizer, image_seq_len=16)
    else:
        processor = transformers.AutoProcessor.from_pretrained(folder)
    pictures = bases.noise(3, 90)
    squares = [Image.fromarray(inputs.squared(picture)) for picture in pictures]
    bare = {"qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>"}.get(kind, inputs.family.image)
    expected = processor(text=[bare] * 3, images=[[square] for square in squares], return_tensors="pt", **ONE_SQUARE[kind])
    found = inputs.pictures(pictures)
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["attention_mask"], expected["attention_mask"])
    assert found["pixel_values"].shape == expected["pixel_values"].shape
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], atol=1e-6, rtol=1e-6)
    if "image_grid_thw" in expected:
        assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_smolvlms_tile_is_idefics3s(tmp_path: Path) -> None:
    one, two = (Inputs(str(bases.BASES[kind](tmp_path / kind)), Encoding()) for kind in ("idefics3", "smolvlm"))
    pictures = bases.noise(2)
    first, second = one.pictures(pictures), two.pictures(pictures)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@quick
@given(texts=bases.texts)
def test_a_text_is_its_own_tokens_padded_on_the_right(inputs: Inputs, texts: list[str]) -> None:
    found = inputs.texts(texts)
    for row, text in enumerate(texts):
        alone = inputs.tokens([text])[0]
        assert found["attention_mask"][row].tolist() == [1] * len(alone) + [0] * (found["input_ids"].shape[1] - len(alone))
        assert found["input_ids"][row, : len(alone)].tolist() == alone
    assert found["attention_mask"].sum(1).max() == found["input_ids"].shape[1]


def test_what_a_text_spells_out_opens_no_picture(inputs: Inputs) -> None:
    special = {inputs.config.image_token_id, *inputs.tokenizer.all_special_ids}
    spelled = " ".join(inputs.tokenizer.all_special_tokens) + inputs.family.opening + inputs.family.image
    ids = inputs.tokens([spelled])[0]
    assert not special & set(ids)
    assert inputs.tokenizer.decode(ids) == spelled


def test_a_long_text_is_cut_but_not_its_end(base: tuple[str, Path]) -> None:
    long = "coast and desert " * 200
    raw = Inputs(str(base[1]), Encoding(text_tokens=7))
    ended = Inputs(str(base[1]), Encoding(text_tokens=7, end=True))
    whole = raw.tokenizer(long)["input_ids"]
    end = raw.tokenizer.eos_token_id
    assert raw.tokens([long, "snow"]) == [whole[:7], raw.tokenizer("snow")["input_ids"]]
    assert ended.tokens([long, "snow"]) == [[*whole[:6], end], [*raw.tokenizer("snow")["input_ids"], end]]
    assert ended.prompt == [*raw.prompt, end] and raw.prompt[-1] != end
    assert Inputs(str(base[1]), Encoding()).tokens([long]) == [whole[:300]]


def test_a_tokenizer_that_cuts_at_the_left_cuts_at_the_right(base: tuple[str, Path], tmp_path: Path) -> None:
    shutil.copytree(base[1], tmp_path / "base")
    path = tmp_path / "base/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation_side": "left"}))
    long = "coast, desert, snow and then " + "islands " * 60
    plain, turned = (Inputs(str(each), Encoding(text_tokens=7)) for each in (base[1], tmp_path / "base"))
    assert turned.tokens([long]) == plain.tokens([long]) != [plain.tokenizer(long)["input_ids"][-7:]]


def test_a_text_without_a_token_is_rejected(inputs: Inputs, base: tuple[str, Path]) -> None:
    with pytest.raises(Rejection) as raised:
        inputs.texts(["coast", ""])
    assert raised.value.reason == "empty" and "text 1 of 2" in raised.value.detail
    with pytest.raises(Rejection):
        Inputs(str(base[1]), Encoding(end=True)).texts([""])  # the end alone says nothing


@quick
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_a_picture_of_any_shape_becomes_the_familys_square(inputs: Inputs, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    square = inputs.squared(picture)
    assert square.shape == (inputs.side, inputs.side, 3) and square.dtype == np.uint8
    assert inputs.squared(square) is square


def test_it_is_resized_by_the_familys_filter(inputs: Inputs) -> None:
    lanczos = inputs.config.model_type in ("idefics3", "smolvlm")
    picture = bases.noise(1, 200)[0]
    how = Image.Resampling.LANCZOS if lanczos else Image.Resampling.BICUBIC
    expected = np.asarray(Image.fromarray(picture).resize((inputs.side, inputs.side), how))
    assert np.array_equal(inputs.squared(picture), expected)


def test_another_side_is_other_tokens(base: tuple[str, Path], inputs: Inputs) -> None:
    unit = inputs.family.unit(inputs.config)
    larger = Inputs(str(base[1]), Encoding(side=6 * unit))
    assert larger.side == 6 * unit
    assert len(larger.prompt) - len(inputs.prompt) == 36 - (inputs.side // unit) ** 2
    with pytest.raises(UserError, match=f"multiple of {unit}"):
        Inputs(str(base[1]), Encoding(side=6 * unit + 1))


def test_more_tokens_than_the_base_takes_are_refused(base: tuple[str, Path], inputs: Inputs) -> None:
    unit = inputs.family.unit(inputs.config)
    for encoding in (Encoding(text_tokens=4097), Encoding(side=64 * unit)):
        with pytest.raises(UserError, match=r"takes 4096 tokens, not .* lower text_tokens, or the side"):
            Inputs(str(base[1]), encoding)


@pytest.mark.parametrize("wrong", [{"text_tokens": 0}, {"text_tokens": 1, "end": True}, {"side": -1}, {"dimensions": -1}])
def test_an_encoding_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="encode nothing; give at least one token"):
        Encoding(**wrong)
