"""The stage: a table of IMAGE in, of PICTURE out; real archives of odd and broken files."""

from __future__ import annotations

import csv
import hashlib
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geobatch.errors import REASONS
from geobatch.image import Decode, DecodeConfig
from geobatch.schema import IMAGE, PICTURE
from tests.image.made import blocks, encoded, images, waves

#: What the decoder may say; "failed" would mean that the stage itself raised.
ALLOWED = {"not_an_image", "unsupported", "broken", "too_many_pixels", "out_of_memory", "timeout", "crashed", "empty"}


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """One stage for all tests, as an actor has it."""
    stage = Decode()
    yield stage
    stage.close()


def archive(folder: Path, root: Path) -> pa.Table:
    """The files below a folder as a table of IMAGE."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [
        {"image_id": str(path.relative_to(root)), "uri": str(path), "size": path.stat().st_size, "bytes": path.read_bytes()}
        for path in paths
    ]
    return pa.Table.from_pylist(rows, IMAGE)


def check(table: pa.Table, found: pa.Table) -> None:
    """The laws that hold for any archive: nothing lost, nothing moved, everything has a picture or a fate."""
    assert found["image_id"].to_pylist() == table["image_id"].to_pylist()
    assert found["size"].to_pylist() == table["size"].to_pylist()
    assert sorted(found.column_names) == sorted(PICTURE.names)
    assert found.select(PICTURE.names).schema.equals(PICTURE)
    for row, data in zip(found.to_pylist(), table["bytes"].to_pylist(), strict=True):
        assert row["sha256"] == (hashlib.sha256(data).hexdigest() if data else None)
        if row["reason"] is None:
            assert len(row["picture"]) == row["picture_width"] * row["picture_height"] * 3
            assert row["picture_width"] <= row["width"] and row["picture_height"] <= row["height"]
        else:
            assert row["stage"] == "decode" and row["reason"] in ALLOWED & set(REASONS)
            assert row["picture"] is None and row["width"] is None and row["exif_latitude"] is None


def test_a_table_goes_through(decode: Decode) -> None:
    table = images(encoded(blocks(), "PNG"), b"nothing", None, b"", encoded(waves(1000, 500), "JPEG"))
    found = decode(table)
    check(table, found)
    assert found["reason"].to_pylist() == [None, "not_an_image", "empty", "empty", None]
    assert found["width"].to_pylist() == [48, None, None, None, 1000]
    assert found["picture_width"].to_pylist() == [48, None, None, None, 672]
    assert found["picture"][0].as_py() == blocks().tobytes()


def test_rejected_rows_pass_by_and_other_columns_stay(decode: Decode) -> None:
    table = images(encoded(blocks(), "PNG"), None, encoded(blocks(), "BMP")).append_column("label", pa.array(["a", "b", "c"]))
    fate = {"stage": ["read"], "reason": ["missing"], "detail": ["gone"]}
    for name, value in fate.items():
        table = table.set_column(table.column_names.index(name), name, pa.array([None, value[0], None], pa.string()))
    found = decode(table)
    assert found["stage"].to_pylist() == [None, "read", None]
    assert found["label"].to_pylist() == ["a", "b", "c"]
    assert found["picture_height"].to_pylist() == [32, None, 32]


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_and_one(decode: Decode, rows: int) -> None:
    table = images(*[encoded(blocks(), "GIF")] * rows)
    check(table, decode(table))


def test_chunked_and_sliced_tables(decode: Decode) -> None:
    contents = [encoded(np.full((4, 4, 3), level, np.uint8), "PNG") for level in range(12)]
    table = pa.concat_tables([images(*contents[:5])[1:4], images(*contents[5:])[2:]])
    firsts = [value.as_py()[0] for value in decode(table)["picture"]]
    assert firsts == [1, 2, 3, 7, 8, 9, 10, 11]


def test_pickling_leaves_the_process_behind(decode: Decode) -> None:
    table = images(encoded(blocks(), "PNG"))
    decode(table)
    other = pickle.loads(pickle.dumps(decode))
    assert other.config == decode.config and other._sandbox._child is None
    assert other(table).equals(decode(table))
    other.close()


def test_rows_do_not_depend_on_their_neighbours(decode: Decode) -> None:
    contents = [encoded(waves(400 + 10 * at, 300), "JPEG") for at in range(6)]
    together = decode(images(*contents))["picture"].to_pylist()
    assert [decode(images(data))["picture"][0].as_py() for data in contents] == together


SEEDS = [
    encoded(waves(40, 30), format)
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM")
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Noise, or an image that was cut, overwritten in places, or continued by another."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    how = draw(st.sampled_from(["noise", "cut", "overwrite", "splice"]))
    if how == "noise":
        return draw(st.binary(max_size=64))
    at = draw(st.integers(0, len(data) - 1))
    if how == "cut":
        return bytes(data[:at])
    if how == "overwrite":
        for place in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
            noise = draw(st.binary(min_size=1, max_size=8))
            data[place : place + len(noise)] = noise
        return bytes(data)
    return bytes(data[:at]) + draw(st.sampled_from(SEEDS))[at:]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(contents=st.lists(damaged(), min_size=1, max_size=8))
def test_no_bytes_ever_raise_out_of_the_stage(decode: Decode, contents: list[bytes]) -> None:
    table = images(SEEDS[0], *contents, SEEDS[1])
    found = decode(table)
    check(table, found)
    assert found["reason"][0].as_py() is None and found["reason"][-1].as_py() is None
    assert not {"timeout", "crashed", "failed"} & set(found["reason"].to_pylist())


# Real archives


def test_real_photographs_state_their_coordinates(decode: Decode, realdata: Path) -> None:
    with (realdata / "CATALOGUE.csv").open(newline="") as catalogue:
        truth = {row["file"]: row for row in csv.DictReader(catalogue) if row["topic"] == "geotagged_photos"}
    table = archive(realdata / "geotagged_photos", realdata)
    found = decode(table)
    check(table, found)
    assert len(truth) == 66 and not found["reason"].drop_null()
    stated = 0
    for row in found.to_pylist():
        expected = truth[row["image_id"]]
        assert row["exif_latitude"] == pytest.approx(float(expected["lat"]), abs=1e-6)
        assert row["exif_longitude"] == pytest.approx(float(expected["lon"]), abs=1e-6)
        stated += 1
    assert stated == 66


@pytest.mark.parametrize(
    ("folder", "files", "pictures"),
    [("hostile", 776, range(16)), ("odd_valid", 340, range(330, 341)), ("exif_edge", 22, [19])],
)
def test_hostile_and_odd_files_are_one_row_each(realdata: Path, folder: str, files: int, pictures: range) -> None:
    table = archive(realdata / folder, realdata)
    stage = Decode()
    found = stage(table)
    child = stage._sandbox._child
    assert child and child.answered == files, "a file ended its decoder"
    peak = _peak(child._process.pid)
    stage.close()
    check(table, found)
    reasons = Counter(found["reason"].to_pylist())
    assert len(found) == files and reasons[None] in pictures, reasons
    assert peak < 768 << 20, "one decoder took more than 768 MiB"


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no peak")


def test_odd_metadata_is_read_or_absent(decode: Decode, realdata: Path) -> None:
    found = decode(archive(realdata / "exif_edge", realdata))
    rows = {Path(row["image_id"]).name: row for row in found.to_pylist()}
    places = {
        name: (row["exif_latitude"], row["exif_longitude"]) for name, row in rows.items() if row["exif_latitude"] is not None
    }
    assert len(places) == 11
    assert places["imagemeta__geodegrees_as_string.jpg"] == pytest.approx((52.842781, 11.182857), abs=1e-6)
    assert places["exifr__002.tiff"] == pytest.approx((39.917, -2.825024), abs=1e-6)
    assert places["exifr__png_with_exif_and_gps.png"] == pytest.approx((50.299603, 14.820294), abs=1e-6)
    for absent in ("Issue_308", "Nikon_D5000", "Samsung_GT-I9000", "empty_gps", "broken1", "Canon_Powershot"):
        assert not [name for name in places if absent in name], absent
    assert rows["test-assets__empty_gps.jpg"]["exif_time"] == "2025-06-01T16:59:26.023460"


def test_without_exif_nothing_of_it_is_written(realdata: Path) -> None:
    stage = Decode(DecodeConfig(exif=False, side=64))
    found = stage(archive(realdata / "exif_edge", realdata))
    stage.close()
    assert not any(found[name].drop_null() for name in ("exif_latitude", "exif_longitude", "exif_time"))
    assert pc.count(found["picture"]).as_py() == 19
