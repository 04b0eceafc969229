"""Captions become examples: both inputs, every fault by its name, and the truth in every answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.engine.answer import Answer, parse
from geobatch.engine.chat import Chat
from geobatch.errors import UserError
from geobatch.image import DecodeConfig
from geobatch.methods.geolocsft.data import Encoder, Examples
from geobatch.methods.geolocsft.examples import Example, Fault, answer_of, read, write
from geobatch.methods.geolocsft.forms import GEO_CAPTION
from geobatch.methods.geolocsft.prompts import caption_text, tag
from geobatch.store import Store
from tests.conftest import S3Server
from tests.engine import tiny
from tests.methods.geolocsft.pupil import DECODE, captions, crops


def of_schema(schema: dict[str, Any]) -> Any:
    """Something that the schema takes."""
    if schema["type"] == "object":
        return {name: of_schema(inner) for name, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [of_schema(schema["items"])] * schema["minItems"]
    return 7.25 if schema["type"] == "number" else "dunes to the horizon"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(Chat(str(tiny.gemma3(tmp_path_factory.mktemp("gemma") / "base"))), "tag")


def table(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = [("image_id", pa.string()), ("latitude", pa.float64()), ("longitude", pa.float64()), ("image", pa.binary()),
             ("caption", pa.string())]  # fmt: skip
    return pa.Table.from_pylist(rows, pa.schema(kinds))


@pytest.mark.parametrize("form", ["tag", "json"])
def test_an_answer_holds_the_truth_whatever_the_teacher_wrote(form: Any) -> None:
    caption = of_schema(GEO_CAPTION)
    text = answer_of(-33.8568, 151.2153, json.dumps(caption), form)
    found = parse(text)
    assert isinstance(found, Answer) and (found.latitude, found.longitude, found.form) == (-33.8568, 151.2153, form)
    assert "dunes to the horizon" in text and "7.25" not in text
    alone = parse(answer_of(-33.8568, 151.2153, None, form))
    assert isinstance(alone, Answer) and (alone.latitude, alone.longitude, alone.form) == (-33.8568, 151.2153, form)


@pytest.mark.parametrize(
    "caption", ["[]", "{}", "no JSON", '{"answer": {"coordinates": 3}}', '{"answer": {"coordinates": {}}}']
)
def test_a_caption_that_is_none_is_a_fault(caption: str, tmp_path: Path) -> None:
    pq.write_table(
        table([{"image_id": "a", "latitude": 1.0, "longitude": 2.0, "image": b"x", "caption": caption}]), tmp_path / "a.parquet"
    )
    (found,) = read(Store(), str(tmp_path / "a.parquet"), "tag")
    assert isinstance(found, Fault) and found.image_id == "a" and "its caption cannot be used" in found.reason


def test_parquet_is_read_from_disk_and_bucket(tmp_path: Path, s3: S3Server) -> None:
    made = crops(4)
    plain = [
        Example(each.image_id, each.latitude, each.longitude, each.image, tag(each.latitude, each.longitude)) for each in made
    ]
    folder = tmp_path / "captions/curated"
    folder.mkdir(parents=True)
    file = captions(folder / "captions.parquet", made)
    captions(folder / "dropped.parquet", crops(3, seed=8))
    (tmp_path / "captions/places").mkdir()
    captions(tmp_path / "captions/places/part.parquet", crops(9, seed=9))
    # The file, its folder, and the output of the caption job, whose table holds what was not curated.
    for uri in (file, folder, tmp_path / "captions"):
        assert list(read(Store(), str(uri), "tag")) == plain
    store, bucket = Store(s3.config()), s3.bucket()
    store.put(f"s3://{bucket}/c/captions.parquet", file.read_bytes())
    assert list(read(store, f"s3://{bucket}/c", "tag")) == plain


def test_rows_without_a_place_or_a_picture_are_faults(tmp_path: Path) -> None:
    rows = [
        {"image_id": "no place", "latitude": None, "longitude": 2.0, "image": b"x", "caption": None},
        {"image_id": "no picture", "latitude": 1.0, "longitude": 2.0, "image": None, "caption": None},
        {"image_id": "nowhere", "latitude": 91.0, "longitude": 2.0, "image": b"x", "caption": None},
    ]
    pq.write_table(table(rows), tmp_path / "a.parquet")
    found = list(read(Store(), str(tmp_path / "a.parquet"), "tag"))
    assert all(isinstance(each, Fault) for each in found)
    assert [each.image_id for each in found] == ["no place", "no picture", "nowhere"]


def sharegpt(folder: Path, rows: list[Any], name: str = "sharegpt.json") -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
    return str(folder / name)


def turns(path: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "images": [path],
        "conversations": [{"from": "human", "value": "<image>Where?"}, {"from": "gpt", "value": answer}],
        **more,
    }


def test_other_trainers_json_is_read(tmp_path: Path) -> None:
    (one, two) = crops(2)
    for number, each in enumerate((one, two)):
        (tmp_path / f"{number}.png").write_bytes(each.image)
    caption = of_schema(GEO_CAPTION)
    rows = [
        turns("0.png", f"Palms.\n{tag(1.5, -2.25)}", system="You locate."),
        turns("1.png", json.dumps(caption)),
        turns("2.png", tag(1, 2)),
        turns("0.png", "I am sorry, I cannot tell."),
        turns("0.png", '{"answer": {"coordinates": {"latitude": 1.0, "longitude": 2.0}}}'),
        {"images": ["0.png", "1.png"], "conversations": []},
        turns("0.png", tag(1, 2), conversations=[{"from": "human", "value": "a"}] * 4),
        "nothing",
    ]
    for name in ("sharegpt.json", "sharegpt.jsonl"):
        found = list(read(Store(), sharegpt(tmp_path, rows, name), "tag"))
        assert found[0] == Example("0.png", 1.5, -2.25, one.image, f"Palms.\n{tag(1.5, -2.25)}")
        assert found[1] == Example("1.png", 7.25, 7.25, two.image, caption_text(caption, "tag"))
        faults = [each for each in found[2:] if isinstance(each, Fault)]
        assert len(faults) == 6
        assert "cannot be read" in faults[0].reason and "names no place" in faults[1].reason
        assert faults[2].reason == "its answer is written as json, not as tag; train with --form json"
        assert {each.reason for each in faults[3:]} == {"needs one image, and one turn of human and of gpt"}


def test_a_caption_of_the_asked_form_is_written_anew(tmp_path: Path) -> None:
    """What no student could know or be guided to: the image's name, escapes, exponents; and a place it cannot hold."""
    (one,) = crops(1)
    (tmp_path / "0.png").write_bytes(one.image)
    caption = of_schema(GEO_CAPTION) | {"image_id": "s3://city/paris/3.jpg"}
    caption["thinking"]["terrain_soil"]["soil_characteristics"] = 'a "red" soil\n'
    caption["answer"]["coordinates"] |= {"latitude": 1e-05}
    short = {**caption, "thinking": {}}
    tagged = f"<answer>{json.dumps(caption)}</answer>"
    rows = [turns("0.png", text) for text in (json.dumps(caption), tagged, json.dumps(short))]
    for form, kept in (("json", '"image_id": "image"'), ("tag", tag(1e-05, 7.25))):
        whole, held, fault = read(Store(), sharegpt(tmp_path, rows), form)  # type: ignore[arg-type]
        assert whole == held == Example("0.png", 1e-05, 7.25, one.image, caption_text(caption, form))  # type: ignore[arg-type]
        assert kept in whole.answer and not any(each in whole.answer for each in ("paris", "\\", "1e-05"))
        assert isinstance(fault, Fault) and "its caption cannot be used: caption.thinking needs" in fault.reason


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.json", "{", "is no JSON"), ("a.json", "{}", "holds no list"), ("a.parquet", "PAR", "is no Parquet file")],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        list(read(Store(), str(tmp_path / name), "tag"))


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no Parquet file"):
        list(read(Store(), str(tmp_path), "tag"))
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no column latitude"):
        list(read(Store(), str(tmp_path), "tag"))


def test_pictures_that_do_not_decode_and_examples_too_long_are_named(tmp_path: Path, encoder: Encoder) -> None:
    good, cut, twin, other = crops(4)

    def found() -> Iterator[Example | Fault]:
        yield good
        yield Example("cut", cut.latitude, cut.longitude, cut.image[:200], cut.answer)
        yield Fault("before", "was no good")
        yield Example("text", 1.0, 2.0, b"no image at all", tag(1, 2))
        yield Example(good.image_id, twin.latitude, twin.longitude, twin.image, twin.answer)
        yield Example("long", other.latitude, other.longitude, other.image, "sand " * 500 + other.answer)
        yield other

    longest = encoder.length(48, 48, other.answer) + 100
    seen: list[int] = []
    written = write(found(), tmp_path / "examples.arrow", encoder, DECODE, longest, seen.append)
    assert (written.examples, written.long, sum(seen)) == (2, ["long"], 7)
    reasons = {fault.image_id: fault.reason for fault in written.faults}
    assert reasons.keys() == {"cut", "before", "text", good.image_id}
    assert reasons["cut"].startswith("its picture is broken") and reasons["text"].startswith("its picture is not_an_image")
    assert reasons[good.image_id] == "occurs twice"
    assert [row["image_id"] for row in Examples(tmp_path / "examples.arrow", DECODE).table.to_pylist()] == [
        good.image_id,
        other.image_id,
    ]


def test_the_digest_is_of_everything_that_is_learnt(tmp_path: Path, encoder: Encoder) -> None:
    one, two = crops(2)

    def digest(*made: Example) -> str:
        return write(iter(made), tmp_path / "examples.arrow", encoder, DecodeConfig(side=64), 10_000).digest

    assert digest(one, two) == digest(one, two)
    changed = [
        Example(one.image_id, one.latitude, one.longitude, two.image, one.answer),
        Example(one.image_id, one.latitude + 1e-4, one.longitude, one.image, one.answer),
        Example(one.image_id, one.latitude, one.longitude, one.image, one.answer + "."),
        Example("else", one.latitude, one.longitude, one.image, one.answer),
    ]
    assert len({digest(each, two) for each in [one, *changed]} | {digest(two, one), digest(one)}) == 7
