"""Adapters: where they go, how many they are, what their folder says; and that merged weights are the adapted model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from geobatch.errors import UserError
from geobatch.train import lora
from geobatch.train.lora import LoRA
from geobatch.train.merge import merge
from tests.engine import tiny

FAMILIES = {"gemma3": tiny.gemma3, "qwen2_5_vl": tiny.qwen25vl}


def loaded(folder: Path | str) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of each family."""
    make: Callable[..., Path] = FAMILIES[request.param]
    return make(tmp_path_factory.mktemp(request.param) / "base")


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(30, 300, (2, 17), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


def shaken(model: Any, seed: int = 1) -> Any:
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(lora.trainable(model)):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def test_the_language_models_projections_are_adapted_and_nothing_else(base: Path) -> None:
    model = lora.attach(loaded(base), LoRA(rank=4, alpha=8))
    adapted = {name.split(".lora_A.")[0] for name, _ in lora.trainable(model) if ".lora_A." in name}
    assert len(adapted) == 2 * 7
    assert all(".language_model.layers." in name for name in adapted)
    found = lora.counts(model)
    assert found.modules == dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2)
    sizes = [module.weight.shape for name, module in loaded(base).named_modules() if "base_model.model." + name in adapted]
    assert found.trainable == sum(4 * (rows + columns) for rows, columns in sizes)
    assert f"{found.trainable:,} of {found.total:,} parameters are trained" in str(found)
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if ".lora_" not in name)


def test_the_vision_tower_is_adapted_if_asked(base: Path) -> None:
    language, both = (lora.counts(lora.attach(loaded(base), LoRA(vision=vision))) for vision in (False, True))
    towers = {"gemma3": {"out_proj": 2, "fc1": 2, "fc2": 2, "q_proj": 4, "k_proj": 4, "v_proj": 4},
              "qwen2_5_vl": {"qkv": 2, "proj": 2, "gate_proj": 4, "up_proj": 4, "down_proj": 4}}  # fmt: skip
    kind = json.loads((base / "config.json").read_text())["model_type"]
    assert both.modules == {**language.modules, **towers[kind]}


def test_counts_need_no_weights(base: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        empty = transformers.AutoModelForImageTextToText.from_config(config)
    assert lora.counts(lora.attach(empty, LoRA())) == lora.counts(lora.attach(loaded(base), LoRA()))


def test_adapters_begin_the_same_and_begin_with_nothing(base: Path) -> None:
    plain = loaded(base)
    before = logits(plain)
    first, second, other = (lora.attach(loaded(base), LoRA(rank=4), seed) for seed in (7, 7, 8))
    assert torch.equal(logits(first), before)
    one, same, another = (lora.tensors(model) for model in (first, second, other))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], another[name]) for name in one)
    assert all(tensor.dtype == torch.float32 for tensor in one.values())
    half = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in lora.tensors(lora.attach(half, LoRA(rank=4))).values()} == {torch.float32}


def test_what_is_saved_is_a_peft_adapter(base: Path, tmp_path: Path) -> None:
    model = shaken(lora.attach(loaded(base), LoRA(rank=4, alpha=8)))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(loaded(base), str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(again), logits(model))
    assert not torch.allclose(logits(model), logits(loaded(base)), atol=1e-4)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["inference_mode"]) == (4, 8, "LORA", True)
    assert config["bias"] == "none" and not config["use_dora"] and not config["modules_to_save"]
    # vLLM takes `base_model.model.`, a module of the checkpoint, and `.lora_A.weight`.
    names = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all(
        re.fullmatch(
            r"base_model\.model\.model\.language_model\.layers\.\d\.(self_attn|mlp)\.\w+_proj\.lora_[AB]\.weight", name
        )
        for name in names
    )


def test_adapters_go_back_into_a_model_and_refuse_another(base: Path) -> None:
    model = shaken(lora.attach(loaded(base), LoRA(rank=4)))
    kept, before = lora.tensors(model), logits(model)
    shaken(model, seed=2)
    assert not torch.equal(logits(model), before)
    lora.put(model, kept)
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="1 adapters are on one side only"):
        lora.put(model, dict(list(kept.items())[1:]))


def test_a_merged_checkpoint_is_the_adapted_model(base: Path, tmp_path: Path) -> None:
    model = shaken(lora.attach(loaded(base), LoRA(rank=4, alpha=8)))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    assert merge(base, tmp_path / "adapter", tmp_path / "merged") == 14
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4)
    transformers.AutoProcessor.from_pretrained(tmp_path / "merged")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "merged/model.safetensors")
    assert before.keys() == after.keys()  # these bases are named as published ones are
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 14 and all("_proj.weight" in name for name in changed)


def test_a_tower_that_lost_a_word_of_its_name_gets_it_back(tmp_path: Path) -> None:
    base = tiny.gemma3(tmp_path / "base")
    model = shaken(lora.attach(loaded(base), LoRA(rank=4, vision=True)))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    weights = load_file(base / "model.safetensors")
    short = {name.replace("vision_tower.vision_model.", "vision_tower."): tensor for name, tensor in weights.items()}
    assert short.keys() != weights.keys()
    save_file(short, base / "model.safetensors", {"format": "pt"})
    merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert load_file(tmp_path / "merged/model.safetensors").keys() == weights.keys()
    expected, found = (loaded(folder).model.vision_tower.state_dict() for folder in (base, tmp_path / "merged"))
    assert {name for name in expected if not torch.equal(expected[name], found[name])} == {
        name for name in expected if re.search(r"layers\.\d\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])\.weight", name)
    }
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4)


def test_a_base_of_several_files_stays_one(base: Path, tmp_path: Path) -> None:
    model = shaken(lora.attach(loaded(base), LoRA(rank=4)))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    many = tmp_path / "many"
    loaded(base).save_pretrained(many, max_shard_size="200KB")
    assert len(list(many.glob("*.safetensors"))) > 1
    merge(many, tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(model), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_adapted_or_merged_is_refused(tmp_path: Path) -> None:
    bert = transformers.BertModel(transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(UserError, match="no LoRA modules are known for a 'bert' model"):
        lora.attach(bert, LoRA())
    bert.config.model_type = "gemma3"
    with pytest.raises(UserError, match="this gemma3 model has no module named"):
        lora.attach(bert, LoRA())
    with pytest.raises(UserError, match="use a rank and an alpha of at least 1"):
        LoRA(rank=0)
    small, wide = tiny.gemma3(tmp_path / "small"), tiny.gemma3(tmp_path / "wide", width=32)
    model = lora.attach(loaded(small), LoRA(rank=2))
    lora.save(lora.tensors(model), lora.config_of(model), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"merge into (the base trained on|its own base)"):
        merge(wide, tmp_path / "adapter", tmp_path / "one")
    with pytest.raises(UserError, match="lacks 14 projections"):
        merge(tiny.gemma3(tmp_path / "none", layers=0), tmp_path / "adapter", tmp_path / "two")
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        merge(tmp_path / "adapter/nowhere", tmp_path / "adapter", tmp_path / "three")
