"""What embeds a gallery, stage by stage in this process: tiles and texts by a tiny model, photographs by one of images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from geobatch.engine.gallery import Gallery, read_record
from geobatch.errors import UserError
from geobatch.geo.tiles import centres, side_km
from geobatch.image import DecodeConfig
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.serve import Model, Serving
from geobatch.pipeline.build_gallery import BuildGallery, indexed
from geobatch.pipeline.embedding import Embedding, embedding
from geobatch.pipeline.folder import fingerprint, fingerprint_of
from geobatch.pipeline.ngcg_model import open_model
from geobatch.schema import GALLERY, IMAGE, empty_columns
from geobatch.sink import Snapshot
from geobatch.sink.rows import Stamp, as_written
from geobatch.store import Store
from tests.engine import tiny_towers
from tests.river.conftest import make_encoder

TILES = [f"s3://b/t.tar#12/{2000 + at}/{1500 - at}.png" for at in range(5)]
SAYS = ["a river runs east", "desert to the north", "   ", "mountains and forest"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_towers.smolvlm(tmp_path_factory.mktemp("embedding") / "model")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding") / "images"
    make_encoder(folder, 16)
    return folder


def asked(encoder: Path, **settings: Any) -> BuildGallery:
    return BuildGallery(archive="", output="", encoder=str(encoder), workers=1, **settings)


def opened(encoder: Path, **settings: Any) -> Embedding:
    return embedding(asked(encoder, **settings), Store(), 1)


def stages(by: Embedding) -> list[str]:
    return [hands.stage.__name__ for hands in by.river]


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 90, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def images(names: list[str], data: list[bytes]) -> pa.Table:
    columns = empty_columns(list(IMAGE), len(names))
    return pa.table({**columns, "image_id": names, "uri": names, "bytes": pa.array(data, pa.large_binary())}, schema=IMAGE)


def through(by: Embedding, table: pa.Table) -> pa.Table:
    """The river without Ray, up to the bytes that are written."""
    for hands in by.river:
        stage = hands()
        table = stage(table)
        if hasattr(stage, "close"):
            stage.close()
    return as_written(table, Stamp(run="1", method="gallery", model="m"))


def gallery_of(folder: Path, config: BuildGallery, rows: pa.Table) -> Gallery:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "part.parquet")
    record = {"parts": [{"path": "part.parquet", "rows": len(rows)}], "empty_sources": []}
    return indexed(folder, Snapshot(output=str(folder), version=1, record=record), Store(), config)


def test_tiles_by_ngcg_know_place_size_and_encoder(model: Path, tmp_path: Path) -> None:
    by = opened(model)
    assert stages(by) == ["Survey", "Decode", "Embed"] and by.archive.shard_rows == 64 and not by.archive.texts
    data = [png(at) for at in range(4)] + [b"no picture"]
    rows = through(by, images([*TILES, "s3://b/plain.png"], [*data, png(9)]))
    assert rows.schema == GALLERY
    assert rows["reason"].to_pylist() == [None] * 4 + ["not_an_image", "no_place"]
    gallery = gallery_of(tmp_path / "g", asked(model), rows)
    assert len(gallery) == 4 and gallery.placed and gallery.views == {"image": 64}
    assert read_record(tmp_path / "g")["encoder"] == open_model(Store(), str(model)).fingerprint == by.encoder
    latitude, longitude = centres(12, 2000 + np.arange(4), 1500 - np.arange(4))
    assert np.allclose(gallery.latitude, latitude) and np.allclose(gallery.longitude, longitude)
    sides = gallery.footprints(np.arange(4))
    assert sides is not None and np.allclose(sides, side_km(12, 1500 - np.arange(4)))
    pictures = [
        np.asarray(Image.open(io.BytesIO(each)).convert("RGB").resize((72, 64), Image.Resampling.BICUBIC)) for each in data[:4]
    ]
    cosines = (Encoder.load(str(model)).encode_pictures(pictures) * gallery.vectors(np.arange(4))).sum(axis=1)
    assert (cosines > 0.99).all()  # the decoder resizes by another filter


def test_texts_by_ngcg_without_places(model: Path, tmp_path: Path) -> None:
    config = asked(model, texts="auto", places="none", serving=Serving(dtype="float32"))
    by = embedding(config, Store(), 1)
    assert stages(by) == ["Survey", "Say", "Embed"] and by.archive.texts == "auto"
    names = [f"s3://b/t.csv#{at}" for at in range(4)]
    rows = through(by, images(names, [text.encode() for text in SAYS]))
    assert rows["reason"].to_pylist() == [None, None, "empty", None]
    gallery = gallery_of(tmp_path / "g", config, rows)
    assert not gallery.placed and np.isnan(gallery.latitude).all()
    assert gallery.ids(np.arange(3)).to_pylist() == [names[0], names[1], names[3]]
    expected = Encoder.load(str(model)).encode_texts([SAYS[0], SAYS[1], SAYS[3]])
    assert np.allclose(gallery.vectors(np.arange(3)), expected, atol=1e-5)
    assert (gallery.search(expected, 1)[1][:, 0] == np.arange(3)).all()


def test_texts_with_places_of_names_and_of_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,lat,lon,size_m\nb,1,2,500\n")
    by = opened(model, texts="caption", truth=str(tmp_path / "t.csv"))
    rows = through(by, images(["s3://b/t.json#40.5,-7.25_2019-05_x_z20.png@2", "s3://b/t.json#b"], [b"north", b"south"]))
    assert rows.select(["latitude", "longitude"]).to_pylist() == [
        {"latitude": 40.5, "longitude": -7.25},
        {"latitude": 1.0, "longitude": 2.0},
    ]
    assert rows["footprint_km"].to_pylist() == [None, 0.5]


def _sixteen(model: Path) -> Model:
    return Model(base=str(model), encoding=Encoding(dimensions=16))


def test_an_encoder_of_images_is_as_before(encoder: Path, model: Path, tmp_path: Path) -> None:
    """The order of its river and its fingerprint, so that tables of earlier versions are taken up."""
    (tmp_path / "t.csv").write_text("id,lat,lon\nz,1,2\n")
    for settings in ({}, {"truth": str(tmp_path / "t.csv")}):
        by = opened(encoder, **settings)
        assert stages(by) == ["Decode", "Survey", "Embed"] and by.archive.shard_rows == 256
        assert by.encoder == fingerprint_of(encoder)
        assert by.decides == {
            "encoder": fingerprint_of(encoder),
            "truth": settings.get("truth"),
            "decode": asked(encoder).decode.__dict__,
            "batch": 256,
        }
    same = opened(encoder, truth=str(tmp_path / "t.csv"), places="truth")
    assert fingerprint(same.decides) == fingerprint(by.decides)
    rows = through(by, images(["z", "17/1/2.png"], [png(1), png(2)]))
    assert rows["stage"].to_pylist() == [None, "survey"]  # a name does not place a photograph
    tiles = opened(encoder, places="xyz")
    assert stages(tiles) == ["Survey", "Decode", "Embed"] and tiles.decides["places"] == "xyz"
    rows = through(tiles, images(["z", "17/1/2.png"], [png(1), png(2)]))
    assert rows["stage"].to_pylist() == ["survey", None]
    gallery = gallery_of(tmp_path / "g", asked(encoder, places="xyz"), rows)
    assert len(gallery) == 1 and gallery.views == {"image": 16} and gallery.record["encoder"] == fingerprint_of(encoder)
    with pytest.raises(UserError, match="a gallery of another encoder"):
        replace(open_model(Store(), str(model)), model=_sixteen(model)).suits(tmp_path / "g")
    assert gallery.footprints(np.array([0])) is not None


def test_what_decides_a_row_of_ngcg(model: Path) -> None:
    plain = opened(model)
    assert plain.decides["decode"]["side"] == 64  # the model's own
    assert opened(model, decode=DecodeConfig(side=100)).decides["decode"]["side"] == 100
    others = [
        opened(model, places="names"),
        opened(model, footprint_km=2.0),
        opened(model, texts="auto"),
        opened(model, serving=Serving(quantise="int8")),
        opened(model, decode=DecodeConfig(side=100)),
    ]
    assert len({fingerprint(each.decides) for each in [plain, *others]}) == 6
    same = opened(model, serving=Serving(batch=3, gpu_memory=0.5), batch=9)
    assert fingerprint(same.decides) == fingerprint(plain.decides)


def test_gpus_reach_the_serving(model: Path) -> None:
    for settings in ({"gpus": 0.5}, {"serving": Serving(gpus=0.5)}):
        last = opened(model, **settings).river[-1]
        assert last.gpus == 0.5 and last.make["serving"].gpus == 0.5
    assert opened(model).river[-1].gpus == 0


def test_engines_are_few_and_full(model: Path, vllm_there: None) -> None:
    """As in the main job: an engine on CPUs takes all of them, and slices of 64 tiles do not fill one."""
    alone, shared = (
        embedding(asked(model, serving=Serving(backend="vllm", gpus=gpus)), Store(), 16).river[-1] for gpus in (0.0, 1.0)
    )
    assert (alone.workers, alone.at_once) == (1, 5) and (shared.workers, shared.at_once) == (16, 5)
    plain = embedding(asked(model), Store(), 16).river[-1]
    assert (plain.workers, plain.at_once) == (16, 1)
    described = embedding(asked(model, texts="auto", serving=Serving(backend="vllm", in_flight=900)), Store(), 16).river[-1]
    assert described.at_once == 3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"texts": "auto"}, "--texts auto needs a model of ngcg_train.py"),
        ({"places": "none"}, "--places none needs a model of ngcg_train.py"),
        ({"places": "names", "truth": "t.csv"}, "--places names does not read --truth t.csv"),
        ({"footprint_km": -1.0}, "--footprint-km -1.0 is no size"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(encoder: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        opened(encoder, **settings)
    assert "\n" not in str(raised.value)


def test_texts_have_no_tags(model: Path) -> None:
    for places in ("exif", "geotiff"):
        with pytest.raises(UserError, match=f"texts have no {places} places"):
            opened(model, texts="auto", places=places)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no encoder folder"):
        opened(tmp_path / "none")


def test_an_older_table_grows_with_sizes(encoder: Path, tmp_path: Path) -> None:
    """Its first part has no footprint_km; what comes later has, and both are one gallery."""
    config = asked(encoder, places="xyz")
    by = embedding(config, Store(), 1)
    rows = through(by, images(["b/17/1/2.png", "b/17/1/3.png"], [png(1), png(2)]))
    folder = tmp_path / "g"
    (folder / "places").mkdir(parents=True)
    pq.write_table(rows[:1].drop_columns(["footprint_km"]), folder / "places/0.parquet")
    pq.write_table(rows[1:], folder / "places/1.parquet")
    parts = [{"path": f"places/{number}.parquet", "rows": 1} for number in range(2)]
    table = Snapshot(output=str(folder), version=1, record={"parts": parts, "empty_sources": []})
    first = indexed(folder, replace(table, record={**table.record, "parts": parts[:1]}), Store(), config, by)
    assert first.footprints(np.array([0])) is None
    grown = indexed(folder, table, Store(), config, by)
    sides = grown.footprints(np.arange(2))
    assert len(grown.record["segments"]) == 2 and sides is not None and np.isnan(sides[0]) and sides[1] > 0
    whole = indexed(folder, table, Store(), replace(config, rebuild=True), by)
    assert len(whole.record["segments"]) == 1 and np.array_equal(whole.footprints(np.arange(2)), sides, True)
