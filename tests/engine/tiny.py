"""Tiny vision-language models with random weights: the real architectures, the real processors, our own small tokenizer.

`gemma3(folder)` and `qwen25vl(folder)`, and from `tiny_towers` `smolvlm(folder)` and `internvl(folder)`, write a folder that
`transformers` and vLLM load as they load the published ones: config, weights (safetensors, float32), image processor, tokenizer
and chat template. Sizes: 2 layers of width 64 in the language model and 1 or 2 of width 32 in the vision tower, 56-pixel
pictures of 16 tokens. The tokenizer is a BPE trained on `CORPUS`, where every digit is a token of its own, as in both published
families.

Gemma's newline runs must be tokens (vLLM's processor joins them around a picture), and its pooling head is off
(`vision_use_head=False`), as in the published checkpoints.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import transformers

from geobatch.engine.request import GeneratorConfig
from tests.engine.tiny_parts import bpe, published_names, saved
from tests.engine.tiny_towers import internvl, smolvlm

__all__ = ["CONFIG", "gemma3", "internvl", "published_names", "qwen25vl", "smolvlm"]

#: How tests serve them.
CONFIG = GeneratorConfig(backend="vllm", dtype="float32", context=1024, in_flight=32, cpu_cache_gib=1, deadline_s=120)

CORPUS = [
    "You are shown one photograph. Where on Earth was it taken? Reason from terrain, climate, vegetation, roads, buildings",
    "<answer>\nlat: 48.85840\nlon: 2.29450\n</answer> <answer>\nlat: -33.85680\nlon: 151.21530\n</answer>",
    '{"thinking": {"25km_analysis": {}, "1km_analysis": {}}, "answer": {"coordinates": {"latitude": 0.0, "longitude": 0.0}}}',
    "latitude longitude coordinates degrees region answer photograph taken where system user assistant model image",
]

GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
                 "<image_soft_token>"]  # fmt: skip
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
                "<|image_pad|>", "<|video_pad|>"]  # fmt: skip

# Parts of type "image_url" are what vLLM's own chat interface hands to a template, "image" what transformers does.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% set first = namespace(text='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set first.text = (message['content'] if message['content'] is string "
    "else message['content'][0]['text']) + '\n\n' %}"
    "{% else %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if message['role'] == 'user' %}{{ first.text }}{% set first.text = '' %}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def _gemma_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe(GEMMA_SPECIAL, CORPUS),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        chat_template=GEMMA_TEMPLATE,
        padding_side="left",
    )


@cache
def _qwen_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe(QWEN_SPECIAL, CORPUS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=QWEN_TEMPLATE,
        padding_side="left",
    )


def gemma3(folder: Path, seed: int = 0, width: int = 64, layers: int = 2, sharpness: float = 1.0) -> Path:
    """A Gemma 3 with random weights in `folder`; returns it."""
    tokenizer = _gemma_tokenizer()
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56}, do_pan_and_scan=False),
        tokenizer=tokenizer,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=16,
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "sliding_window": 1024,
            "query_pre_attn_scalar": 32,
            "layer_types": ["sliding_attention" if layer % 2 else "full_attention" for layer in range(layers)],
            "bos_token_id": ids("<bos>"),
            "eos_token_id": ids("<eos>"),
            "pad_token_id": ids("<pad>"),
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=16,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        bos_token_id=ids("<bos>"),
        eos_token_id=ids("<eos>"),
        pad_token_id=ids("<pad>"),
    )
    return saved(folder, transformers.Gemma3ForConditionalGeneration, config, processor, [ids("<eos>"), ids("<end_of_turn>")],
                 seed, sharpness)  # fmt: skip


def qwen25vl(folder: Path, seed: int = 0, width: int = 64, layers: int = 2, sharpness: float = 1.0) -> Path:
    """A Qwen2.5-VL with random weights in `folder`; returns it."""
    tokenizer = _qwen_tokenizer()
    sizes = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**sizes),
        chat_template=QWEN_TEMPLATE,
    )
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,  # vLLM on a CPU knows heads of 32 and more
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": width,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "patch_size": 14,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        vision_token_id=ids("<|vision_pad|>"),
        bos_token_id=ids("<|endoftext|>"),
        eos_token_id=ids("<|im_end|>"),
        tie_word_embeddings=True,
    )
    return saved(folder, transformers.Qwen2_5_VLForConditionalGeneration, config, processor,
                 [ids("<|im_end|>"), ids("<|endoftext|>")], seed, sharpness)  # fmt: skip
