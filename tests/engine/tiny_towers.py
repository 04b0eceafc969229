"""Tiny SmolVLM and InternVL3.5 with random weights: the bases of NGCG, told in its words.

Real architectures and processors, written as `tests.engine.tiny` writes its own. Attention heads are 32 wide, the least that
vLLM knows on a CPU; a picture is 16 tokens in both. The tokenizer is trained on what is said of places, so that such a text is
about one token a word.

SmolVLM-256M and -500M, the paper's, call themselves `idefics3`. SmolVLM2 is `smolvlm`, whose processor of `transformers` needs
the package `num2words`; its folder here has the tokenizer and the image processor apart, and no processor around them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import transformers

from tests.engine.tiny_parts import bpe, saved

PLACES = [
    "A coast with sandy beaches, blue water, shallow sea, islands, a bay and cliffs in the north and south.",
    "Dense green forest, brown desert, dry grassland, farmland, bare rock, snow and ice, tundra, steppe, wetland.",
    "High mountains, hills, a plateau, lowland plains, a valley with a river, a lake, a delta, rivers and lakes.",
    "north of the city, north-east, east, south-east, south, south-west, west, north-west, near the capital of the country",
    "The tile shows land and water, about 100 km, 250 km from the nearest city; roads, buildings, a campus, a roof, trees.",
    "dark bright light pale red yellow grey white colour flat steep rugged wide narrow mostly partly open ocean far inland",
    "It is at the with and of a an in to from on by is are has this that there no few many some large small",
]

SMOL_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
                "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>"]  # fmt: skip
INTERN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]

SMOL_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %} {{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
INTERN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def _smol_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe(SMOL_SPECIAL, PLACES),
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
        chat_template=SMOL_TEMPLATE,
        padding_side="left",
    )


@cache
def _intern_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe(INTERN_SPECIAL, PLACES),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        chat_template=INTERN_TEMPLATE,
        padding_side="left",
    )


def _language(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    ids = tokenizer.convert_tokens_to_ids
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": ids(tokenizer.bos_token or tokenizer.pad_token),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def smolvlm(
    folder: Path,
    seed: int = 0,
    width: int = 64,
    layers: int = 2,
    sharpness: float = 1.0,
    kind: Literal["idefics3", "smolvlm"] = "idefics3",
) -> Path:
    """A SmolVLM with random weights in `folder`, pictures of 64 pixels; returns the folder."""
    tokenizer = _smol_tokenizer()
    sizes = {"size": {"longest_edge": 4 * 64}, "max_image_size": {"longest_edge": 64}, "do_image_splitting": True}
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
    }
    common = {
        "text_config": {"model_type": "llama", **_language(tokenizer, width, layers)},
        "vision_config": vision,
        "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    ends = [tokenizer.eos_token_id]
    if kind == "smolvlm":
        image = transformers.SmolVLMImageProcessor(**sizes)
        config = transformers.SmolVLMConfig(**common)
        saved(folder, transformers.SmolVLMForConditionalGeneration, config, image, ends, seed, sharpness)
        tokenizer.save_pretrained(folder)
        return folder
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(**sizes),
        tokenizer=tokenizer,
        image_seq_len=16,
        chat_template=SMOL_TEMPLATE,
    )
    config = transformers.Idefics3Config(**common)
    return saved(folder, transformers.Idefics3ForConditionalGeneration, config, processor, ends, seed, sharpness)


def internvl(folder: Path, seed: int = 0, width: int = 64, layers: int = 2, sharpness: float = 1.0) -> Path:
    """An InternVL3.5 (Qwen3 behind a ViT) with random weights in `folder`, pictures of 56 pixels; returns the folder."""
    tokenizer = _intern_tokenizer()
    square = {"height": 56, "width": 56}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=square, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=square),
        image_seq_length=16,
        chat_template=INTERN_TEMPLATE,
    )
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen3", **_language(tokenizer, width, layers), "tie_word_embeddings": True},
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": [56, 56],
            "patch_size": [7, 7],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=True,
    )
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return saved(folder, transformers.InternVLForConditionalGeneration, config, processor, ends, seed, sharpness)
