"""The stage with a scripted teacher and with a real HTTP endpoint; the reader of replies with whatever may come."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.benchmark.label import Label
from geobatch.engine.pixels import pictures_of
from geobatch.engine.remote import Endpoint
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sampling
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.geolocsft.caption import Caption, Writing, Written, outcome, read_caption
from geobatch.methods.geolocsft.curate import Curation, curate, dhash
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, messages, teacher
from geobatch.schema import CAPTIONS, IMAGE, PICTURE, empty_columns
from tests.engine import tiny
from tests.engine.endpoint import Answer, Served, completion, fault, served
from tests.methods.geolocsft.worded import geo_caption

PARIS = (48.85837, 2.29448)


def table(*names: str, size: tuple[int, int] = (120, 160)) -> pa.Table:
    """PICTURE rows with their truth, every picture another."""
    pixels = [np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8) for name in names]
    columns = {
        **empty_columns(list(PICTURE), len(names)),
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "picture": pa.array([each.tobytes() for each in pixels], pa.large_binary()),
        "picture_width": pa.array([size[1]] * len(names), pa.int32()),
        "picture_height": pa.array([size[0]] * len(names), pa.int32()),
        "latitude": pa.array([PARIS[0]] * len(names)),
        "longitude": pa.array([PARIS[1]] * len(names)),
    }
    return pa.table(columns)


def text(name: str, **coordinates: Any) -> str:
    caption = geo_caption(name, *PARIS)
    caption["answer"]["coordinates"].update(coordinates)
    return json.dumps(caption)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Any]:
    """Stages with a scripted teacher, closed at the end."""
    made: list[Caption] = []

    def make(replies: dict[str, list[Any]], **writing: Any) -> Caption:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        (folder / "scripted.json").write_text(json.dumps({"replies": replies}))
        made.append(Caption(str(folder), writing=Writing(**writing)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_caption_its_answer_and_the_picture_as_a_file(stage: Any) -> None:
    rows = table("a", "bb")
    out = stage({"a": [text("a")], "bb": [text("bb", latitude=-10, longitude=179.5)]})(rows)
    assert out["reason"].null_count == 2
    assert json.loads(out["caption"][0].as_py()) == geo_caption("a", *PARIS)
    assert out["answer_latitude"].to_pylist() == [48.85837, -10.0]
    assert out["answer_longitude"].to_pylist() == [2.29448, 179.5]
    assert out["latitude"].to_pylist() == [PARIS[0]] * 2
    image = Image.open(io.BytesIO(out["image"][0].as_py()))
    assert (image.format, image.size) == ("JPEG", (160, 120))
    pixels = np.frombuffer(rows["picture"][0].as_py(), np.uint8).reshape(120, 160, 3)
    assert out["dhash"][0].as_py() == dhash(pixels)
    assert not {"picture", "picture_width", "picture_height"} & set(out.column_names)
    assert all(out.schema.field(field.name).type == field.type for field in Caption.adds)
    assert set(CAPTIONS.names) - {"status"} <= set(out.column_names)


def test_a_small_picture_stays_exact(stage: Any) -> None:
    rows = table("a", size=(48, 48))
    out = stage({"*": [text("a")]})(rows)
    image = Image.open(io.BytesIO(out["image"][0].as_py()))
    assert image.format == "PNG" and image.tobytes() == rows["picture"][0].as_py()


def test_every_fate_is_one_row_and_harms_no_other(stage: Any) -> None:
    replies = {
        "whole": [text("whole")],
        "cut": [text("cut") + " " * 5000],
        "prose": ["It is Paris."],
        "sorry": ["I'm sorry, but I can't help with locating people."],
        "far_out": [text("far_out", latitude=97.0)],
        "kills": [{"dies": True}],
        "long": [{"refuses": "too_long"}],
    }
    out = stage(replies)(table(*replies))
    assert dict(zip(out["image_id"].to_pylist(), out["reason"].to_pylist(), strict=True)) == {
        "whole": None,
        "cut": "cut_off",
        "prose": "unparsed",
        "sorry": "refused",
        "far_out": "out_of_range",
        "kills": "crashed",
        "long": "too_long",
    }
    dead = out.filter(pa.compute.is_valid(out["reason"]))
    assert set(dead["stage"].to_pylist()) == {"caption"}
    assert all(dead[field.name].null_count == 6 for field in Caption.adds)


def test_what_does_not_parse_is_asked_again_and_no_more_than_allowed(stage: Any) -> None:
    replies = {"a": ["nothing", "nothing yet", text("a")], "b": ["no"], "c": [text("c")]}
    assert stage(replies)(table("a", "b", "c"))["reason"].to_pylist() == [None, "unparsed", None]
    assert stage(replies, attempts=2)(table("a", "b", "c"))["reason"].to_pylist() == ["unparsed", "unparsed", None]


def test_without_a_teacher_the_truth_is_the_answer() -> None:
    out = Caption()(table("a", "b"))
    assert out["caption"].null_count == 2 and out["reason"].null_count == 2
    assert out["answer_latitude"].to_pylist() == out["latitude"].to_pylist()
    assert out["image"].null_count == 0


def test_a_row_rejected_before_passes_by(stage: Any) -> None:
    rows = table("a", "b")
    rows = rows.set_column(rows.column_names.index("reason"), "reason", pa.array([None, "no_place"], pa.string()))
    out = stage({"*": [text("a")]})(rows)
    assert out["reason"].to_pylist() == [None, "no_place"] and out["image"].null_count == 1


def test_a_real_model_is_held_to_the_schema_and_what_the_limit_cuts_off_is_counted_so(tmp_path: Path) -> None:
    """A tiny Gemma 3 with random weights, which writes anything but JSON where nothing holds it."""
    served_by = GeneratorConfig(backend="transformers", dtype="float32", context=16_000)
    stage = Caption(str(tiny.gemma3(tmp_path / "gemma", sharpness=6)), writing=Writing(tokens=12), generator=served_by)
    out = stage(table("a", "bb"))
    loose = Request("a", messages(teacher(*PARIS, "a")), pictures_of(table("a"))[0])
    assert stage.generator is not None
    unguided = stage.generator.ask([loose], Sampling(max_tokens=12))[0].samples[0].text
    stage.close()
    assert out["reason"].to_pylist() == ["cut_off"] * 2
    assert all(detail.startswith("after 12 tokens: {") for detail in out["detail"].to_pylist())
    assert not unguided.strip().startswith("{")


def test_photographs_of_lund_and_their_older_revisions_are_kept_once_each(realdata: Path) -> None:
    """EXIF is the truth, nobody the teacher; every second file is the same picture in other bytes."""
    pairs = [
        (realdata / f"geotagged_photos/OpenSfM__lund_{n}.jpg", realdata / f"dup_pairs/OpenSfM__old__{n}.jpg")
        for n in ("01", "07", "15", "22", "29")
    ]
    paths = [path for pair in pairs for path in pair]
    images = {
        **empty_columns(list(IMAGE), len(paths)),
        "image_id": pa.array([str(path) for path in paths]),
        "uri": pa.array([str(path) for path in paths]),
        "bytes": pa.array([path.read_bytes() for path in paths], pa.large_binary()),
    }
    decode = Decode(DecodeConfig(side=200))
    out = Caption()(Label()(decode(pa.table(images))))
    decode.close()
    assert out["reason"].null_count == len(paths)
    assert np.allclose(out["answer_latitude"], 55.7, atol=0.01) and np.allclose(out["answer_longitude"], 13.195, atol=0.01)
    curated = curate(out, Curation(reasoning=False))
    assert curated.counts()["near_duplicate"] == len(pairs) == len(curated.kept)
    kept = set(curated.kept["image_id"].to_pylist())
    assert all(len(kept & {str(path) for path in pair}) == 1 for pair in pairs)


# An endpoint


def endpoint(server: Served) -> Endpoint:
    return Endpoint(url=server.url, model="m", patience_s=5)


def test_an_endpoint_writes_and_is_asked_with_the_schema() -> None:
    def answers(body: dict[str, Any]) -> Answer:
        return completion("Hello" if body["max_tokens"] == 1 else f"Here it is:\n```json\n{text('a')}\n```\n")

    with served(answers) as server:
        stage = Caption(endpoint=endpoint(server))
        out = stage(table("a"))
        stage.close()
    assert json.loads(out["caption"][0].as_py())["answer"]["coordinates"]["latitude"] == PARIS[0]
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == GEO_CAPTION


def test_an_endpoint_that_refuses_every_picture_is_the_users_to_mend() -> None:
    def answers(body: dict[str, Any]) -> Answer:
        return completion("Hello") if body["max_tokens"] == 1 else fault(400, "this model reads no pictures")

    with served(answers) as server:
        stage = Caption(endpoint=endpoint(server))
        with pytest.raises(UserError, match="reads no pictures"):
            stage(table("a", "b", "c"))
        assert stage(table("a"))["reason"].to_pylist() == ["failed"]  # of one alone nobody knows whose fault it is
        stage.close()


def test_two_teachers_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name one"):
        Caption(str(tmp_path), Endpoint(url="http://127.0.0.1:1/v1", model="m"))


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"attempts": 0}, {"temperature": -1.0}, {"warmer": -0.1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Writing(**wrong)


# Replies


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}\n```", "```\n{}```", "Sure! {} I hope this helps.", "\n  {}\n"])
def test_the_object_is_found_whatever_stands_around_it(wrap: str) -> None:
    found = read_caption(wrap.replace("{}", text("a")), "b")
    assert (found.latitude, found.longitude) == PARIS
    assert json.loads(found.text or "")["image_id"] == "b"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "unparsed"),
        ("{", "unparsed"),
        ("[]", "unparsed"),
        ("}{", "unparsed"),
        ("{}", "unparsed"),
        ('{"answer": {"coordinates": {"latitude": 1, "longitude": 2}}}', "unparsed"),
        ('{"answer": {"coordinates": [1, 2]}}', "unparsed"),
        ('{"answer": {"coordinates": {"latitude": 1e999, "longitude": 2}}}', "out_of_range"),
        ('{"answer": {"coordinates": {"latitude": NaN, "longitude": 2}}}', "out_of_range"),
        ("{" * 100_000 + "}" * 100_000, "unparsed"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "unparsed"),
        ('{"answer": ' + "9" * 6000 + "}", "unparsed"),
        ("I cannot assist with identifying this location.", "refused"),
        ("As an AI language model I decline.", "refused"),
    ],
)
def test_replies_that_are_no_caption(reply: str, reason: str) -> None:
    with pytest.raises(Rejection) as raised:
        read_caption(reply, "a")
    assert raised.value.reason == reason


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field that a caption needs."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from parts(inner, (*path, name))


@pytest.mark.parametrize("path", [path for path in parts(geo_caption("a", *PARIS)) if path != ("image_id",)], ids=".".join)
def test_a_caption_that_lacks_any_field_is_unparsed(path: tuple[str, ...]) -> None:
    caption = geo_caption("a", *PARIS)
    holder = caption
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    with pytest.raises(Rejection) as raised:
        read_caption(json.dumps(caption), "a")
    assert raised.value.reason == "unparsed"


@settings(max_examples=150, deadline=None)
@given(latitude=st.floats(-90, 90), longitude=st.floats(-180, 180), ascii=st.booleans(), name=st.text(max_size=20))
def test_every_whole_caption_is_read_as_it_was_written(latitude: float, longitude: float, ascii: bool, name: str) -> None:
    caption = geo_caption("x", 0, 0)
    caption["answer"]["coordinates"].update(latitude=latitude, longitude=longitude, region=name)
    found = read_caption(json.dumps(caption, ensure_ascii=ascii), "x")
    assert (found.latitude, found.longitude) == (latitude, longitude)
    assert found.text is not None and json.loads(found.text) == caption


@settings(max_examples=200, deadline=None)
@given(junk=st.text(max_size=200), seed=st.integers(0, 1000))
def test_damaged_replies_are_read_or_rejected(junk: str, seed: int) -> None:
    whole = text("a")
    cut = random.Random(seed).randrange(len(whole))
    for reply in (junk, whole[:cut] + junk, whole[:cut] + junk + whole[cut:]):
        try:
            found = read_caption(reply, "a")
        except Rejection:
            continue
        assert abs(found.latitude) <= 90 and abs(found.longitude) <= 180
        assert found.text is not None
        found.text.encode()


def test_half_a_surrogate_does_not_reach_the_table() -> None:
    found = read_caption(text("a").replace('"image_id": "a"', '"image_id": "\\ud800"', 1).replace("asphalt", "\\ud83d"), "a")
    assert found.text is not None
    pa.array([found.text], pa.string())


def test_a_teacher_that_is_late_or_fails_at_everything_is_the_machines_fault(tmp_path: Path) -> None:
    for says, reason in (({"stalls": True}, "no reply within 0.1 s"), ({"refuses": "failed"}, "the table says so")):
        (tmp_path / "scripted.json").write_text(
            json.dumps({"replies": {"probe": ["Hello"], "slow": [{"stalls": True}], "fine": [text("fine")], "*": [says]}})
        )
        stage = Caption(str(tmp_path), generator=GeneratorConfig(deadline_s=0.1))
        with pytest.raises(MachineError, match=f"fails at every one of 3 images: {reason}"):
            stage(table("a", "b", "slow"))
        assert stage(table("slow", "fine"))["reason"].to_pylist() == ["timeout", None]
        stage.close()


def test_an_endpoint_that_is_late_at_everything_is_not_the_users_fault() -> None:
    def answers(body: dict[str, Any]) -> Answer:
        return completion("Hello") if body["max_tokens"] == 1 else Answer({}, seconds=0.6)

    with served(answers) as server:
        stage = Caption(endpoint=endpoint(server), generator=GeneratorConfig(deadline_s=0.2))
        with pytest.raises(MachineError, match=r"fails at every one of 2 images: no reply within 0\.2 s"):
            stage(table("a", "b"))
        stage.close()


def test_a_fault_is_passed_on() -> None:
    fate = Rejection("timeout", "late")
    assert outcome(Reply(fault=fate), "a") is fate
    assert isinstance(Written(None, 0.0, 0.0), Written)
