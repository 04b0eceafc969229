"""Counts are peft's, activations are what torch's allocator reports on CPU within 25 %, verdicts follow from the figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from geobatch.methods.geolocsft import architectures, memory
from geobatch.methods.geolocsft.data import Encoded
from geobatch.methods.geolocsft.memory import GIB, Plan
from geobatch.methods.geolocsft.student import Student
from geobatch.train import lora

PRESETS = {name: make() for name, make in architectures.ARCHITECTURES.items()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are shared by all tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Counts


@pytest.mark.parametrize(
    ("name", "rank", "targets"),
    [
        ("gemma3_27b", 32, architectures.PROJECTIONS),
        ("gemma3_12b", 16, ("q_proj", "v_proj")),
        ("qwen25vl_3b", 32, architectures.PROJECTIONS),
        ("qwen25vl_3b", 8, ("o_proj", "down_proj")),
    ],
)
def test_adapters_are_counted_as_peft_makes_them(name: str, rank: int, targets: tuple[str, ...]) -> None:
    inside = f".*language_model.*\\.({'|'.join(targets)})"
    with torch.device("meta"):
        model: Any = peft.get_peft_model(
            architectures.on_meta(PRESETS[name]), peft.LoraConfig(r=rank, target_modules=inside), autocast_adapter_dtype=False
        )
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert memory.adapter_parameters(PRESETS[name], rank, targets) == trainable


def test_the_eye_of_qwen_gets_no_adapter_though_its_layers_have_the_same_names() -> None:
    assert len(memory.adapted(PRESETS["qwen25vl_3b"], ("gate_proj",))) == 36


# Activations, against the allocator


def allocated(work: Callable[[], object]) -> int:
    """Bytes the allocator held at its peak beyond those it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = top = 0
    for change in sorted(changes, key=lambda each: each.start_ns()):
        now += change.nbytes()
        top = max(top, now)
    return top


def tiny(family: str, width: int, middle: int, layers: int) -> Any:
    """A config of a whole model whose language part has these sizes."""
    text: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 6000,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    marks = {"image_token_id": 5999, "vision_start_token_id": 5998, "video_token_id": 5997}
    if family == "gemma3":
        eye = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
        return transformers.Gemma3Config(
            text_config={**text, "head_dim": 32, "sliding_window": 64},
            vision_config={**eye, "image_size": 448, "patch_size": 14, "vision_use_head": False},
            image_token_index=5999,
        )
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [width // 32, width // 32, width // 16]}
    eye = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": width}
    text |= {"rope_parameters": rope, "tie_word_embeddings": True}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=eye, tie_word_embeddings=True, **marks)


def layers_of(config: Any, rank: int = 4) -> Any:
    """The language model as it is trained: frozen bf16, float32 adapters, every layer checkpointed."""
    whole = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    text: Any = whole.model.language_model
    text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    text.config.use_cache = False
    model = peft.get_peft_model(text, peft.LoraConfig(r=rank, target_modules=list(architectures.PROJECTIONS)))
    return model.train()


def trained(model: Any, sequences: int, tokens: int) -> Callable[[], None]:
    """One forward and backward pass; the first sequence is padded."""
    ids = torch.randint(0, 6000, (sequences, tokens))
    mask = torch.ones_like(ids)
    mask[0, : tokens // 8] = 0

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1].float().sum()
        loss.backward()

    return step


@pytest.mark.parametrize(
    ("family", "width", "middle", "layers", "sequences", "tokens"),
    [
        ("gemma3", 128, 512, 6, 2, 512),
        ("gemma3", 256, 512, 12, 1, 768),
        ("gemma3", 128, 1024, 2, 1, 1536),
        ("qwen2_5_vl", 128, 512, 6, 2, 512),
        ("qwen2_5_vl", 128, 1024, 12, 2, 768),
    ],
)
def test_activations_are_what_the_allocator_saw(
    family: str, width: int, middle: int, layers: int, sequences: int, tokens: int
) -> None:
    config = tiny(family, width, middle, layers)
    step = trained(layers_of(config), sequences, tokens)
    step()  # gradients exist from here on, and are not activations
    plan = Plan(tokens=tokens, micro_batch=sequences, logits=0, pixels=(28, 28), sharding="ddp", gpus=1)
    found = memory.need(architectures.layout(config), memory.adapter_parameters(config, 4), plan)
    seen = allocated(step)
    assert found.kept + found.computing == pytest.approx(seen, rel=0.25)


