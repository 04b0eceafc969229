"""What the training job decides before it opens anything: its page's commands, its name, and what it may replace."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Tuning, Validation
from geobatch.pipeline import ngcg_train as job
from geobatch.pipeline.ngcg_base import dry
from geobatch.pipeline.ngcg_card import tell
from geobatch.pipeline.ngcg_train import NgcgTrain
from geobatch.store import Store
from geobatch.train.lora import LoRA
from jobs import ngcg_train as page


def commands() -> list[list[str]]:
    lines = (page.__doc__ or "").replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.strip().startswith("python jobs/")]


def test_the_commands_of_its_page_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = []
    for words in commands():
        config = tyro.cli(NgcgTrain, args=words)
        if config.dry_run:
            assert "\nfits: " in dry(Store(None), config, config.loop.workers, config.gpu_gib)
        else:
            job._checked(config)
            tuned.append(config)
    published, tiny = tuned
    assert published.loop.gpu and published.tuning.batch // published.loop.workers == Tuning().batch
    # Of random weights, 3e-5 and batches of 10 make next to nothing; bfloat16 on a CPU loses what steps add.
    assert tiny.base == "tiny" and tiny.tuning.whole and not tiny.tuning.bf16
    assert tiny.tuning.learning_rate >= 5e-4 and tiny.tuning.batch >= 64


def test_what_only_memory_asks_for_is_in_no_name() -> None:
    plain = NgcgTrain()
    same = [
        replace(plain, tuning=Tuning(micro_batch=2)),
        replace(plain, validation=Validation(batch=4)),
    ]
    assert all(job._settings(each) == job._settings(plain) for each in same)
    others = [
        replace(plain, tuning=Tuning(lora=LoRA(rank=2))),
        replace(plain, tuning=Tuning(batch=12)),
        replace(plain, validation=Validation(share=0.1)),
    ]
    assert all(job._settings(each) != job._settings(plain) for each in others)
    whole = [job._settings(replace(plain, tuning=Tuning(whole=True, lora=LoRA(rank=rank)))) for rank in (2, 4)]
    assert whole[0] == whole[1] != job._settings(plain)


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        ({"geobatch.json": {"method": "ngcg"}}, True),
        ({"geobatch.json": {"method": "geolocsft"}, "history.json": [], "adapter/adapter_config.json": {}}, False),
        ({"history.json": [], "adapter/adapter_config.json": {}}, True),
        ({"history.json": [], "merged/config.json": {}}, True),
        ({"history.json": ["of a browser"]}, False),
    ],
)
def test_only_its_own_models_are_replaced(files: dict[str, object], ours: bool, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    config = NgcgTrain(archive="a", annotations="b", output=str(tmp_path))
    if ours:
        job._checked(config)
        return
    with pytest.raises(UserError, match="holds something else than a model of this job"):
        job._checked(config)


def test_a_training_that_collapsed_is_said_to_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"steps": 400, "loss": 4.85, "saved_step": 400}
    card = {"training": figures, "validation": {}, "config": {"tuning": {"batch": 128}}}
    for over, warned in ((0.4, False), (1.0, True)):
        tell(tmp_path, {**card, "training": {**figures, "loss_over_chance": over}})
        assert ("warning: the loss ended at 100 % of ln 128" in capsys.readouterr().out) is warned
    tell(tmp_path, card)  # of an older version
