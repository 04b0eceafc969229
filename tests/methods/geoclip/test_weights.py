"""The published files: found in every layout, refused in words when missing or of other content."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from geobatch.engine import gps
from geobatch.errors import UserError
from geobatch.methods.geoclip import weights
from geobatch.methods.geoclip.weights import find, image_head, logit_scale
from tests.methods.geoclip import miniature


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return miniature.weights(tmp_path / "flat")


def test_flat_or_laid_out_as_the_package(flat: Path, tmp_path: Path) -> None:
    laid = tmp_path / "geoclip"
    for below, pattern in (("model/weights", "*.pth"), ("model/gps_gallery", "*.csv")):
        (laid / below).mkdir(parents=True)
        for path in flat.glob(pattern):
            shutil.copy(path, laid / below)
    one, other = find(flat), find(laid)
    assert one.location.parent == flat and other.places.parent == laid / "model" / "gps_gallery"
    assert one.fingerprint == other.fingerprint
    miniature.weights(flat, seed=1)
    assert find(flat).fingerprint != other.fingerprint


def test_without_a_folder_the_installed_package_is_meant(monkeypatch: pytest.MonkeyPatch, flat: Path) -> None:
    monkeypatch.setattr(weights, "geoclip_package", lambda: flat)
    assert find() == find(flat)
    monkeypatch.setattr(weights, "geoclip_package", lambda: None)
    with pytest.raises(UserError, match="pip install geoclip"):
        find()


def test_the_package_is_found_without_being_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package that raises when it is imported is found all the same."""
    (tmp_path / "geoclip").mkdir()
    (tmp_path / "geoclip" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "geoclip", raising=False)
    assert gps.geoclip_package() == tmp_path / "geoclip"


def test_what_is_missing_is_named(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        find(tmp_path / "nowhere")
    (flat / "logit_scale_weights.pth").unlink()
    (flat / "coordinates_100K.csv").unlink()
    with pytest.raises(UserError, match=r"lacks logit_scale_weights.pth, coordinates_100K.csv;"):
        find(flat)


def test_the_head_is_two_layers_of_the_files_sizes(flat: Path) -> None:
    head = image_head(find(flat).head)
    assert [tuple(value.shape) for value in head.state_dict().values()] == [
        (miniature.HIDDEN, miniature.EMBEDDING),
        (miniature.HIDDEN,),
        (miniature.SIZE, miniature.HIDDEN),
        (miniature.SIZE,),
    ]
    assert logit_scale(find(flat).scale) == pytest.approx(math.exp(2.5))


@pytest.mark.parametrize("said", [{"0.weight": torch.ones(3, 2)}, torch.ones(3), {"0.weight": 1, "2.weight": 2}, [1]])
def test_another_file_is_no_head(said: object, tmp_path: Path) -> None:
    torch.save(said, tmp_path / "head.pth")
    with pytest.raises(UserError, match="holds no GeoCLIP image head"):
        image_head(tmp_path / "head.pth")


@pytest.mark.parametrize("said", [{"a": 1}, torch.ones(2), torch.tensor(math.nan)])
def test_another_file_is_no_scale(said: object, tmp_path: Path) -> None:
    torch.save(said, tmp_path / "scale.pth")
    with pytest.raises(UserError, match="holds no logit scale"):
        logit_scale(tmp_path / "scale.pth")


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("words", b"not a checkpoint"), ("zip", b"PK\x03\x04" + bytes(90))):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match="does not load as weights"):
            logit_scale(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(UserError, match="does not load as weights"):
        logit_scale(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
