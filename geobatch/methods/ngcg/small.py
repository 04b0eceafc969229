"""A base small enough to learn the embedded world from nothing on two cores: SmolVLM's shape, random weights, its own words.

The architecture is the published one (Idefics3: a SigLIP tower, patches joined in squares, a Llama), so all that is true of
SmolVLM-256M is true of it: prompts, pooling, adapters, both ways of serving. Only the sizes shrink. Heads stay 32 wide, the
least that vLLM serves on a CPU.

Its tokenizer is a byte-level BPE in lower case, trained on the texts that are learnt from: a town's name becomes one token
where SmolVLM's takes four, which is most of a small model's time. Digits stay single. Words of other texts fall into pieces,
down to bytes; nothing is unknown. It is a function of the texts and the size, the weights of size and seed.

Not covered: writing texts (the head on the vocabulary is there, and is trained by nobody).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from geobatch.errors import UserError

#: Width of a head: vLLM's attention on a CPU has none narrower.
HEAD = 32

PAD, END, IMAGE, AROUND, WHOLE = "<|endoftext|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"
_SPECIAL = [PAD, "<|im_start|>", END, AROUND, IMAGE, WHOLE]

_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Small:
    """How large the base of random weights is."""

    width: int = 128
    """Width of the language model, and of the vector; a multiple of 32."""
    layers: int = 4
    """Its layers."""
    vision_width: int = 128
    """Width of the vision tower; a multiple of 32."""
    vision_layers: int = 4
    """Its layers."""
    side: int = 48
    """Pixels of a tile's side."""
    patch: int = 8
    """Pixels of a patch's side."""
    joined: int = 2
    """Patches, both ways, that become one token of the language model."""
    words: int = 4096
    """Tokens of the vocabulary, at most."""
    seed: int = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if min(self.layers, self.vision_layers, self.patch, self.joined) < 1 or self.words < 300:
            raise UserError("a small base needs at least 1 layer of each kind, patches of at least 1 pixel, and 300 words")
        for name in ("width", "vision_width"):
            if getattr(self, name) < HEAD or getattr(self, name) % HEAD:
                raise UserError(f"--small.{name.replace('_', '-')} {getattr(self, name)} is no multiple of {HEAD}; use one")
        unit = self.patch * self.joined
        if self.side < unit or self.side % unit:
            raise UserError(f"--small.side {self.side} is no multiple of {unit}, the pixels of a token's side; use one")

    @property
    def tokens(self) -> int:
        """Tokens of a tile's picture."""
        return (self.side // (self.patch * self.joined)) ** 2


def write_small(folder: Path, texts: Iterable[str], size: Small | None = None) -> Path:
    """Writes the base to `folder`, whole or not at all, and returns it; one that is there already stays.

    Args:
        folder: as `transformers` and vLLM load it.
        texts: what its words are made of.
    """
    size = size or Small()
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "base"
        tokenizer = _tokenizer(texts, size.words)
        _processor(tokenizer, size).save_pretrained(made)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(size.seed)
            network: Any = transformers.Idefics3ForConditionalGeneration(_config(tokenizer, size))
        network.float().save_pretrained(made)
        (made / "small.json").write_text(json.dumps(asdict(size), indent=1) + "\n")
        made.rename(folder)
    return folder


def config_of(size: Small) -> transformers.Idefics3Config:
    """The architecture, with as many words as it has at most: enough to count it before any text was read."""
    return _architecture(size, size.words, {PAD: 0, END: 2, IMAGE: 4})


def _tokenizer(texts: Iterable[str], words: int) -> Any:
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token=END,
        pad_token=PAD,
        chat_template=_TEMPLATE,
        padding_side="left",
    )


def _processor(tokenizer: Any, size: Small) -> Any:
    edge = {"longest_edge": size.side}
    pictures = transformers.Idefics3ImageProcessor(
        size=edge, max_image_size=edge, do_image_splitting=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return transformers.Idefics3Processor(pictures, tokenizer, image_seq_len=size.tokens, chat_template=_TEMPLATE)


def _config(tokenizer: Any, size: Small) -> transformers.Idefics3Config:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    return _architecture(size, len(tokenizer), ids)


def _architecture(size: Small, words: int, ids: dict[str, int]) -> transformers.Idefics3Config:
    return transformers.Idefics3Config(
        text_config={
            "model_type": "llama",
            "vocab_size": words,
            "hidden_size": size.width,
            "intermediate_size": 4 * size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.width // HEAD,
            "num_key_value_heads": size.width // HEAD,
            "head_dim": HEAD,
            "max_position_embeddings": 1024,
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
            "tie_word_embeddings": True,
        },
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_width // HEAD,
            "image_size": size.side,
            "patch_size": size.patch,
        },
        scale_factor=size.joined,
        image_token_id=ids[IMAGE],
        pad_token_id=ids[PAD],
        eos_token_id=ids[END],
        tie_word_embeddings=True,
    )
