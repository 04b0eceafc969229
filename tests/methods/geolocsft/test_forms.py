"""The answer forms: what the grammars take and refuse, what a student is trained to write, what betrays the truth."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.methods.geolocsft.forms import (
    GEO_CAPTION,
    IMAGE_ID,
    REASONED_TAG_PATTERN,
    TAG_PATTERN,
    Form,
    caption_text,
    leaks,
    tag,
)
from tests.geo.places import POINTS
from tests.methods.geolocsft.captions import CAPTIONS, caption

FORMS: list[Form] = ["tag", "json"]


def accepts(compiled: Any, text: str) -> bool:
    """Whether a grammar takes a text, whole."""
    matcher = xgrammar.GrammarMatcher(compiled)
    return bool(matcher.accept_string(text) and matcher.accept_token(256))


@pytest.fixture(scope="module")
def grammars() -> dict[str, Any]:
    """The compiled grammars of the tag, of the reasoning with its tag, and of the geo-caption, over a vocabulary of bytes."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    known = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, vocab_size=257, stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(known, max_threads=1)
    return {
        "tag": compiler.compile_regex(TAG_PATTERN),
        "reasoned": compiler.compile_regex(REASONED_TAG_PATTERN),
        "caption": compiler.compile_json_schema(json.dumps(GEO_CAPTION), any_whitespace=False),
    }


@settings(deadline=None)
@given(POINTS)
def test_a_tag_is_what_its_pattern_says(point: tuple[float, float]) -> None:
    written = tag(*point)
    assert re.fullmatch(TAG_PATTERN, written)
    latitude, longitude = (float(line.split()[1]) for line in written.splitlines()[1:3])
    assert abs(latitude - point[0]) <= 5.1e-6 and abs(longitude - point[1]) <= 5.1e-6


def test_a_tag_as_published() -> None:
    assert tag(48.8584, 2.2945) == "<answer>\nlat: 48.85840\nlon: 2.29450\n</answer>"
    assert tag(-0.000001, 0.000009) == "<answer>\nlat: 0.00000\nlon: 0.00001\n</answer>"


@pytest.mark.parametrize("point", [(90.1, 0), (0, -180.1), (float("nan"), 0), (0, float("inf"))])
def test_a_tag_needs_a_place(point: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no place"):
        tag(*point)


RANGE = pytest.mark.parametrize(
    ("latitude", "longitude", "fits"),
    [
        ("90.00000", "180.00000", True),
        ("-90.00000", "-180.00000", True),
        ("89.99999", "179.99999", True),
        ("0.00000", "-0.50000", True),
        ("90.00001", "0.00000", False),
        ("100.00000", "0.00000", False),
        ("0.00000", "180.00001", False),
        ("0.00000", "190.00000", False),
        ("07.00000", "0.00000", False),
        ("7.0000", "0.00000", False),
        ("7.000000", "0.00000", False),
        ("+7.00000", "0.00000", False),
    ],
)


@RANGE
def test_patterns_hold_the_range(latitude: str, longitude: str, fits: bool) -> None:
    written = f"<answer>\nlat: {latitude}\nlon: {longitude}\n</answer>"
    assert bool(re.fullmatch(TAG_PATTERN, written)) == fits
    assert bool(re.fullmatch(REASONED_TAG_PATTERN, f"Left-hand traffic.\n{written}")) == fits


@RANGE
def test_grammars_of_the_patterns_hold_the_range(latitude: str, longitude: str, fits: bool, grammars: dict[str, Any]) -> None:
    written = f"<answer>\nlat: {latitude}\nlon: {longitude}\n</answer>"
    assert accepts(grammars["tag"], written) == fits
    assert accepts(grammars["reasoned"], f"Left-hand traffic.\n{written}") == fits


def test_reasoning_comes_to_an_end(grammars: dict[str, Any]) -> None:
    endless = "a" * 6_001 + tag(1, 2)
    assert not accepts(grammars["reasoned"], endless)
    assert accepts(grammars["reasoned"], endless[1:])


@settings(max_examples=20, deadline=None)
@given(CAPTIONS)
def test_what_a_student_learns_is_what_guided_decoding_allows(grammars: dict[str, Any], given_caption: dict[str, Any]) -> None:
    jsonschema.validate(given_caption, GEO_CAPTION)
    written = caption_text(given_caption, "json")
    assert accepts(grammars["caption"], written) and "\\" not in written
    outline = caption_text(given_caption, "tag")
    assert re.fullmatch(REASONED_TAG_PATTERN, outline) and accepts(grammars["reasoned"], outline)


def test_the_grammar_refuses_what_the_schema_refuses(grammars: dict[str, Any]) -> None:
    good = caption(48.8584, 2.2945)
    broken: list[dict[str, Any]] = []
    for change in ("north", "extra", "reasons", "features", "empty", "missing"):
        other = copy.deepcopy(good)
        if change == "north":
            other["answer"]["coordinates"]["latitude"] = 90.5
        elif change == "extra":
            other["mood"] = "sunny"
        elif change == "reasons":
            other["thinking"]["elimination_similar_regions"][0]["reasons"].append("a fourth")
        elif change == "features":
            other["answer"]["final_location_confirmation"]["decisive_features"].pop()
        elif change == "empty":
            other["thinking"]["25km_analysis"]["climate_features"] = ""
        else:
            del other["thinking"]["terrain_soil"]
        broken.append(other)
    assert accepts(grammars["caption"], json.dumps(good))
    assert not accepts(grammars["caption"], json.dumps(good, indent=1)), "blanks up to the token limit would be allowed"
    for other in broken:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, GEO_CAPTION)
        assert not accepts(grammars["caption"], json.dumps(other))


