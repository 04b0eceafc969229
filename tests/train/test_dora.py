"""DoRA, and the modules that NGCG adapts: how many they are, and that saved and merged ones are the trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from geobatch.errors import UserError
from geobatch.train import lora
from geobatch.train.lora import LoRA
from geobatch.train.merge import merge
from tests.engine import tiny

FAMILIES = {"qwen2_5_vl": tiny.qwen25vl, "internvl": tiny.internvl, "idefics3": tiny.smolvlm}

#: As the paper trains, but for the rank.
PUBLISHED = LoRA(rank=4, alpha=32, vision=True, targets="ngcg", dora=True)


def internvl35_1b() -> transformers.InternVLConfig:
    """OpenGVLab/InternVL3_5-1B-HF: Qwen3 of 28 layers behind a ViT of 24."""
    return transformers.InternVLConfig(
        text_config={
            "model_type": "qwen3",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        vision_config={"attention_bias": True},  # 24 layers of 1024, feed-forward 4096, 448 pixels in patches of 14
        tie_word_embeddings=True,
    )


def loaded(folder: Path | str) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of each family."""
    make: Callable[..., Path] = FAMILIES[request.param]
    return make(tmp_path_factory.mktemp(request.param) / "base")


def hidden(model: Any, base: Path) -> torch.Tensor:
    """The last hidden states of a picture and some words, of unit length, so that both halves have their say."""
    config = transformers.AutoConfig.from_pretrained(base)
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(30, 300, (2, 5), generator=generator)
    ids = torch.cat([words, torch.full((2, 16), config.image_token_id), words], 1)
    extra: dict[str, torch.Tensor] = {}
    if config.model_type == "qwen2_5_vl":
        extra = {"pixel_values": torch.randn(2 * 64, 3 * 2 * 14 * 14, generator=generator),
                 "image_grid_thw": torch.tensor([[1, 8, 8]] * 2),
                 "mm_token_type_ids": (ids == config.image_token_id).int()}  # fmt: skip
    else:
        side = {"internvl": (2, 3, 56, 56), "idefics3": (2, 1, 3, 64, 64)}[config.model_type]
        extra = {"pixel_values": torch.randn(side, generator=generator)}
    inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    with torch.inference_mode():
        found = inner.model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).last_hidden_state
    return torch.nn.functional.normalize(found, dim=-1)


def trained(base: Path, settings: LoRA) -> Any:
    """Adapters as a training might leave them."""
    model = lora.attach(loaded(base), settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(lora.trainable(model)):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + 0.2 * noise) if "magnitude" in name else parameter.add_(0.1 * noise)
    return model.eval()


def test_internvl_has_as_many_trainable_numbers_as_published() -> None:
    with torch.device("meta"):
        empty = transformers.AutoModelForImageTextToText.from_config(internvl35_1b())
    model = lora.attach(empty, LoRA(rank=16, alpha=128, dropout=0.1, vision=True, targets="ngcg", dora=True))
    found = lora.counts(model)
    assert found.trainable == 9_027_584
    assert sum(each.numel() for name, each in lora.trainable(model) if "magnitude" not in name) == 8_781_824
    assert found.modules == {"q_proj": 52, "k_proj": 52, "v_proj": 52, "o_proj": 28, "down_proj": 28}


def test_the_published_modules_are_adapted(base: Path) -> None:
    kind = json.loads((base / "config.json").read_text())["model_type"]
    towers = {"qwen2_5_vl": {"qkv": 2}, "internvl": {"q_proj": 4, "k_proj": 4, "v_proj": 4},
              "idefics3": {"q_proj": 4, "k_proj": 4, "v_proj": 4, "out_proj": 2}}  # fmt: skip
    language = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"), 2)
    assert lora.counts(lora.attach(loaded(base), PUBLISHED)).modules == {**language, **towers[kind]}
    assert lora.counts(lora.attach(loaded(base), LoRA(rank=4, targets="ngcg"))).modules == language


def test_all_projections_are_adapted_if_asked(base: Path) -> None:
    kind = json.loads((base / "config.json").read_text())["model_type"]
    towers = {"internvl": {"q_proj": 4, "k_proj": 4, "v_proj": 4, "projection_layer": 2, "fc1": 2, "fc2": 2},
              "idefics3": {"q_proj": 4, "k_proj": 4, "v_proj": 4, "out_proj": 2, "fc1": 2, "fc2": 2},
              "qwen2_5_vl": {"qkv": 2, "proj": 2, "gate_proj": 4, "up_proj": 4, "down_proj": 4}}  # fmt: skip
    seven = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2)
    found = lora.counts(lora.attach(loaded(base), LoRA(rank=4, vision=True)))
    assert found.modules == {**seven, **towers[kind]}


