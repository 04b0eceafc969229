"""What a training needs: counts equal the published ones, what autograd keeps is what whole models keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from geobatch.errors import UserError
from geobatch.methods.ngcg import needs
from geobatch.methods.ngcg.architectures import ARCHITECTURES
from geobatch.methods.ngcg.config import Encoding, Tuning
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.inputs import Batch
from geobatch.methods.ngcg.small import Small, config_of
from tests.engine import tiny

FAMILIES: dict[str, Callable[..., Path]] = {"idefics3": tiny.smolvlm, "internvl": tiny.internvl, "qwen2_5_vl": tiny.qwen25vl}
WORDS = "A coast with sandy beaches and blue water, " * 4


@pytest.mark.parametrize(
    ("name", "total", "trained", "side"),
    [("internvl35_1b", 1_060_897_792, 9_027_584, 448), ("smolvlm_256m", 256_484_928, 4_136_832, 512),
     ("smolvlm_500m", 507_482_304, 6_408_192, 512)],
)  # fmt: skip
def test_published_bases_have_as_many_numbers_as_published(name: str, total: int, trained: int, side: int) -> None:
    config, own = ARCHITECTURES[name]()
    model = needs.built(config, Tuning())
    assert needs.counted(model) == (trained, total + trained) and own == side
    assert needs.said(model).startswith(f"{trained:,} of {total + trained:,} parameters are trained")


def held(encoder: Encoder, inputs: Batch, tuning: Tuning) -> int:
    """Bytes that autograd keeps of a whole network."""
    own = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=tuning.bf16):
        encoder(inputs)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_what_a_whole_network_keeps(family: str, whole: bool, tmp_path: Path) -> None:
    """Of one more row, so that what rows share is left out; six layers, so that what surrounds them counts little."""
    base, tuning = FAMILIES[family](tmp_path / "base", layers=6), Tuning(whole=whole, bf16=not whole)
    encoder = Encoder.load(
        str(base), dtype="float32" if whole else "bfloat16", lora=None if whole else tuning.lora, whole=whole
    ).train()
    tile = np.full((64, 64, 3), 90, np.uint8)
    texts, tiles = (held(encoder, more, tuning) - held(encoder, one, tuning) for one, more in (
        (encoder.texts([WORDS]), encoder.texts([WORDS] * 2)), (encoder.pictures([tile]), encoder.pictures([tile] * 2))
    ))  # fmt: skip
    model = needs.built(encoder.processor.config, tuning)
    tokens = encoder.texts([WORDS])["input_ids"].shape[1]
    found = needs.kept(model, tuning, Encoding(text_tokens=tokens), encoder.processor.side)
    assert found.text == pytest.approx(texts, rel=0.15)
    # A tiny Qwen's tower has two layers, and what joins its patches keeps as much as one of them.
    assert found.tile == pytest.approx(tiles, rel=0.3 if family == "qwen2_5_vl" else 0.15)
    trained = sum(each.numel() for each in encoder.parameters() if each.requires_grad)
    assert needs.counted(model) == (trained, sum(each.numel() for each in encoder.parameters()))


def test_the_table_adds_up_and_names_a_cure() -> None:
    architecture, tuning = config_of(Small()), Tuning(whole=True, batch=64, bf16=False)
    need = needs.need(needs.built(architecture, tuning), tuning, Encoding(), 48, 2)
    count = needs.counted(needs.built(architecture, tuning))[0]
    assert (need.weights, need.training) == (4 * count, 12 * count)
    smaller = needs.need(needs.built(architecture, tuning), replace(tuning, micro_batch=8), Encoding(), 48, 2)
    assert smaller.kept * 4 == need.kept  # 32 pairs a worker against 8
    gib = (need.total - need.kept // 2) / needs.GIB
    said = needs.report("tiny", architecture, tuning, Encoding(), 48, 2, gib)
    cure = int(said.rpartition("--tuning.micro-batch of ")[2])
    fits = needs.report("tiny", architecture, replace(tuning, micro_batch=cure), Encoding(), 48, 2, gib)
    assert "does not fit" in said and "\nfits: " in fits
    assert "\nfits: " not in needs.report("tiny", architecture, replace(tuning, micro_batch=cure + 1), Encoding(), 48, 2, gib)
    assert "larger GPUs" in needs.report("tiny", architecture, tuning, Encoding(), 48, 2, 0.5)
    with pytest.raises(UserError, match="shared equally by 3"):
        needs.report("tiny", architecture, tuning, Encoding(), 48, 3, 80)
