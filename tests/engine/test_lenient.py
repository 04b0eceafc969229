"""JSON as models write it: beside `json.loads` on what is JSON, and what else is taken; positions; cuts; cost."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.engine.lenient import Node, documents, plain
from tests.geo.written import growth

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)
DOCUMENTS = st.one_of(st.lists(VALUES, max_size=4), st.dictionaries(st.text(), VALUES, max_size=4))


def only(text: str) -> Node:
    """The one document of a text."""
    (node,) = documents(text)
    return node


@settings(deadline=None)
@given(DOCUMENTS, st.sampled_from([None, 0, 2]), st.booleans())
def test_json_is_read_as_json_reads_it(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    node = only(text)
    assert plain(node) == json.loads(text) == value
    assert node.whole and (node.start, node.end) == (0, len(text))


@settings(deadline=None)
@given(
    DOCUMENTS, st.sampled_from(["Sure, here it is:\n```json\n", "a b: c, ", ""]), st.sampled_from(["\n```\nHope it helps", ""])
)
def test_prose_around_it_is_no_matter(value: Any, head: str, tail: str) -> None:
    node = only(head + json.dumps(value) + tail)
    assert plain(node) == value and node.start == len(head)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(0, 1_000))
def test_a_cut_keeps_what_was_whole(value: Any, at: int) -> None:
    """Wherever the text ends, a value called whole is the one that was meant."""
    text = json.dumps(value)
    cut = text[: at % len(text)]

    def check(node: Node, meant: Any) -> None:
        if node.whole:
            assert plain(node) == meant
        elif isinstance(node.value, dict):
            for name, inner in node.value.items():
                check(inner, meant.get(name) if isinstance(meant, dict) else None)
        elif isinstance(node.value, list):
            for inner, one in zip(node.value, meant, strict=False):
                check(inner, one)

    for node in documents(cut):
        assert not node.whole
        check(node, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,}', {"a": 1}),
        ("[1, 2,]", [1, 2]),
        ("{'a': 'b'}", {"a": "b"}),
        ("{'a': 'it\\'s'}", {"a": "it's"}),
        ("{a: 1, b_2: 2}", {"a": 1, "b_2": 2}),
        ('{"a": 1 // first\n, /* then */ "b": 2}', {"a": 1, "b": 2}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('{"a": "a "STOP" sign", "b": 1}', {"a": 'a "STOP" sign', "b": 1}),
        ('{"a": "48°51\'30"N"}', {"a": "48°51'30\"N"}),
        ('{"a": True, "b": None}', {"a": True, "b": None}),
        ('{"a": +1.5, "b": .5, "c": 5.}', {"a": 1.5, "b": 0.5, "c": 5.0}),
        ('{"a": 48.86° N, "b": 2}', {"a": "48.86° N", "b": 2}),
        ('{"a": 1\n "b": 2}', {"a": 1, "b": 2}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": "\\x"}', {"a": "\\x"}),
        ("{}", {}),
        ("[[], {}]", [[], {}]),
    ],
)
def test_what_else_is_taken(text: str, value: Any) -> None:
    node = only(text)
    assert plain(node) == value and node.whole


def test_numbers_that_are_none() -> None:
    node = only('{"a": NaN, "b": -Infinity, "c": 1e999}')
    values = plain(node)
    assert math.isnan(values["a"]) and values["b"] == -math.inf and values["c"] == math.inf
    (digits,) = documents("[" + "7" * 100_000 + "]")
    assert plain(digits) == [math.inf]


def test_every_value_knows_where_it_stands() -> None:
    text = 'So: {"a": {"b": [ 48.85 , "x y" ]}, \'c\': null}.'
    node = only(text)
    array = node.value["a"].value["b"]
    assert text[array.start : array.end] == '[ 48.85 , "x y" ]'
    assert [text[inner.start : inner.end] for inner in array.value] == ["48.85", "x y"]
    assert text[node.value["c"].start : node.value["c"].end] == "null"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": 2.2', {"a": 1, "b": 2.2}),
        ('{"a": 1, "b": "wor', {"a": 1, "b": "wor"}),
        ('{"a": 1, "b":', {"a": 1, "b": None}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, and so on', {"a": 1}),
    ],
)
def test_the_last_value_of_a_cut_document_is_not_whole(text: str, value: dict[str, Any]) -> None:
    node = only(text)
    assert plain(node) == value and not node.whole
    assert node.value["a"].whole and not ("b" in node.value and node.value["b"].whole)


def test_reading_goes_on_after_prose_in_braces() -> None:
    read = [plain(node) for node in documents('{see below} [1] {"a": 1} and {"b": 2}')]
    assert [value for value in read if value] == [[1], {"a": 1}, {"b": 2}]


def test_nesting_ends() -> None:
    assert not any(node.whole for node in documents("[" * 100_000))
    assert plain(only("[" * 60 + "]" * 60))


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="{}[]\"':,\\/*1.eab \n-")))
def test_any_text_is_read_without_an_error(text: str) -> None:
    end = 0
    for node in documents(text):
        assert end <= node.start < len(text) and node.end <= len(text)
        end = node.end
        plain(node)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "{",
            "[",
            '{"a":',
            '{"a":"',
            '"',
            '{"',
            "{'",
            "[1,",
            '{"a":1,',
            "\\",
            '{"\\',
            "{/*",
            "{//",
            "[//\n",
            '{"a":"b"c',
            "{a:1 ",
        ),
        *("{a:1,", '[{"a":1},', '["a"b', '["\n'),
    ],
)
def test_cost_is_linear(piece: str) -> None:
    assert growth(lambda text: list(documents(text)), piece) < 24
