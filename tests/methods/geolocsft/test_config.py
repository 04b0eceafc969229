"""The paper's values, and settings that refuse each other."""

from __future__ import annotations

from typing import Any

import pytest

from geobatch.errors import UserError
from geobatch.methods.geolocsft import architectures
from geobatch.methods.geolocsft.config import PRESETS, Tuning, Validation, gemma3_12b, gemma3_27b, qwen25vl_3b


def test_the_defaults_are_the_papers() -> None:
    tuning = Tuning()
    assert (tuning.lora.rank, tuning.lora.alpha, tuning.lora.dropout, tuning.lora.vision) == (32, 64, 0.0, False)
    assert (tuning.learning_rate, tuning.schedule, tuning.warm_up, tuning.batch, tuning.epochs) == (2e-5, "cosine", 20, 16, 1)
    assert (tuning.cutoff, tuning.coordinate_weight, tuning.bf16, tuning.checkpointing) == (10_000, 1.0, True, True)


def test_presets_are_published_bases_with_an_architecture() -> None:
    assert gemma3_27b().base == "google/gemma-3-27b-it" and gemma3_27b().parallel == "fsdp"
    assert gemma3_12b().parallel == qwen25vl_3b().parallel == "ddp"
    for name, preset in PRESETS.items():
        assert preset().tuning == Tuning()
        assert getattr(architectures, name)().model_type in ("gemma3", "qwen2_5_vl")


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"micro_batch": 0}, {"cutoff": 0}, {"bucket": 0}, {"epochs": 0.0}, {"learning_rate": -1.0}, {"clip": 0.0},
     {"coordinate_weight": 0.0}, {"steps": 0}, {"warm_up": -1}, {"learning_rate": float("nan")}],
)  # fmt: skip
def test_a_training_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give"):
        Tuning(**wrong)


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"share": -0.1}, {"images": -1}, {"every": -1}, {"tokens": 0}, {"batch": 0}])
def test_a_validation_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="validation needs"):
        Validation(**wrong)
