"""Which folders are encoders, what serves them, and by what a gallery knows its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from geobatch.engine import gallery as galleries
from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.pipeline.folder import fingerprint_of_base
from geobatch.pipeline.ngcg_model import open_model
from geobatch.store import Store
from tests.engine import tiny_towers
from tests.methods.ngcg import tiles


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_towers.smolvlm(tmp_path_factory.mktemp("ngcg") / "base")


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> Path:
    """A folder with a card and an adapter, whose bytes nobody reads here, beside its base."""
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "model/adapter").mkdir(parents=True)
    (tmp_path / "model/adapter/adapter_model.safetensors").write_bytes(b"weights")
    _card(tmp_path / "model", base="../base", adapter="adapter", merged=None)
    return tmp_path / "model"


def _card(model: Path, **changes: Any) -> None:
    path = model / "geobatch.json"
    known = json.loads(path.read_text()) if path.is_file() else {
        "method": "ngcg",
        "base_fingerprint": fingerprint_of_base(str(model.parent / "base")),
        "encoding": asdict(Encoding(dimensions=32)),
        "temperature": 0.03,
    }  # fmt: skip
    path.write_text(json.dumps({**known, **changes}))


def test_a_published_model_is_its_own_base_with_the_default_encoding(base: Path) -> None:
    found = open_model(Store(None), str(base))
    assert (found.model.base, found.model.adapter, found.model.merged) == (str(base), None, None)
    assert found.model.encoding == Encoding() and found.card == {} and (found.side, found.dimension) == (64, 64)


def test_an_adapter_is_served_on_its_base(trained: Path) -> None:
    found = open_model(Store(None), str(trained))
    assert found.model.base == str(trained.parent / "base") and found.model.adapter == str(trained / "adapter")
    assert found.model.encoding.dimensions == found.dimension == 32 and found.card["temperature"] == 0.03


def test_merged_weights_are_served_without_the_base_and_are_the_same_encoder(trained: Path) -> None:
    before = open_model(Store(None), str(trained)).fingerprint
    (trained.parent / "base").rename(trained / "merged")
    _card(trained, merged="merged")
    found = open_model(Store(None), str(trained))
    assert found.fingerprint == before
    assert found.model.weights == str(trained / "merged") and found.model.adapter is None and found.side == 64


def test_weights_and_encoding_decide_and_where_the_folder_lies_does_not(trained: Path, tmp_path: Path) -> None:
    before = open_model(Store(None), str(trained)).fingerprint
    (trained / "adapter/README.md").write_text("what it learnt")
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-elsewhere")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere/model"
    assert open_model(Store(None), str(trained)).fingerprint == open_model(Store(None), str(elsewhere)).fingerprint == before
    _card(trained, encoding=asdict(Encoding(pooling="mean")))
    (elsewhere / "adapter/adapter_model.safetensors").write_bytes(b"others")
    changed = {open_model(Store(None), str(each)).fingerprint for each in (trained, elsewhere)}
    assert len(changed | {before}) == 3


def test_whole_weights_are_their_own_fingerprint(trained: Path) -> None:
    (trained.parent / "base").rename(trained / "merged")
    _card(trained, adapter=None, merged="merged", base_fingerprint="of the base it began with")
    before = open_model(Store(None), str(trained))
    assert before.model.weights == str(trained / "merged")
    (trained / "merged/config.json").write_text((trained / "merged/config.json").read_text() + "\n")
    assert open_model(Store(None), str(trained)).fingerprint != before.fingerprint


def test_a_gallery_knows_its_own_encoder(trained: Path, base: Path, tmp_path: Path) -> None:
    own, other = open_model(Store(None), str(trained)), open_model(Store(None), str(base))
    vectors, nowhere = tiles.unit(4, 0, size=32), tiles.scattered(4, 0)
    galleries.build(tmp_path / "gallery", [tiles.table(vectors, *nowhere)])
    own.suits(tmp_path / "gallery")  # made by hand: its record names nobody
    with pytest.raises(UserError, match="its vectors have 32 numbers, this one's 64"):
        other.suits(tmp_path / "gallery")
    path = tmp_path / "gallery/gallery.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "encoder": own.fingerprint}))
    own.suits(tmp_path / "gallery")
    path.write_text(json.dumps({**record, "source": {"parts": {"a.parquet": 0}}}))  # built by a version that named none
    with pytest.raises(UserError, match=r"a gallery of another encoder .*other weights"):
        own.suits(tmp_path / "gallery")
    path.write_text(json.dumps({**record, "encoder": "another"}))
    with pytest.raises(UserError, match=r"a gallery of another encoder .*other weights"):
        own.suits(tmp_path / "gallery")
    path.write_text(json.dumps({**record, "encoder": own.fingerprint, "source": {"parts": {}, "holds": "texts"}}))
    with pytest.raises(UserError, match="holds texts, and places are found among tiles; give one that"):
        own.suits(tmp_path / "gallery")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "geotoken"}, "is a model of geotoken, not of ngcg"),
        ({"adapter": None}, "names neither an adapter nor merged weights"),
        ({"encoding": {"later": 1}}, "encodes by later, unknown to this version"),
        ({"base_fingerprint": "another"}, "is not the base that .* was trained on"),
        ({"base": "../nowhere"}, "there is no base model folder"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], says: str, trained: Path) -> None:
    _card(trained, **changes)
    with pytest.raises(UserError, match=says):
        open_model(Store(None), str(trained))


def test_what_is_no_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no config\.json\) and no geobatch\.json"):
        open_model(Store(None), str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub did not give it"):
        open_model(Store(None), "nobody/nothing-here")
