"""Texts by the names of images: gathered, grouped, matched; and the two stages that make pairs of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.archive.texts import Entry
from geobatch.errors import Rejection, UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.ngcg.annotate import Annotate, Pair
from geobatch.methods.ngcg.annotations import Annotations, Grouping, gather, read
from geobatch.schema import IMAGE, PAIRS, empty_columns
from geobatch.store import Store

TILE = "40.7123,-74.0061_2019-05_abcDEF_d193_z3.png"


def entry(name: str | None, text: str = "a coast", **more: Any) -> Entry:
    return Entry(name, text, 0, **more)


def told(found: Annotations) -> dict[str, tuple[list[str], str]]:
    return dict(zip(found.names, zip(found.texts.to_pylist(), found.groups.to_pylist(), strict=True), strict=True))


def raises(*found: Entry, grouping: Grouping = "auto") -> str:
    with pytest.raises(UserError) as raised:
        gather(found, "texts.csv", grouping)
    return str(raised.value)


def slow(found: list[Entry]) -> dict[str, list[str]]:
    """What `gather` makes of texts, row by row."""
    out: dict[str, list[str]] = {}
    for each in found:
        if each.name:
            out.setdefault(each.name, []).extend([each.text] if each.text.strip() and each.fate is None else [])
    return out


NAMES = st.sampled_from(["a", "b", "c/d", "é", "1/2.jpg", None, ""])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["", " ", "x", "yy", "é\n", "\t"]), st.booleans()), max_size=30))
def test_names_gather_their_texts_in_order(rows: list[tuple[str | None, str, bool]]) -> None:
    found = [Entry(name, text, at, fate=Rejection("empty") if lost else None) for at, (name, text, lost) in enumerate(rows)]
    expected = slow(found)
    if not any(expected.values()):
        with pytest.raises(UserError):
            gather(found, "texts.csv")
        return
    made = gather(found, "texts.csv")
    assert {name: texts for name, (texts, _) in told(made).items()} == expected
    assert list(made.names) == list(expected)  # in the order they are first met
    assert made.nameless == sum(not each.name for each in found)
    assert made.blank == sum(bool(each.name) for each in found) - sum(map(len, expected.values()))
    assert len(made.numbers) == sum(bool(texts) for texts in expected.values())


def test_a_column_of_groups_is_taken_where_there_is_one() -> None:
    made = gather([entry("a", group="x"), entry("b", group="x"), entry("c"), entry("a")], "texts.csv")
    assert made.grouping == "column" and told(made)["a"] == (["a coast", "a coast"], "x")
    assert [group for _, group in told(made).values()] == ["x", "x", "c"]  # without one, a place of its own
    assert len(set(made.numbers.tolist())) == 2


def test_buildings_are_known_by_their_numbers() -> None:
    names = ["0839/image-43.jpeg", "0839/image-01.jpeg", "drone/1042/image-43.jpeg"]
    made = gather([entry(name) for name in names], "texts.json")
    assert made.grouping == "building" and [group for _, group in told(made).values()] == ["0839", "0839", "1042"]
    other = gather([*map(entry, names), entry("loose.jpg")], "texts.json")
    assert other.grouping == "name" and len(set(other.groups.to_pylist())) == 4
    asked = gather([entry("north/1.jpg"), entry("north/2.jpg")], "texts.json", "building")
    assert asked.groups.to_pylist() == ["north", "north"]


def test_a_panorama_is_one_place_wherever_its_tiles_lie() -> None:
    made = gather([entry(f"sat/{TILE}"), entry(f"osm/{TILE}"), entry("plain.png")], "train.json")
    assert made.grouping == "name"
    assert [group for _, group in told(made).values()] == [TILE, TILE, "plain.png"]
    np.testing.assert_allclose(made.truth.latitude, [40.7123, 40.7123, np.nan])
    np.testing.assert_allclose(made.truth.longitude, [-74.0061, -74.0061, np.nan])


def test_a_place_that_the_file_tells_goes_before_its_names() -> None:
    made = gather([entry(TILE, latitude=1.0, longitude=2.0), entry("b"), entry("b", latitude=-3.0, longitude=4.0)], "t.csv")
    np.testing.assert_allclose(made.truth.latitude, [1, -3])
    np.testing.assert_allclose(made.truth.longitude, [2, 4])


def test_what_cannot_be_used_is_said_in_a_line() -> None:
    assert raises() == "texts.csv holds no text; give a file with a column image_id, id, name or image beside its texts"
    assert "holds 1 texts, none of which names an image" in raises(entry(None))
    assert "all 2 texts of texts.csv are blank; name the column" in raises(entry("a", " "), entry("b", ""))
    two = (entry("a", latitude=1.0, longitude=2.0), entry("a", latitude=1.0, longitude=2.5))
    assert raises(*two) == "'a' has two places in texts.csv; leave one"
    assert "'a' lies at 120, 2 in texts.csv" in raises(entry("a", latitude=120.0, longitude=2.0))
    assert "no column group" in raises(entry("a"), grouping="column")
    assert "end early (the gzip stream ends)" in raises(
        entry("a"), entry(None, "", fate=Rejection("broken_archive", "the gzip stream ends"))
    )


def test_every_form_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,caption,building\n1.jpg,a coast,x\n1.jpg,a bay,x\n2.jpg,,y\n")
    geotext = [{"image_id": "0839/image-43.jpeg", "caption": ["one", "two", "three"], "bboxes": [None]}]
    (tmp_path / "b.json").write_text(json.dumps(geotext))
    (tmp_path / "c.json").write_text(json.dumps({TILE: "a street"}))
    store = Store(None)
    assert told(read(store, str(tmp_path / "a.csv"))) == {"1.jpg": (["a coast", "a bay"], "x"), "2.jpg": ([], "y")}
    assert told(read(store, str(tmp_path / "b.json"))) == {"0839/image-43.jpeg": (["one", "two", "three"], "0839")}
    assert told(read(store, str(tmp_path / "c.json"))) == {TILE: (["a street"], TILE)}
    with pytest.raises(UserError, match="no column 'words'"):
        read(store, str(tmp_path / "a.csv"), column="words")


def test_the_digest_is_of_the_content() -> None:
    def digest(*found: Entry) -> str:
        return gather(found, "anywhere").digest

    first = digest(entry("a"), entry("b"))
    assert digest(entry("a"), entry("b")) == first
    others = [
        digest(entry("a"), entry("c")),
        digest(entry("a"), entry("b", "else")),
        digest(entry("a"), entry("b", group="a")),
        digest(entry("a"), entry("b", latitude=1.0, longitude=1.0)),
    ]
    assert len({first, *others}) == 5


def test_an_image_of_another_building_has_no_text() -> None:
    made = gather([entry("0839/image-43.jpeg"), entry("0840/image-01.jpeg")], "train.json")
    images = [
        f"s3://b/train/{name}" for name in ("0839/image-43.jpeg", "0840/image-43.jpeg", "0841/image-01.jpeg", "0840/image-01")
    ]
    np.testing.assert_array_equal(made.match(images), [0, -1, -1, -1])


# The stages


def images(*names: str, content: list[bytes] | None = None) -> pa.Table:
    columns = {
        **empty_columns(list(IMAGE), len(names)),
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "bytes": pa.array(content or [b"x"] * len(names), pa.large_binary()),
    }
    return pa.table(columns).cast(IMAGE)


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.csv"
    path.write_text("name,text,lat,lon,group\na/1.png,a coast,10,20,x\na/1.png,a bay,10,20,x\n2.png,an isle,,,y\n3.png, ,,,\n")
    return str(path)


def png(width: int = 20, height: int = 10) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, "png")
    return out.getvalue()


def test_pictures_meet_their_texts_and_the_others_are_rejected(texts: str) -> None:
    names = ["s3://b/a/1.png", "s3://b/x.zip#2.png", "s3://b/3.png", "s3://b/4.png"]
    made = Annotate(texts)(images(*names)).to_pylist()
    assert [row["texts"] for row in made[:2]] == [["a coast", "a bay"], ["an isle"]]
    assert [row["group"] for row in made[:2]] == ["x", "y"]
    assert (made[0]["latitude"], made[0]["longitude"]) == (10, 20) and np.isnan(made[1]["latitude"])
    assert [(row["stage"], row["reason"]) for row in made[2:]] == [("annotate", "no_text")] * 2
    assert "all texts of 3.png" in made[2]["detail"] and made[3]["detail"].endswith("names no such image")


def test_a_name_that_fits_two_images_ends_the_job(texts: str) -> None:
    with pytest.raises(UserError, match=r"'2.png' in .*texts.csv fits both 's3://b/2.png' and 's3://b/c/2.png'"):
        Annotate(texts)(images("s3://b/2.png", "s3://b/c/2.png"))


def test_through_the_decoder_a_picture_becomes_a_pair(texts: str) -> None:
    content = [png(), png()[:60], png(300, 200)]
    table = Annotate(texts)(images("b/a/1.png", "b/2.png", "b/5.png", content=content))
    decode = Decode(DecodeConfig(side=8))
    try:
        rows = Pair()(decode(table))
    finally:
        decode.close()
    assert set(PAIRS.names) - {"status"} <= set(rows.column_names) and "picture" not in rows.column_names
    first, broken, untold = rows.to_pylist()
    with Image.open(io.BytesIO(first["image"])) as image:
        assert image.format == "PNG" and image.size == (16, 8)
    assert (broken["reason"], untold["reason"]) == ("broken", "no_text")
    assert broken["image"] is None and untold["width"] is None  # nobody decoded what nobody described


def test_exif_is_the_place_of_a_picture_without_another(texts: str) -> None:
    table = Annotate(texts)(images("b/a/1.png", "b/2.png", content=[png()] * 2))
    decode = Decode(DecodeConfig(side=8))
    try:
        seen = decode(table)
    finally:
        decode.close()
    for axis, value in (("latitude", 5.0), ("longitude", -6.0)):
        at = seen.column_names.index(f"exif_{axis}")
        seen = seen.set_column(at, f"exif_{axis}", pa.array([value] * 2))
    made = Pair()(seen).to_pylist()
    assert [(row["latitude"], row["longitude"]) for row in made] == [(10, 20), (5, -6)]
