"""An example as tokens: the mask is exact, the length known beforehand, the order a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.engine.chat import Chat
from geobatch.errors import UserError
from geobatch.methods.geolocsft.config import Validation
from geobatch.methods.geolocsft.data import Encoder, Order, batch, halves, joined
from geobatch.methods.geolocsft.prompts import messages, student, tag
from tests.engine import tiny
from tests.methods.geolocsft.pupil import crops, examples, opened

FAMILIES = {"gemma3": tiny.gemma3, "qwen2_5_vl": tiny.qwen25vl}
JSON = '{"answer":{"coordinates":{"latitude":-1.50000,"longitude":20.25000}}}'


@pytest.fixture(scope="module", params=FAMILIES)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """The chat of a tiny base of each family."""
    make: Callable[..., Path] = FAMILIES[request.param]
    return Chat(str(make(tmp_path_factory.mktemp(request.param) / "base")))


def picture(width: int = 60, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "answer", [tag(48.8584, 2.2945), tag(-1e-6, -180), JSON, "Sand. Palms.\n" + tag(0, 0), f"  {tag(1, 2)} \n"]
)
def test_only_the_answer_and_the_end_of_its_turn_are_learnt(chat: Chat, answer: str) -> None:
    form = "json" if answer == JSON else "tag"
    encoded = Encoder(chat, form).example(picture(), answer)
    ids, weights = encoded.inputs["input_ids"][0], encoded.weights[0]
    tokenizer = chat.tokenizer
    end = {"<end_of_turn>", "<|im_end|>"} & {tokenizer.decode(ids[-1:])}
    assert end and tokenizer.decode(ids[weights > 0]) == answer.strip() + end.pop()
    # The reference: the whole chat by the processor's own way from messages to tokens, less what follows the end.
    chatted = messages(student(form), answer.strip())
    chatted[1]["content"][0]["image"] = picture()
    whole = chat.processor.apply_chat_template(chatted, tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(whole["input_ids"][0, : len(ids)], ids) and tokenizer.decode(whole["input_ids"][0, len(ids) :]) == "\n"
    learnt = torch.nonzero(weights)[:, 0]
    assert torch.equal(learnt, torch.arange(int(learnt[0]), len(ids)))
    pictured = tokenizer.convert_tokens_to_ids(["<image_soft_token>", "<|image_pad|>"])
    assert not (weights[torch.isin(ids, torch.tensor([number or -1 for number in pictured]))] > 0).any()
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in encoded.inputs:
            assert torch.equal(encoded.inputs[name], whole[name][:, : len(ids)])


def test_the_prompt_of_training_is_the_prompt_of_inference(chat: Chat) -> None:
    encoder = Encoder(chat, "tag")
    asked = encoder.question(picture())["input_ids"]
    learnt = encoder.example(picture(), tag(1, 2))
    length = asked.shape[1]
    assert torch.equal(learnt.inputs["input_ids"][:, :length], asked) and not learnt.weights[0, :length].any()
    assert learnt.weights[0, length:].all()


@pytest.mark.parametrize(("form", "answer", "digits"), [("tag", "lat: 3.5 or so.\n" + tag(-1.5, 20.25), "-1.5000020.25000"),
                                                        ("json", JSON, "-1.5000020.25000")])  # fmt: skip
def test_the_answers_coordinates_may_weigh_more(chat: Chat, form: str, answer: str, digits: str) -> None:
    encoded = Encoder(chat, form, coordinate_weight=5.0).example(picture(), answer)  # type: ignore[arg-type]
    heavy = encoded.inputs["input_ids"][0][encoded.weights[0] == 5.0]
    assert chat.tokenizer.decode(heavy).replace(" ", "") == digits
    assert set(encoded.weights[0].tolist()) == {0.0, 1.0, 5.0}


@settings(max_examples=15, deadline=None)
@given(width=st.integers(20, 200), height=st.integers(20, 200), words=st.integers(0, 30))
def test_the_length_is_known_without_the_pixels(chat: Chat, width: int, height: int, words: int) -> None:
    encoder = Encoder(chat, "tag")
    answer = "roads and trees. " * words + tag(1, 2)
    assert encoder.length(width, height, answer) == len(encoder.example(picture(width, height), answer))


def test_a_padded_batch_says_what_its_examples_say(chat: Chat) -> None:
    encoder = Encoder(chat, "tag")
    each = [encoder.example(picture(40 + 30 * n, 60), "hills. " * (5 * n) + tag(n, n)) for n in range(3)]
    together = batch(each, encoder.pad_id)
    for row, one in enumerate(each):
        end = len(one)
        assert torch.equal(together.inputs["input_ids"][row, :end], one.inputs["input_ids"][0])
        assert torch.equal(together.weights[row, :end], one.weights[0])
        assert not together.inputs["attention_mask"][row, end:].any() and not together.weights[row, end:].any()
    pixels = torch.cat([one.inputs["pixel_values"] for one in each])
    assert torch.equal(together.inputs["pixel_values"], pixels)
    left = joined([one.inputs for one in each], encoder.pad_id, left=True)
    assert torch.equal(left["input_ids"][0, -len(each[0]) :], each[0].inputs["input_ids"][0])
    assert not left["attention_mask"][0, : -len(each[0])].any()


def test_a_template_that_cannot_be_trained_is_refused(chat: Chat) -> None:
    class Odd(Chat):
        def __init__(self, template: str) -> None:
            self.processor, self.tokenizer = chat.processor, chat.tokenizer
            self.template = template

        def render(self, messages: object) -> str:
            return self.template

    with pytest.raises(UserError, match="writes an answer elsewhere"):
        Encoder(Odd("no such prompt"), "tag")
    whole = chat.processor.apply_chat_template(messages(student("tag"), "answer"), tokenize=False)
    with pytest.raises(UserError, match="with no special token"):
        # A prompt that ends where the answer's last special token stands: nothing special follows.
        Encoder(Odd(whole[: whole.index("answer")]), "tag")._end(whole[: whole.index("answer")] + "answer\n")


def test_examples_are_read_back(tmp_path: Path) -> None:
    found = crops(5)
    path, encoder = examples(tmp_path, str(tiny.gemma3(tmp_path / "base")), found)
    kept = opened(path)
    for row, each in enumerate(found):
        pixels = kept.picture(row)
        assert pixels.size == (48, 48) and kept.answer(row) == each.answer
        assert kept.lengths[row] == len(encoder.example(pixels, each.answer))
    latitude, longitude = kept.places([3, 1])
    assert latitude.tolist() == [found[3].latitude, found[1].latitude] and longitude[0] == found[3].longitude


# Order


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    size=st.integers(1, 12),
    steps=st.integers(1, 40),
    bucket=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_every_example_is_seen_once_an_epoch(count: int, size: int, steps: int, bucket: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(5, 500, count)
    order = Order(lengths, size, steps, bucket, seed)
    seen = np.concatenate([order.rows(step) for step in range(steps)])
    assert len(seen) == steps * size
    times = np.bincount(seen, minlength=count)
    assert times.max() - times.min() <= 1
    for step in (0, steps - 1):
        rows = order.rows(step)
        assert (np.diff(lengths[rows]) <= 0).all() and np.array_equal(
            rows, Order(lengths, size, steps, bucket, seed).rows(step)
        )


def test_buckets_save_padding_and_seeds_differ() -> None:
    lengths = np.random.default_rng(0).integers(1000, 1600, 2700)

    def padding(bucket: int) -> float:
        rows = [lengths[Order(lengths, 16, 169, bucket).rows(step)] for step in range(169)]
        return float(np.mean([1 - row.sum() / (len(row) * row.max()) for row in rows]))

    assert padding(50) < 0.01 and padding(1) > 0.1
    first, second = (Order(lengths, 16, 169, 50, seed).rows(0) for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_a_share_is_kept_out() -> None:
    def places(count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.linspace(-50, 50, count), np.linspace(0, 90, count)

    kept, held = halves(places(1000), Validation(share=0.1, images=64), seed=3)
    assert (len(kept), len(held)) == (936, 64) and sorted([*kept, *held]) == list(range(1000))
    assert [len(part) for part in halves(places(1), Validation(share=0.9), seed=0)] == [1, 0]
    assert not len(halves(places(50), Validation(share=0.0), seed=0)[1])
    one, other = (halves(places(1000), Validation(share=0.1), seed)[1] for seed in (3, 4))
    assert one.tolist() != other.tolist()
    twice = tuple(np.repeat(each, 2) for each in places(500))
    kept, held = halves((twice[0], twice[1]), Validation(share=0.1), seed=3)
    assert len(held) and not set(kept // 2) & set(held // 2)  # both pictures of a place are on one side
