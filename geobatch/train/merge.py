"""Adapters melted into their base: a checkpoint of its own that transformers and vLLM load alike.

The base's own files are the pattern. Each of its safetensors shards is read, (alpha / r)·B·A is added in float32 to the
projections that have adapters, and the shard is written under the names it had; everything else (config, processor,
tokenizer, chat template) is copied. One shard is in memory at a time, 5 GB of the 55 GB of Gemma 3 27B, and no GPU is needed.
Of a DoRA adapter each row of the sum is then given the length that was trained for it (arXiv 2402.09353, eq. 5).

Names are where this goes wrong. Published Gemma 3 files say `language_model.model.layers…` and
`vision_tower.vision_model.encoder…`, modules of transformers 5 `model.language_model.layers…` and
`model.vision_tower.encoder…`, and vLLM 0.29 reads only the tower's longer form, which transformers 5.19 no longer writes when
it saves. So names are compared without the words in which these forms differ, and a Gemma tower whose names lost `vision_model`
gets it back; transformers reads either. The other families' names are read by both in whichever form the base has them.

Not covered: bases in other formats than safetensors, quantised bases.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from geobatch.errors import UserError

_INDEX = "model.safetensors.index.json"


def merge(base: Path, adapter: Path, output: Path) -> int:
    """Writes the merged checkpoint to `output`, which must not exist; returns how many projections changed.

    Args:
        base: folder of the base model.
        adapter: PEFT folder of adapters made on it.

    Raises:
        UserError: the base has no safetensors, or the adapters are of another base.
    """
    shards = sorted(base.glob("*.safetensors"))
    if not shards:
        raise UserError(f"{base} holds no .safetensors to merge into; save the base in that format")
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    pending = _parts(adapter)
    named = _outside if json.loads((base / "config.json").read_text()).get("model_type") == "gemma3" else str
    output.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt", ".pth", ".gguf") and path.name != _INDEX:
            shutil.copy2(path, output / path.name)
    merged, places = 0, {}
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            metadata = opened.metadata()
        tensors = {}
        for name, weight in load_file(shard).items():
            parts = pending.pop(_bare(name), None)
            tensors[named(name)] = weight if parts is None else _sum(name, weight, parts, scale)
            merged += parts is not None
        save_file(tensors, output / shard.name, metadata or {"format": "pt"})
        places.update(dict.fromkeys(tensors, shard.name))
    if pending:
        raise UserError(f"{base} lacks {len(pending)} projections that {adapter} adapts, {next(iter(pending))} for one; "
                        "merge into the base that was trained on")  # fmt: skip
    if len(shards) > 1:
        size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (output / _INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return merged


def _parts(adapter: Path) -> dict[str, dict[str, Tensor]]:
    """A, B and, of DoRA, magnitude_vector, by the bare name of the weight they change."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        module, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        found.setdefault(_bare(f"{module}.weight"), {})[side] = tensor
    return found


def _sum(name: str, weight: Tensor, parts: dict[str, Tensor], scale: float) -> Tensor:
    change = scale * (parts["B"].float() @ parts["A"].float())
    if change.shape != weight.shape:
        raise UserError(
            f"{name} is {tuple(weight.shape)} and its adapter {tuple(change.shape)}; merge into the base trained on"
        )
    whole = weight.float() + change
    if (lengths := parts.get("magnitude_vector")) is not None:
        whole *= (lengths.float() / torch.linalg.vector_norm(whole, dim=1)).unsqueeze(1)
    return whole.to(weight.dtype)


def _bare(name: str) -> str:
    """A weight's name without the words in which its spellings differ."""
    return ".".join(word for word in name.split(".") if word not in ("model", "language_model", "vision_model"))


def _outside(name: str) -> str:
    """The spelling that every reader knows."""
    return re.sub(r"(^|\.)vision_tower\.(?!vision_model\.)", r"\1vision_tower.vision_model.", name)
