"""The choices of a training: the paper's by default, and those that no training can have."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation


def test_the_default_is_the_paper() -> None:
    tuning = Tuning()
    assert (tuning.batch, tuning.epochs, tuning.learning_rate, tuning.weight_decay, tuning.clip) == (10, 20, 3e-5, 0.01, 1.0)
    assert (tuning.lora.rank, tuning.lora.alpha, tuning.lora.dropout, tuning.lora.dora) == (16, 128, 0.1, True)
    assert tuning.contrast.scale == pytest.approx(1 / 0.03) and not tuning.contrast.learn_scale
    assert tuning.bf16 and not (tuning.symmetric or tuning.nested or tuning.hard_every or tuning.augment)


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    tuning = Tuning(learning_rate=1.0, warm_up=0.09)
    rates = [tuning.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    falls = [before - after for before, after in pairwise(rates[9:])]
    assert falls == pytest.approx([1 / 91] * 90) and rates[-1] == pytest.approx(1 / 91)
    assert [replace(tuning, warm_up=0.0).rate(step, 4) for step in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    for warm_up, steps in ((0.01, 1), (0.99, 1), (0.99, 2), (0.5, 3)):
        rates = [replace(tuning, warm_up=warm_up).rate(step, steps) for step in range(steps)]
        assert max(rates) == 1.0 and min(rates) > 0


def test_a_temperature_is_clamped_only_below_the_one_that_was_asked_for() -> None:
    assert Tuning().contrast.largest_scale == 100
    assert Tuning(temperature=0.002).contrast.largest_scale == pytest.approx(500)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch": 1}, "batch of at least 2"),
        ({"hard_negatives": 0}, "at least 1 hard negative"),
        ({"micro_batch": -1}, "micro_batch is -1; give at least 0"),
        ({"hard_every": -2}, "hard_every is -2"),
        ({"temperature": 0.0}, "temperature is 0.0; give more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": float("inf")}, "epochs is inf"),
        ({"steps": 0}, "0 steps teach nothing"),
        ({"warm_up": 1.0}, "share of the steps, not 1.0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"nested": (8, 0)}, "cannot be cut to"),
        ({"nested": (8, 8)}, "name each of them once"),
    ],
)
def test_no_training_is_refused_in_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Tuning(**given)
    assert "\n" not in str(caught.value)


def test_encodings_and_validations_that_cannot_be() -> None:
    for encoding in ({"text_tokens": 0}, {"text_tokens": 1, "end": True}, {"side": -1}, {"dimensions": -1}):
        with pytest.raises(UserError, match="encode nothing"):
            Encoding(**encoding)  # type: ignore[arg-type]
    for validation in ({"share": 1.0}, {"share": -0.1}, {"pairs": -1}, {"every": -1}, {"batch": 0}):
        with pytest.raises(UserError, match="validation needs"):
            Validation(**validation)  # type: ignore[arg-type]