def test_it_begins_as_the_base_whatever_the_precision(base: Path) -> None:
    plain = loaded(base)
    torch.testing.assert_close(
        hidden(lora.attach(loaded(base), PUBLISHED).eval(), base), hidden(plain, base), atol=1e-6, rtol=1e-5
    )
    half = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    adapted = lora.tensors(lora.attach(half, PUBLISHED))
    assert {tensor.dtype for tensor in adapted.values()} == {torch.float32}
    name = next(name for name in adapted if "language_model.layers.1.mlp.down_proj.lora_magnitude" in name
                or "text_model.layers.1.mlp.down_proj.lora_magnitude" in name)  # fmt: skip
    weight = half.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_magnitude_vector")).weight
    torch.testing.assert_close(adapted[name], weight.float().norm(dim=1), rtol=1e-6, atol=0)


def test_counts_and_lengths_need_no_weights(base: Path) -> None:
    with torch.device("meta"):
        empty = transformers.AutoModelForImageTextToText.from_config(transformers.AutoConfig.from_pretrained(base))
    whole, drawn = lora.attach(loaded(base), PUBLISHED), lora.attach(empty, PUBLISHED)
    assert lora.counts(drawn) == lora.counts(whole)
    shapes = [{name: parameter.shape for name, parameter in lora.trainable(model)} for model in (whole, drawn)]
    assert shapes[0] == shapes[1]


def test_noise_is_the_published_codes_if_asked(base: Path) -> None:
    model = lora.attach(loaded(base), LoRA(rank=4, targets="ngcg", gaussian=True), seed=5)
    drawn = torch.cat([parameter.flatten() for name, parameter in lora.trainable(model) if ".lora_A." in name])
    assert abs(drawn.std() - 1 / 4) < 0.01 and abs(drawn.mean()) < 0.02
    again = lora.tensors(lora.attach(loaded(base), LoRA(rank=4, targets="ngcg", gaussian=True), seed=5))
    assert all(torch.equal(again[name], tensor) for name, tensor in lora.tensors(model).items())


def test_what_is_saved_is_the_trained_model_with_its_own_alpha(base: Path, tmp_path: Path) -> None:
    model = trained(base, PUBLISHED)
    expected = hidden(model, base)
    assert not torch.allclose(expected, hidden(loaded(base), base), atol=1e-2)
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(loaded(base), str(tmp_path / "adapter")).eval()
    assert torch.equal(hidden(again, base), expected)
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {name.rpartition(".lora_")[2] for name in names} == {"A.weight", "B.weight", "magnitude_vector"}
    # The released code evaluates at half the alpha that it trains with, which is another model.
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 16'))
    halved = peft.PeftModel.from_pretrained(loaded(base), str(tmp_path / "adapter")).eval()
    assert not torch.allclose(hidden(halved, base), expected, atol=1e-2)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    small, deep, wide = (tiny.internvl(tmp_path / str(n), width=w, layers=n) for n, w in ((1, 64), (2, 64), (3, 32)))
    model = trained(small, PUBLISHED)
    expected = hidden(model, small)
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "small")
    assert torch.equal(hidden(lora.read(loaded(small), tmp_path / "small").eval(), small), expected)
    model = trained(deep, PUBLISHED)
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "deep")
    with pytest.raises(UserError, match=r"differ in 15 adapters, .* give the base it was trained on"):
        lora.read(loaded(deep), tmp_path / "small")
    with pytest.raises(UserError, match="differ in 15 adapters"):
        lora.read(loaded(small), tmp_path / "deep")
    for other in (wide, tiny.smolvlm(tmp_path / "smol")):
        with pytest.raises(UserError, match="holds no adapter of this base"):
            lora.read(loaded(other), tmp_path / "deep")
    with pytest.raises(UserError, match="holds no adapter of this base"):
        lora.read(loaded(small), tmp_path / "nowhere")


def test_adapters_go_back_into_a_model(base: Path) -> None:
    model = trained(base, PUBLISHED)
    expected, kept = hidden(model, base), lora.tensors(model)
    fresh = lora.attach(loaded(base), PUBLISHED).eval()
    lora.put(fresh, kept)
    assert torch.equal(hidden(fresh, base), expected)


@pytest.mark.parametrize("dora", [True, False])
def test_a_merged_checkpoint_is_the_adapted_model(base: Path, tmp_path: Path, dora: bool) -> None:
    model = trained(base, LoRA(rank=4, alpha=32, vision=True, targets="ngcg", dora=dora))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    count = merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert count == sum(lora.counts(model).modules.values())
    merged = loaded(tmp_path / "merged")
    torch.testing.assert_close(hidden(merged, base), hidden(model, base), atol=1e-5, rtol=1e-5)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged/model.safetensors")
    assert before.keys() == after.keys()
    theirs = model.merge_and_unload().state_dict()
    ours = merged.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_a_base_that_ngcg_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no LoRA modules are known for a 'gemma3' model; use one of qwen2_5_vl, internvl"):
        lora.attach(loaded(tiny.gemma3(tmp_path)), PUBLISHED)
