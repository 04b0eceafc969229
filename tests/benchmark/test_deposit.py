"""Archives on disk, their truth, and files that nothing decodes."""

from __future__ import annotations

import io
import tarfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geobatch.benchmark.deposit import broken, write_archive, write_broken, write_tar, write_truth
from geobatch.benchmark.truth import read_truth

FILES = [bytes([value]) * (value + 1) for value in range(50)]
LAT, LON = [value / 10 for value in range(50)], [value * 1.5 - 30 for value in range(50)]


def content(folder: Path, name: str) -> bytes:
    path, _, member = name.partition("#")
    if not member:
        return (folder / path).read_bytes()
    with tarfile.open(folder / path) as archive:
        stream = archive.extractfile(member)
        assert stream is not None
        return stream.read()


def test_every_file_is_there_once_and_its_place_is_known(tmp_path: Path) -> None:
    truth = write_archive(tmp_path, FILES, LAT, LON, seed=1, loose=0.4, per_shard=8)
    assert len(truth) == 50
    assert sum(name.startswith("loose/") for name in truth) == 20
    assert len(list((tmp_path / "shards").iterdir())) == 4
    for name, place in truth.items():
        value = content(tmp_path, name)[0]
        assert place == (LAT[value], LON[value])
    order = [content(tmp_path, name)[0] for name in truth]
    assert order != sorted(order)  # shuffled


def test_the_seed_decides_the_archive(tmp_path: Path) -> None:
    first = write_archive(tmp_path / "a", FILES, LAT, LON, seed=1)
    again = write_archive(tmp_path / "b", FILES, LAT, LON, seed=1)
    other = write_archive(tmp_path / "c", FILES, LAT, LON, seed=2)
    assert first == again != other
    assert (tmp_path / "a/shards/0000.tar").read_bytes() == (tmp_path / "b/shards/0000.tar").read_bytes()


def test_tars_open_anywhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "deep" / "a.tar", [("x.jpg", b"1"), ("y/z.jpg", b"")])
    with tarfile.open(tmp_path / "deep" / "a.tar") as archive:
        assert [(member.name, member.size) for member in archive] == [("x.jpg", 1), ("y/z.jpg", 0)]


@given(
    truth=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1),
        st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        max_size=5,
    )
)
def test_truth_comes_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, truth: dict[str, tuple[float, float]]) -> None:
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    write_truth(path, truth)
    if truth:
        found = read_truth(path)
        places = zip(found.latitude.tolist(), found.longitude.tolist(), strict=True)
        assert dict(zip(found.image_id, places, strict=True)) == truth


@pytest.mark.parametrize("name", sorted(broken()))
def test_broken_files_do_not_decode(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((OSError, SyntaxError, ValueError, Image.DecompressionBombError)):
            Image.open(io.BytesIO(broken()[name])).load()


def test_broken_files_lie_in_both_forms(tmp_path: Path) -> None:
    names = write_broken(tmp_path)
    assert len(names) == len(broken()) >= 12
    assert {name.partition("#")[0].split("/")[0] for name in names} == {"loose", "shards"}
    assert sorted(content(tmp_path, name) for name in names) == sorted(broken().values())