def _unquoted(value: Any) -> Any:
    """The value with its strings as a student may write them."""
    if isinstance(value, dict):
        return {name: _unquoted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_unquoted(inner) for inner in value]
    return " ".join(value.replace('"', "'").replace("\\", "/").split()) if isinstance(value, str) else value


@settings(max_examples=50, deadline=None)
@given(CAPTIONS)
def test_json_text_is_the_caption_in_the_schemas_order(given_caption: dict[str, Any]) -> None:
    shuffled = dict(reversed(given_caption.items()))
    shuffled["answer"] = dict(reversed(given_caption["answer"].items()))
    read = json.loads(caption_text(shuffled, "json"))
    where = given_caption["answer"]["coordinates"]
    assert list(read) == list(GEO_CAPTION["properties"]) and list(read["answer"]) == [
        "coordinates",
        "final_location_confirmation",
    ]
    assert read["image_id"] == IMAGE_ID
    assert _unquoted(read["thinking"]) == _unquoted(given_caption["thinking"])
    for name in ("latitude", "longitude"):
        assert abs(read["answer"]["coordinates"].pop(name) - where[name]) <= 5.1e-6
    rest = {**given_caption["answer"], "coordinates": {"region": where["region"]}}
    assert _unquoted(read["answer"]) == _unquoted(rest)


def test_tiny_coordinates_are_written_without_an_exponent() -> None:
    assert '"latitude": 0.00001, "longitude": -0.00002,' in caption_text(caption(0.00001, -0.00002), "json")


def test_what_no_file_could_hold_is_left_out() -> None:
    told = caption(1, 2)
    told["thinking"]["terrain_soil"]["terrain_details"] = "a\x00b\ud83dc\r\n d"
    for form in FORMS:
        assert "a bc d" in caption_text(told, form).encode().decode()


def test_the_outline_says_everything_and_then_the_tag() -> None:
    told = caption(-33.85678, 151.2153)
    told["thinking"]["terrain_soil"]["terrain_details"] = "slope <5 %"
    written = caption_text(told, "tag")
    reasoning, end = written[: written.index("<answer>")], written[written.index("<answer>") :]
    assert end == tag(-33.85678, 151.2153)
    assert "<" not in reasoning and "slope less than 5 %" in reasoning
    assert "  - road engineering:\n    - surface materials: " in reasoning
    assert reasoning.index("25km analysis") < reasoning.index("1km analysis") < reasoning.index("elimination")
    assert reasoning.index("elimination") < reasoning.index("conclusion")
    for region in told["thinking"]["elimination_similar_regions"]:
        assert f"- {region['eliminated_region']}: {'; '.join(region['reasons'])}" in reasoning
    assert len(written) < len(caption_text(told, "json"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("thinking", "1km_analysis"), None),
        (("thinking", "elimination_similar_regions"), "none"),
        (("answer", "coordinates", "latitude"), "48.85"),
        (("answer", "coordinates", "latitude"), True),
        (("answer", "coordinates", "longitude"), 190),
        (("answer", "coordinates", "region"), 5),
    ],
)
def test_a_caption_without_its_parts_is_refused(path: tuple[str, ...], value: Any) -> None:
    told: Any = caption(48.8584, 2.2945)
    inner = told
    for name in path[:-1]:
        inner = inner[name]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    for form in FORMS:
        with pytest.raises(ValueError, match=r"needs|no place"):
            caption_text(told, form)


@pytest.mark.parametrize(
    "betraying",
    [
        *("around 48.86 degrees north", "at 2,294 east", "near 48.8584", "48°51′30″N", "roughly 48° 51' north"),
        *("consistent with the given coordinates", "The provided GPS position fits", "as the ground truth says"),
        *(
            "The coordinates place it in Paris",
            "matches the location given" + " coordinates",
            "per its EXIF data",
            "the known location",
        ),
        "latitude and longitude as provided",
    ],
)
def test_reasoning_that_betrays_the_truth(betraying: str) -> None:
    told = caption(48.8584, 2.2945)
    assert not leaks(told, 48.8584, 2.2945)
    told["thinking"]["elimination_similar_regions"][1]["reasons"][2] = betraying
    assert leaks(told, 48.8584, 2.2945)


@pytest.mark.parametrize(
    "honest",
    ["lanes 3.20 m wide", "around 48° north", "within 25 km", "built in 1889", "the location of signs", "coordinated colours"],
)
def test_reasoning_that_betrays_nothing(honest: str) -> None:
    told = caption(48.8584, 2.2945)
    told["thinking"]["terrain_soil"]["terrain_details"] = honest
    assert not leaks(told, 48.8584, 2.2945)


def test_the_answer_may_hold_the_truth_but_not_its_source() -> None:
    told = caption(48.8584, 2.2945)
    told["answer"]["final_location_confirmation"]["confirmed_location"] = "48.8584, 2.2945"
    assert not leaks(told, 48.8584, 2.2945)
    told["answer"]["final_location_confirmation"]["accuracy_assessment"] = "exact, by the given coordinates"
    assert leaks(told, 48.8584, 2.2945)


@settings(deadline=None)
@given(POINTS, st.sampled_from(["{:.5f}, {:.5f}", "lat {:.2f} lon {:.2f}", "{:.3f} / {:.3f}"]))
def test_any_truth_in_the_reasoning_is_seen(point: tuple[float, float], written: str) -> None:
    told = caption(*point)
    told["thinking"]["25km_analysis"]["terrain_characteristics"] = f"A plain ({written.format(*point)}) by the sea."
    assert leaks(told, *point)
