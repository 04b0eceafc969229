"""Model folders are found where their cards say, and known by what they hold."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from geobatch.actors import Hands
from geobatch.errors import UserError
from geobatch.nodes import brought
from geobatch.pipeline.folder import (
    beside,
    card,
    fingerprint,
    fingerprint_of,
    fingerprint_of_base,
    fingerprint_of_weights,
    has_card,
    local_folder,
    sent,
)
from geobatch.store import Store
from geobatch.store.fetch import Remote
from geobatch.store.travel import Mounted, outlined
from geobatch.train.loop import Loop
from tests.conftest import S3Server


def test_a_gallery_is_found_beside_its_model(tmp_path: Path) -> None:
    assert beside(str(tmp_path / "model"), "../gallery") == str((tmp_path / "gallery").resolve())
    assert beside("s3://bucket/models/a/", "../gallery") == "s3://bucket/models/gallery"
    assert beside("s3://bucket/a", "s3://other/gallery") == "s3://other/gallery"
    assert beside("model", "/absolute") == "/absolute"


def test_a_fingerprint_is_of_names_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep/weights").write_bytes(b"w")
        (tmp_path / name / "card").write_text(name)
    assert fingerprint_of(tmp_path / "one", leave=("card",)) == fingerprint_of(tmp_path / "two", leave=("card",))
    assert fingerprint_of(tmp_path / "one") != fingerprint_of(tmp_path / "two")
    (tmp_path / "two/deep/weights").rename(tmp_path / "two/deep/weight")
    assert fingerprint_of(tmp_path / "one", leave=("card",)) != fingerprint_of(tmp_path / "two", leave=("card",))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_what_is_being_trained_in_a_model_is_no_part_of_it_yet(tmp_path: Path) -> None:
    (tmp_path / "geotoken").mkdir()
    (tmp_path / "geotoken/weights").write_bytes(b"w")
    (tmp_path / ".gitattributes").write_bytes(b"a")
    before = fingerprint_of(tmp_path)
    checkpoints = Path(Loop().kept(tmp_path / "reward")) / "reward-1"
    checkpoints.mkdir(parents=True)
    (checkpoints / "state.pt").write_bytes(b"s")
    assert checkpoints.is_relative_to(tmp_path) and fingerprint_of(tmp_path) == before
    (tmp_path / ".gitattributes").unlink()
    assert fingerprint_of(tmp_path) != before  # as it always was


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        local_folder(Store(), str(tmp_path / "none"), "model")
    with pytest.raises(UserError, match="no geobatch model"):
        card(tmp_path)


# Folders of a bucket


@pytest.fixture
def remote(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str, Path]:
    """A base model of three files, one above 16 MiB, in a bucket and here."""
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("geobatch.store.fetch.LARGE", 20 << 20)
    store, uri, here = Store(s3.config()), f"s3://{s3.bucket()}/base", tmp_path / "base"
    (here / "deep").mkdir(parents=True)
    (here / "config.json").write_text("{}")
    (here / "README.md").write_text("words")
    (here / "deep/weights").write_bytes(os.urandom(1 << 20) * 21)
    for path in (path for path in here.rglob("*") if path.is_file()):
        store.put(f"{uri}/{path.relative_to(here).as_posix()}", path.read_bytes())
    return store, uri, here


def test_an_outline_has_the_fingerprint_of_the_whole(remote: tuple[Store, str, Path]) -> None:
    store, uri, here = remote
    outline = local_folder(store, uri, "base model", outline=True)
    assert not (outline / "deep/weights").exists() and (outline / "config.json").exists()
    assert fingerprint_of_base(str(outline)) == fingerprint_of_base(str(here))
    whole = local_folder(store, uri, "base model")
    assert (whole / "deep/weights").stat().st_size == 21 << 20
    assert fingerprint_of_base(str(whole)) == fingerprint_of_base(str(here)) and fingerprint_of(whole) == fingerprint_of(here)
    with (here / "deep/weights").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x00" if here.joinpath("deep/weights").read_bytes()[-1:] != b"\x00" else b"\x01")
    assert fingerprint_of_base(str(outline)) != fingerprint_of_base(str(here))


def test_a_card_in_a_bucket_is_asked_for_alone(remote: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, uri, here = remote
    assert not has_card(store, uri) and not has_card(store, str(here)) and not has_card(store, "google/gemma-3-27b-it")
    store.put(f"{uri}/geobatch.json", b"{}")
    assert has_card(store, uri) and not (tmp_path / "cache/folders").exists()


@dataclass(frozen=True)
class Settings:
    """What a stage's settings look like."""

    model: str
    counts: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        assert isinstance(self.model, str)


class Opens:
    """A stage that is never made here."""


def test_paths_travel_as_what_they_stand_for(remote: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, uri, here = remote
    outline = local_folder(store, uri, "base model", outline=True)
    make = {"settings": Settings(model=str(outline)), "parts": [str(outline / "deep"), "word", 3], "mine": str(here)}
    (alone,) = sent([Hands(stage=Opens, make=make)])
    (joined,) = sent([Hands(stage=Opens, make=make)], address="192.0.2.1:6379")
    known = Remote.of(store, uri)
    assert known is not None and alone.make["settings"].model == known and alone.make["settings"].counts == (1, 2)
    assert alone.make["parts"] == [replace(known, below="deep"), "word", 3] and alone.make["mine"] == str(here)
    assert joined.make["mine"] == Mounted(str(here)) and joined.make["parts"] == alone.make["parts"]
    there = brought(pickle.loads(pickle.dumps(joined.make)))
    assert Path(there["parts"][0], "weights").stat().st_size == 21 << 20 and there["mine"] == str(here)
    assert Path(there["settings"].model).name == known.digest
    assert outlined(joined.make)["settings"].model == there["settings"].model  # the whole is here by now
    here.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"does not see .* put it into a bucket"):
        brought(joined.make)


def test_what_git_and_hubs_write_anew_decides_no_vector(tmp_path: Path) -> None:
    """Else a gallery would be refused for a `git pull` that changed its encoder's README."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint_of_weights(tmp_path)
    (tmp_path / ".git").mkdir()
    for name in (".git/index", "README.md", "SHA256SUMS"):
        (tmp_path / name).write_text("new")
    assert fingerprint_of_weights(tmp_path) == before != fingerprint_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert fingerprint_of_weights(tmp_path) != before
