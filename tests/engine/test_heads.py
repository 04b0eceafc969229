"""Heads: what they compute, and that their file gives them back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from geobatch.engine import heads
from geobatch.engine.heads import Head, HeadConfig


def test_a_hidden_layer_and_one_length() -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig(size=3, hidden=5, unit=True), 4)
    seen = torch.randn(2, 4)
    assert head.first is not None
    at_length = seen / seen.norm(dim=1, keepdim=True) * math.sqrt(4)
    hidden = (at_length @ head.first.weight.T + head.first.bias).clamp(min=0)
    assert torch.allclose(head(seen), hidden @ head.linear.weight.T + head.linear.bias, atol=1e-6)
    assert torch.allclose(head(seen), head(seen * 3), atol=1e-6)


@pytest.mark.parametrize(
    "configs",
    [
        {"image": HeadConfig(size=3, grid=2)},
        {"image": None, "location": HeadConfig(size=2, hidden=3, unit=True), "text": HeadConfig(size=4)},
    ],
)
def test_what_is_written_is_read(tmp_path: Path, configs: dict[str, HeadConfig | None]) -> None:
    made = {name: None if config is None else Head(config, 4) for name, config in configs.items()}
    heads.save(made, tmp_path)
    again = heads.read(tmp_path)
    assert list(again) == list(made)
    for name, head in made.items():
        other = again[name]
        assert (head is None) == (other is None)
        if head is not None and other is not None:
            assert other.config == head.config and other.channels == 4
            assert all(bool((a == b).all()) for a, b in zip(head.parameters(), other.parameters(), strict=True))


def test_no_head_is_no_file(tmp_path: Path) -> None:
    heads.save({"image": None}, tmp_path)
    assert not list(tmp_path.iterdir()) and heads.read(tmp_path) == {"image": None}
    heads.save({"image": Head(HeadConfig(size=3), 4)}, tmp_path)
    assert json.loads((tmp_path / heads.FILE).read_text()) == {"size": 3, "grid": 0, "channels": 4}
