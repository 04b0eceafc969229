"""Model folders are found where their cards say, and known by what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.pipeline.folder import beside, card, fingerprint, fingerprint_of, local_folder
from geobatch.store import Store


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


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        local_folder(Store(), str(tmp_path / "none"), "model")
    with pytest.raises(UserError, match="no geobatch model"):
        card(tmp_path)
