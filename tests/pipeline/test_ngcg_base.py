"""A base by every kind of name, and what workers and the card call it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding, Tuning
from geobatch.methods.ngcg.small import Small
from geobatch.pipeline import ngcg_base
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.pipeline.ngcg_base import dry, resolve
from geobatch.pipeline.ngcg_train import NgcgTrain
from geobatch.store import Store
from tests.conftest import S3Server
from tests.engine import tiny
from tests.river.conftest import upload

PLAIN = Tuning(bf16=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.internvl(tmp_path_factory.mktemp("base") / "model")


def test_a_folder_is_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    found = resolve(Store(None), NgcgTrain(base="./model", tuning=PLAIN))
    assert (found.named, found.folder, found.opened) == (str(folder),) * 3
    assert found.side == 56 and found.identity == fingerprint_of_base(str(folder))
    assert "parameters are trained" in found.counts and "q_proj × 4" in found.counts
    other = resolve(Store(None), NgcgTrain(base=str(folder), tuning=replace(PLAIN, whole=True), encoding=Encoding(side=112)))
    assert other.side == 112 and "_proj" not in other.counts


def test_a_bucket_is_copied_and_keeps_its_name(
    folder: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uri = f"s3://{s3.bucket()}/base"
    upload(folder, uri, s3.config())
    found = resolve(Store(s3.config()), NgcgTrain(base=uri, tuning=PLAIN, store=s3.config()))
    assert found.named == uri and found.folder == found.opened != str(folder)
    assert found.identity == fingerprint_of_base(str(folder))


def test_a_hub_name_stays_one_for_every_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngcg_base, "base_of", lambda store, name: str(folder))  # as if fetched
    found = resolve(Store(None), NgcgTrain(preset="internvl35_1b", tuning=PLAIN))
    assert found.named == found.opened == "OpenGVLab/InternVL3_5-1B-HF" and found.folder == str(folder)


def test_the_tiny_one_is_written_later() -> None:
    whole = replace(PLAIN, whole=True)
    found = resolve(Store(None), NgcgTrain(base="tiny", tuning=whole, small=Small(side=64)))
    assert (found.named, found.folder, found.opened, found.side) == ("tiny", "", "", 64)
    other = resolve(Store(None), NgcgTrain(base="tiny", tuning=whole))
    assert other.identity != found.identity and other.counts.startswith("up to ")


def test_a_dry_run_reads_a_folder_too(folder: Path) -> None:
    said = dry(Store(None), NgcgTrain(base=str(folder), tuning=PLAIN), 1, 4.0)
    assert "tiles of 56 pixels" in said and "\nfits: " in said


def test_a_dry_run_reads_a_bucket_too(folder: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    uri = f"s3://{s3.bucket()}/base"
    upload(folder, uri, s3.config())
    assert "tiles of 56 pixels" in dry(Store(s3.config()), NgcgTrain(base=uri, tuning=PLAIN), 1, 4.0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"preset": "internvl35_1b", "encoding": Encoding(side=100)}, "100 pixels is no whole number of image tokens"),
        ({"preset": "smolvlm_256m", "encoding": Encoding(dimensions=577)}, "gives 576 numbers"),
        ({"preset": "smolvlm_256m", "tuning": replace(PLAIN, nested=(576,))}, "cannot be cut to"),
        ({"base": "tiny", "tuning": PLAIN}, "add --tuning.whole"),
    ],
)
def test_a_dry_run_refuses_what_the_training_would(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        dry(Store(None), NgcgTrain(**settings), 1, 80.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"encoding": Encoding(text_tokens=1025)},
        {"small": Small(side=512, patch=8, joined=2)},  # 1,024 tokens of picture and 3 around them
    ],
)
def test_the_tiny_one_has_places_for_so_many_tokens(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"the base 'tiny' takes 1,024 tokens, not .* lower --encoding.text-tokens"):
        resolve(Store(None), NgcgTrain(base="tiny", tuning=replace(PLAIN, whole=True), **settings))
    fits = NgcgTrain(base="tiny", tuning=replace(PLAIN, whole=True), encoding=Encoding(text_tokens=1024))
    assert resolve(Store(None), fits).side == 48
