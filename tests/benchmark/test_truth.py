"""Truth: every spelling of a column that benchmarks use, matches by ever shorter names, and every refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.benchmark.truth import Truth, load_truth, parse_truth, read_truth, truth_from_exif, truth_of
from geobatch.errors import UserError
from geobatch.schema import PLACE, empty_columns
from geobatch.store import NotFound, Store
from tests.conftest import S3Server


def truth(*ids: str) -> Truth:
    return truth_of(ids, np.arange(float(len(ids))), np.arange(float(len(ids))), "truth.csv")


@pytest.mark.parametrize(
    "header",
    [
        "image_id,latitude,longitude",
        "IMG_ID,LAT,LON",
        "id,Latitude,Longitude",
        "file name,lat,lng",
        "img_id,gt_lat,gt_long",
        "\ufeffFilename,lat,long",
        "url, Lat , Lon ",
        "image_id;lat;lon",
        "image_id\tlat\tlon",
    ],
)
def test_headers_of_the_field(header: str) -> None:
    delimiter = next(one for one in ";\t," if one in header)
    lines = [header, delimiter.join(["a/1.jpg", "1.5", "-2.5"]), "", delimiter.join(["b.jpg", "", "3"])]
    found = parse_truth("\r\n".join(lines).encode(), "t.csv")
    assert (found.image_id, found.latitude.tolist(), found.longitude.tolist()) == (("a/1.jpg",), [1.5], [-2.5])
    assert found.without_place == 1


def test_the_first_name_of_the_list_wins_and_other_columns_do_not_matter() -> None:
    text = b'id,AUTHOR,image_id,predicted_lat,lat,lon\n7,"a, b",x.jpg,9,1,2\n'
    found = parse_truth(text, "t.csv")
    assert (found.image_id, found.latitude[0]) == (("x.jpg",), 1)


def test_parquet_and_numbers_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    columns = {"id": [11, 12], "latitude": [1.0, None], "longitude": [2.0, 3.0], "junk": [b"x", b"y"]}
    pq.write_table(pa.table(columns), path)
    found = read_truth(path)
    assert (found.image_id, found.without_place, found.name) == (("11",), 1, str(path))


def test_published_files_and_their_trap(realdata: Path) -> None:
    folder = realdata / "benchmarks" / "GeoEstimation"
    found = read_truth(folder / "demo__data__scene_M_p_im2gps.csv")
    assert len(found.image_id) == 237
    assert found.match(["s3://b/im2gps.tar#x/104123223_7410c654ba_19_19355699@N00.jpg"])[0] >= 0
    exchanged = read_truth(folder / "meta__im2gps_places365.csv")
    assert "exchanged (68 of 237 latitudes pass 90" in exchanged.notes[0]
    results = read_truth(folder / "results__im2gps__base_M-m.csv")
    assert "ends in another table of 2 lines, from 'street acc (1km)' on" in results.notes[0]
    rows = results.match(exchanged.image_id)
    assert (rows >= 0).sum() == 237 and found.notes == ()
    assert np.allclose(results.latitude[rows], exchanged.latitude) and np.allclose(results.longitude[rows], exchanged.longitude)


def test_matches_whole_ids_then_endings_then_last_parts() -> None:
    known = truth("s3://b/t.tar#a/1.jpg", "c/2.jpg", "3.jpg", "old/place/4.jpg")
    asked = ["s3://b/t.tar#a/1.jpg", "s3://b/z.zip#c/2.jpg", "s3://b/t.tar#3.jpg", "new/4.jpg", "5.jpg", "x/"]
    assert known.match(asked).tolist() == [0, 1, 2, 3, -1, -1]
    assert known.match([]).tolist() == []


def test_an_ending_tells_apart_what_last_parts_cannot() -> None:
    assert truth("a/1.jpg", "b/1.jpg").match(["s3://x/b/1.jpg", "s3://x/a/1.jpg"]).tolist() == [1, 0]


def test_a_last_part_is_asked_of_rows_that_nobody_has() -> None:
    for images in (["train/1.jpg", "test/1.jpg"], ["s3://b/test/1.jpg", "s3://b/train/1.jpg"], ["test/1.jpg", "x#train/1.jpg"]):
        expected = [0 if "train" in image else -1 for image in images]
        assert truth("train/1.jpg").match(images).tolist() == expected
        # Wherever the other stands, blocks away too.
        assert truth("train/1.jpg").match([images[0], *["other"] * 70_000, images[1]])[[0, -1]].tolist() == expected
    assert truth("train/1.jpg", "b/1.jpg").match(["train/1.jpg", "test/1.jpg"]).tolist() == [0, 1]
    assert truth("train/1.jpg").match(["test/1.jpg"]).tolist() == [0]


def test_mp16_pro_names_its_images_with_slashes_and_its_tar_with_underscores() -> None:
    known = truth("39/19/3845791320.jpg", "04/5e/12_34.jpg", "b2/dd/7.jpg", "7.jpg")
    asked = [f"s3://b/MP16-Pro/mp-16-images07#./images/{name}.jpg" for name in ("b2_dd_7", "39_19_3845791320", "04_5e_12_34")]
    assert known.match(asked).tolist() == [2, 0, 1]
    assert known.match(["s3://b/x.tar#39/19/3845791320.jpg", "s3://b/x.tar#7.jpg"]).tolist() == [0, 3]
    # Neither half a name, nor the truth's underscores as slashes, nor one image for two rows.
    assert (
        truth("39/19/1.jpg", "4_5.jpg").match(["x#9_19_1.jpg", "x#4/5.jpg", "x#39_19/1.png", "x#39_19_1"]).tolist() == [-1] * 4
    )
    with pytest.raises(UserError, match=r"'x#a_b_c.jpg' fits both 'a/b_c.jpg' and 'a_b/c.jpg' in truth.csv"):
        truth("a/b_c.jpg", "a_b/c.jpg").match(["x#a_b_c.jpg"])
    with pytest.raises(UserError, match=r"'a/b.jpg' in truth.csv fits both 'x#1/a_b.jpg' and 'x#2/a_b.jpg'"):
        truth("a/b.jpg").match(["x#1/a_b.jpg", "x#2/a_b.jpg"])


def test_osv_5m_names_its_images_without_their_ending() -> None:
    known = truth("3859149887465501", "17", "18.jpg", "train/5")
    asked = [
        "s3://b/images/train/00.zip#3859149887465501.jpg",
        "s3://b/00.zip#00/17.jpg",
        "a#18.png",
        "b#train/5.jpeg",
        "c#9.jpg",
    ]
    assert known.match(asked).tolist() == [0, 1, -1, 3, -1]
    assert truth("17", "17.jpg").match(["00.zip#17.jpg"]).tolist() == [1]  # the whole name comes first
    with pytest.raises(UserError, match=r"'17' in truth.csv fits both '0#17.jpg' and '1#17.jpg'"):
        truth("17").match(["0#17.jpg", "1#17.jpg"])


def test_a_name_that_fits_several_is_refused() -> None:
    with pytest.raises(UserError, match=r"fits both 'a/1.jpg' and 'b/1.jpg' in truth.csv; write whole image ids"):
        truth("a/1.jpg", "b/1.jpg").match(["c/1.jpg"])
    for images in (["a/1.jpg", "b/1.jpg"], ["1.jpg", "b/1.jpg"], ["b/1.jpg", "1.jpg"]):
        with pytest.raises(UserError, match=r"'1.jpg' in truth.csv fits both"):
            truth("1.jpg").match(images)


@given(st.lists(st.text("ab/#1", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_whole_ids_always_find_themselves(ids: list[str]) -> None:
    assert truth(*ids).match(ids).tolist() == list(range(len(ids)))


def test_equal_rows_merge_and_unequal_ones_are_refused() -> None:
    text = "id,lat,lon\na,1,2\na,1.0,2\n"
    assert parse_truth(text.encode(), "t.csv").image_id == ("a",)
    with pytest.raises(UserError, match=r"'a' has two places in t.csv; leave one"):
        parse_truth((text + "a,1,3\n").encode(), "t.csv")


REFUSED = [
    (b"id,lat\na,1\n", "t.csv has no column for a longitude; name one 'longitude'"),
    (b"lat,lon\n1,2\n", "t.csv has no column for an image id; name one 'image_id'"),
    (b"", "has no column for an image id"),
    (b"id,lat,lon\n", "t.csv holds no place; give a file"),
    (b"id,lat,lon\na,,\n", "t.csv holds no place"),
    (b"id,lat,lon\na,1,2\nb,x1,2\n", "row 2 of t.csv: 'x1' is no latitude; give decimal degrees"),
    (b"id,lat,lon\na,1,2,\nb,1\n", "row 2 of t.csv has 2 of 3 columns; complete or drop it"),
    (b"id,lat,lon\na,91,2\n", "row 1 of t.csv has latitude 91 and longitude 2, which is nowhere"),
    (b"id,lat,lon\na,1,inf\n", "which is nowhere"),
    (b"\xff\xfe\x00i", "neither Parquet nor UTF-8 text"),
    (b"PAR1 and nothing more", "damaged Parquet file"),
    (b'id,lat,lon\n"' + b"a" * 140_000 + b'",1,2\n', "is no CSV"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_refusals_are_one_line_that_says_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_truth(data, "t.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        read_truth(tmp_path / "none.csv")


@given(st.binary(max_size=60))
def test_any_bytes_are_truth_or_refused(data: bytes) -> None:
    for text in (data, b"id,lat,lon\n" + data):
        try:
            assert parse_truth(text, "t.csv").image_id
        except UserError as error:
            assert str(error)


def test_from_any_store(tmp_path: Path, s3: S3Server) -> None:
    store, uri = Store(s3.config()), f"s3://{s3.bucket()}/truth"
    rows = "".join(f"{n}.jpg,{n % 90}.5,-{n % 180}.25\n" for n in range(30_000))
    store.put(uri, f"IMG_ID,LAT,LON\n{rows}".encode())
    found = load_truth(store, uri)
    assert (len(found.image_id), found.name, found.image_id[7], found.image_id[-2:]) == (
        30_000, uri, "7.jpg", ("29998.jpg", "29999.jpg")
    )  # fmt: skip
    assert found.latitude[91] == 1.5 and found.longitude[91] == -91.25
    pq.write_table(pa.table({"id": [4, 5], "lat": pa.array([1, 2], pa.float32()), "lon": [3, 4]}), tmp_path / "t")
    store.put(uri, (tmp_path / "t").read_bytes())
    found = load_truth(store, uri)
    assert (found.image_id, found.latitude.tolist(), found.longitude.tolist()) == (("4", "5"), [1, 2], [3, 4])
    store.put(uri, b"id,lat,lon\na,1,2,too many\n")
    assert load_truth(store, uri).image_id == ("a",)
    with pytest.raises(NotFound, match="nothing-here does not exist"):
        load_truth(store, f"{uri}/nothing-here")


def test_truth_from_exif() -> None:
    columns = empty_columns(list(PLACE), 3)
    columns["image_id"] = pa.array(["a", "b", "c"])
    nothing = pa.table(columns)
    with pytest.raises(UserError, match="EXIF holds no place"):
        truth_from_exif(nothing)
    columns["exif_latitude"] = pa.array([1.0, None, 3.0])
    columns["exif_longitude"] = pa.array([1.5, None, None])
    found = truth_from_exif(pa.table(columns))
    assert (found.image_id, found.latitude.tolist(), found.longitude.tolist()) == (("a",), [1.0], [1.5])


def test_large_tables_are_matched_in_linear_time() -> None:
    ids = [f"s3://bucket/shard-{at // 100}.tar#{at}.jpg" for at in range(50_000)]
    short = truth_of([f"{at}.jpg" for at in range(50_000)], np.zeros(50_000), np.zeros(50_000), "t")
    assert np.array_equal(short.match(ids), np.arange(50_000))
