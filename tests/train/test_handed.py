"""A trained model takes the place of another, and while it does so what lies beside it is as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ray.train import Checkpoint

from geobatch.pipeline.folder import fingerprint_of
from geobatch.train import handed


def test_a_part_of_a_model_is_exchanged_and_nothing_else_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    for folder, weights in ((model / "reward", "old"), (model / "geotoken", "w"), (tmp_path / "checkpoint/model", "new")):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(weights)
    seen, copytree = list[str](), shutil.copytree

    def copied(source: Path, target: Path) -> Any:
        copytree(source, target)
        seen.append(fingerprint_of(model))

    before = fingerprint_of(model)
    monkeypatch.setattr(handed.shutil, "copytree", copied)
    handed.take_out(Checkpoint(tmp_path / "checkpoint"), model / "reward")
    assert seen == [before] and (model / "reward/weights").read_text() == "new"
    assert sorted(path.name for path in model.iterdir()) == ["geotoken", "reward"]
