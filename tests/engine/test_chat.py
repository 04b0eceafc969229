"""Tokens back to text: every token knows where its characters begin."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geobatch.engine.chat import Chat, adapter_rank
from geobatch.errors import UserError
from tests.engine import tiny


@pytest.fixture(scope="module")
def chats(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Chat]:
    return [Chat(str(gemma)), Chat(str(tiny.qwen25vl(tmp_path_factory.mktemp("qwen"))))]


@pytest.mark.parametrize("which", [0, 1])
def test_every_character_of_a_written_text_has_its_token(chats: list[Chat], which: int) -> None:
    chat = chats[which]

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30))
    def check(text: str) -> None:
        assume(not any(token in text for token in chat.tokenizer.all_special_tokens))  # no reply's text has one
        tokens = chat.tokenizer(text, add_special_tokens=False).input_ids
        found, offsets = chat.decode(tokens)
        assert found == text
        assert len(offsets) == len(tokens)
        assert list(offsets) == sorted(offsets)
        for index, (token, start) in enumerate(zip(tokens, offsets, strict=True)):
            piece = chat.tokenizer.decode([token])
            if "\ufffd" not in piece:
                end = offsets[index + 1] if index + 1 < len(offsets) else len(text)
                assert text[start:end].startswith(piece) or piece in text[start:end]

    check()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 520), max_size=40))
def test_any_tokens_decode_without_an_error(chats: list[Chat], tokens: list[int]) -> None:
    text, offsets = chats[0].decode(tokens)
    assert len(offsets) == len(tokens)
    assert all(0 <= offset <= len(text) for offset in offsets)


def test_a_prompt_has_one_beginning_and_the_picture_where_it_was_put(chats: list[Chat]) -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Fixed."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
    ]
    gemma, qwen = (chat.render(messages) for chat in chats)
    assert gemma == "<bos><start_of_turn>user\nFixed.\n\n<start_of_image>Where?<end_of_turn>\n<start_of_turn>model\n"
    assert qwen.startswith(
        "<|im_start|>system\nFixed.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?"
    )


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no processor that loads"):
        Chat(str(tmp_path))
    with pytest.raises(UserError, match="is no LoRA adapter"):
        adapter_rank(tmp_path)