def example(family: str, tokens: int, answer: int) -> Encoded:
    """A picture of 448 x 448 pixels, then text, of which the last `answer` tokens are learnt."""
    ids, kinds = torch.randint(10, 5900, (1, tokens)), torch.zeros(1, tokens, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ids[0, 3], ids[0, 4:260], kinds[0, 4:260] = 5998, 5999, 1
    if family == "gemma3":
        inputs |= {"token_type_ids": kinds, "pixel_values": torch.rand(1, 3, 448, 448)}
    else:
        grid = torch.tensor([[1, 32, 32]])
        inputs |= {"mm_token_type_ids": kinds, "pixel_values": torch.rand(1024, 3 * 2 * 14 * 14), "image_grid_thw": grid}
    weights = torch.zeros(1, tokens)
    weights[0, -answer:] = 1
    return Encoded(inputs, weights)


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
@pytest.mark.parametrize(("tokens", "answer", "at_once", "widest"), [(768, 300, 2048, "logits"), (1024, 300, 64, "layer")])
def test_a_whole_student_with_a_picture_is_what_the_allocator_saw(
    family: str, tokens: int, answer: int, at_once: int, widest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geobatch.methods.geolocsft.student.LOGITS", at_once)
    config = tiny(family, 128, 512, 6)
    base = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    base.config.use_cache, base.name_or_path = False, "tiny"
    model: Any = lora.attach(base, lora.LoRA(rank=4, alpha=8))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    learner, encoded = Student(model).train(), example(family, tokens, answer)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = learner(encoded)
        loss.backward()

    step()
    plan = Plan(tokens=tokens, logits=min(at_once, answer), pixels=(448, 448), sharding="ddp", gpus=1)
    shape = architectures.layout(config)
    found = memory.need(shape, memory.adapter_parameters(config, 4), plan)
    assert (found.computing == tokens * memory.layer_bytes(shape)) == (widest == "layer")
    assert found.kept + found.computing == pytest.approx(allocated(step), rel=0.25)


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
def test_a_frozen_eye_takes_no_more_than_said(family: str) -> None:
    config = tiny(family, 64, 128, 2)
    model: Any = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).requires_grad_(False)
    side = 448
    if family == "gemma3":
        pixels = torch.rand(1, 3, side, side)

        def look() -> object:
            return model.model.vision_tower(pixel_values=pixels.to(torch.bfloat16))

    else:
        patches = (side // 14) ** 2
        pixels = torch.rand(patches, 3 * 2 * 14 * 14)
        grid = torch.tensor([[1, side // 14, side // 14]])

        def look() -> object:
            return model.model.visual(pixels.to(torch.bfloat16), grid_thw=grid)

    look()
    said = memory.tower_bytes(architectures.layout(config), (side, side))
    seen = allocated(look)
    assert 0.5 * said < seen < 1.25 * said


# Verdicts


def test_gemma_27b_on_eight_cards_of_80_gib() -> None:
    text = memory.report(PRESETS["gemma3_27b"], Plan(sharding="fsdp", gpus=8, gib=80), "gemma3_27b")
    assert "27.43 B parameters" in text and "227,033,088 trainable" in text
    assert re.search(r"^fits: 2\d\.\d of 80 GiB$", text, re.M)
    alone = memory.report(PRESETS["gemma3_27b"], Plan(sharding="ddp", gpus=8, gib=80))
    assert "fsdp would leave more room" in alone


def test_qwen_3b_on_one_card_of_24_gib() -> None:
    text = memory.report(PRESETS["qwen25vl_3b"], Plan(sharding="ddp", gpus=1, gib=24), "qwen25vl_3b")
    assert re.search(r"^fits: 1\d\.\d of 24 GiB$", text, re.M)
    assert "fsdp" not in text


@pytest.mark.parametrize(
    ("plan", "advice"),
    [
        (Plan(sharding="fsdp", gpus=8, gib=80, micro_batch=64), r"take a micro-batch of \d$"),
        (Plan(sharding="ddp", gpus=8, gib=48), r"take a micro-batch of 1 with fsdp"),
        (Plan(sharding="ddp", gpus=1, gib=40), r"take 4 such GPUs with fsdp"),
        (Plan(sharding="fsdp", gpus=32, gib=16), r"cut sequences at [\d,]+ tokens"),
        (Plan(sharding="ddp", gpus=1, gib=8), r"take larger GPUs or a smaller model"),
    ],
)
def test_what_does_not_fit_comes_with_what_to_do(plan: Plan, advice: str) -> None:
    text = memory.report(PRESETS["gemma3_27b"], plan)
    assert "does not fit" in text
    assert re.search(advice, text), text.splitlines()[-1]


plans = st.builds(
    Plan,
    tokens=st.integers(500, 20_000),
    logits=st.integers(1, 4096),
    sharding=st.sampled_from(["ddp", "fsdp"]),
    gpus=st.integers(1, 64),
    gib=st.floats(8, 200),
)


@settings(max_examples=100, deadline=None)
@given(plan=plans)
def test_the_largest_micro_batch_fits_and_the_next_does_not(plan: Plan) -> None:
    model = architectures.named("qwen25vl_3b")
    adapters = 59_867_136
    size = memory.largest(model, adapters, plan)
    limit = memory.FILLED * plan.gib * GIB
    assert memory.need(model, adapters, replace(plan, micro_batch=size + 1)).total > limit
    if size:
        assert memory.need(model, adapters, replace(plan, micro_batch=size)).total <= limit


@settings(max_examples=100, deadline=None)
@given(plan=plans, gpus=st.integers(2, 32))
def test_sharing_the_base_over_more_cards_never_needs_more_of_each(plan: Plan, gpus: int) -> None:
    model = architectures.named("gemma3_27b")
    few = memory.need(model, 227_033_088, replace(plan, sharding="fsdp", gpus=gpus)).total
    many = memory.need(model, 227_033_088, replace(plan, sharding="fsdp", gpus=2 * gpus)).total
    assert many < few
