"""The model's own processor: chat messages become its prompt, sampled tokens become text that knows where each began.

Both backends render with the template that came with the model, so that what is trained on is what is asked. The template
writes the beginning-of-text token itself, and tokenizers that would add a second one are told not to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from geobatch.errors import UserError


class Chat:
    """Prompts and tokens of one model.

    Args:
        model: folder or hub name.

    Raises:
        UserError: it has no processor with a chat template.
    """

    def __init__(self, model: str) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(model)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{model} has no processor that loads ({str(error).splitlines()[0]}); give a vision-language "
                            "model's whole folder") from None  # fmt: skip
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        if not (getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)):
            raise UserError(f"{model} has no chat template; add its chat_template.jinja, as instruction-tuned models have one")
        if self.tokenizer is self.processor:
            raise UserError(f"{model} reads no pictures; give a vision-language model")

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt up to where the reply begins."""
        text: str = self.processor.apply_chat_template([dict(each) for each in messages], tokenize=False,
                                                       add_generation_prompt=True)  # fmt: skip
        return text

    def decode(self, tokens: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """The text without special tokens, and where in it each token begins.

        Token by token where that adds up to the text, as it does for all but characters of several bytes; else by what each
        token adds to the ones before, where bytes that make a character together begin where the character does.
        """
        inner = self.tokenizer.backend_tokenizer
        text: str = inner.decode(list(tokens), skip_special_tokens=True)
        pieces = inner.decode_batch([[token] for token in tokens], skip_special_tokens=True)
        if "".join(pieces) != text:
            pieces = _added(lambda some: inner.decode(some, skip_special_tokens=True), list(tokens), text)
        return text, tuple(accumulate(map(len, pieces[:-1]), initial=0)) if pieces else ()


def _added(decode: Callable[[list[int]], str], tokens: list[int], text: str) -> list[str]:
    """What each token adds to a text, "" for one whose character is not complete yet.

    (`tokenizers.DecodeStream` keeps silent over a run of byte tokens, so it is done here; decoding goes on from the last
    token but one that completed a character, not from the beginning.)
    """
    pieces, before, read = [], 0, 0
    for end in range(1, len(tokens) + 1):
        known, now = decode(tokens[before:read]), decode(tokens[before:end])
        if len(now) > len(known) and not now.endswith("\ufffd"):
            pieces.append(now[len(known) :])
            before, read = read, end
        else:
            pieces.append("")
    if pieces:
        pieces[-1] += text[sum(map(len, pieces)) :]
    return pieces


def image(picture: npt.NDArray[np.uint8]) -> Image.Image:
    """A picture (H, W, 3) as the image processors take it."""
    return Image.fromarray(picture)


def context_of(model: str) -> int:
    """Tokens that a model was made for."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model)
    found: int = config.get_text_config().max_position_embeddings
    return found


def adapter_rank(adapter: Path) -> int:
    """The rank of a PEFT adapter.

    Raises:
        UserError: the folder holds none.
    """
    import json

    try:
        return int(json.loads((adapter / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{adapter} is no LoRA adapter ({error}); give a folder with adapter_config.json") from None


def sees(adapter: Path) -> bool:
    """Whether a PEFT adapter changes the vision tower, too."""
    from safetensors import safe_open

    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        return False
    with safe_open(path, "pt") as opened:
        return any("vision_tower" in name or ".visual." in name for name in opened.keys())  # noqa: SIM118  no mapping
