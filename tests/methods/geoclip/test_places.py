"""Coordinates read and refused; features made once, kept by what decides them, and made again when that changes."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from geobatch.engine.gallery import collect
from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.errors import UserError
from geobatch.methods.geoclip import places
from geobatch.methods.geoclip.places import coordinates, place
from geobatch.methods.geoclip.weights import find
from geobatch.schema import FATE, GALLERY
from tests.methods.geoclip import miniature


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return miniature.weights(tmp_path / "weights")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many places were encoded, each time it happened."""
    happened: list[int] = []
    encode = LocationEncoder.encode

    def counted(self: LocationEncoder, *arguments: object) -> np.ndarray:
        features = encode(self, *arguments)  # type: ignore[arg-type]
        happened.append(len(features))
        return features

    monkeypatch.setattr(LocationEncoder, "encode", counted)
    return happened


def test_features_are_made_once_and_kept(files: Path, tmp_path: Path, made: list[int]) -> None:
    found = find(files)
    one = place(found.location, found.places, tmp_path / "cache")
    two = place(found.location, found.places, tmp_path / "cache")
    assert len(made) == 1 and len(one) == 300
    latitude, longitude = miniature.places(300).T
    assert np.array_equal(one.latitude, latitude) and np.array_equal(one.longitude, longitude)
    expected = LocationEncoder.geoclip(found.location).encode(latitude, longitude)
    assert np.array_equal(one.features, expected) and np.array_equal(two.features, expected)
    assert np.allclose(np.linalg.norm(one.points, axis=1), 1)


def test_other_weights_or_places_are_other_features(files: Path, tmp_path: Path, made: list[int]) -> None:
    found, cache = find(files), tmp_path / "cache"
    before = place(found.location, found.places, cache).features.copy()
    torch.save(miniature.location_encoder(seed=7), found.location)
    after = place(found.location, found.places, cache)
    assert len(made) == 2 and np.abs(after.features - before).max() > 0.1
    assert np.array_equal(after.features, LocationEncoder.geoclip(found.location).encode(after.latitude, after.longitude))
    found.places.write_text("LAT,LON\n1,2\n")
    assert len(place(found.location, found.places, cache).features) == 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00 broken", None])
def test_a_broken_file_is_made_again(files: Path, tmp_path: Path, made: list[int], content: bytes | None) -> None:
    found, cache = find(files), tmp_path / "cache"
    whole = place(found.location, found.places, cache).features.copy()
    (kept,) = (cache / "geoclip").glob("*.npy")
    scratch = tmp_path / "scratch"
    scratch.write_bytes(kept.read_bytes()[:500] if content is None else content)
    scratch.replace(kept)  # a new file: cutting the mapped one would be cutting what `whole` came from
    assert np.array_equal(place(found.location, found.places, cache).features, whole)
    assert len(made) == 2 and not list((cache / "geoclip").glob("*.part"))


def test_who_comes_second_waits_and_does_not_make(files: Path, tmp_path: Path, made: list[int]) -> None:
    """The lock is held by another: nothing is made until it goes, and nothing after if the features are there by then."""
    found, cache = find(files), tmp_path / "cache"
    place(found.location, found.places, cache)
    (kept,) = (cache / "geoclip").glob("*.npy")
    aside = kept.rename(tmp_path / "aside.npy")
    with kept.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=place, args=(found.location, found.places, cache))
        second.start()
        second.join(0.3)
        assert second.is_alive() and len(made) == 1
        aside.rename(kept)
    second.join(30)
    assert not second.is_alive() and len(made) == 1


def test_a_cache_that_cannot_be_written_is_said(files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set GEOBATCH_CACHE"):
        place(find(files).location, find(files).places, tmp_path / "file")


def test_the_cache_has_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path))
    assert places.home() == tmp_path
    monkeypatch.delenv("GEOBATCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.home() == tmp_path / ".cache" / "geobatch"


@pytest.mark.parametrize("header", ["LAT,LON", "latitude,longitude", "name,Lng,x,Lat"])
def test_headers_are_read_in_any_order_and_case(header: str, tmp_path: Path) -> None:
    names = header.split(",")
    values = {"lat": "10.5", "lon": "-3", "x": "7", "nam": "Ré"}
    row = ",".join(values["lon" if name.lower().startswith(("lon", "lng")) else name.lower()[:3]] for name in names)
    (tmp_path / "some.csv").write_text(f"{header}\r\n{row}\r\n", encoding="utf-8")
    latitude, longitude = coordinates(tmp_path / "some.csv")
    assert latitude.tolist() == [10.5] and longitude.tolist() == [-3.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("LAT,LON\n", "holds no place|no latitude column"),
        ("LAT,LON\n1,2\n91,0\n", "row 2 .* not on Earth"),
        ("LAT,LON\n1,2\n,0\n", "row 2 .* not on Earth"),
        ("LAT,LON\n1,2\n1,nan\n", "row 2 .* not on Earth"),
        ("LAT,LON\n1,2\n1,2,3\n", "is no CSV"),
        ("a,b\n1,2\n", "no latitude column of numbers"),
        ("LAT,LON\nnorth,2\n", "no latitude column of numbers"),
        ("", "is no CSV"),
    ],
)
def test_what_holds_no_places_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        coordinates(tmp_path / "some.csv")


def test_missing_files_are_said(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file of places"):
        coordinates(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="no location encoder"):
        place(tmp_path / "nowhere.pth", find(files).places, tmp_path / "cache")


def test_an_encoder_of_ours_and_the_places_of_a_gallery(tmp_path: Path, made: list[int]) -> None:
    """What Geo-Alignment saves and what the gallery builder writes, in place of the published files."""
    encoder = LocationEncoder(Gps(size=8, width=16, features=8, projection="space"))
    encoder.save(tmp_path / "gps")
    rows = [{"image_id": str(n), "uri": str(n), "etag": None, "size": 1, "latitude": lat, "longitude": lon,
             "vector": np.eye(4)[n % 4].tolist(), "status": "placed", **{field.name: None for field in FATE}}
            for n, (lat, lon) in enumerate(miniature.places(20).tolist())]  # fmt: skip
    collect([pa.Table.from_pylist(rows, GALLERY)]).save(tmp_path / "gallery")
    found = place(tmp_path / "gps", tmp_path / "gallery", tmp_path / "cache")
    assert sorted(found.latitude) == sorted(miniature.places(20)[:, 0])
    assert np.array_equal(found.features, encoder.encode(found.latitude, found.longitude))
    made.clear()
    (tmp_path / "gps" / "model.safetensors").write_bytes(b"an image model beside it")
    place(tmp_path / "gps", tmp_path / "gallery", tmp_path / "cache")
    assert not made
