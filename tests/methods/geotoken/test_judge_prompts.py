"""The judge's questions and how its replies are read."""

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
import xgrammar
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geobatch.engine.request import Reply, Sample
from geobatch.errors import Rejection
from geobatch.methods.geotoken.judge_prompts import messages, schema, verdict
from geobatch.methods.geotoken.options import Option
from tests.methods.geotoken.judging import LYON, PARIS, ROME

POOL = [Option(*PARIS, 12), Option(*ROME, 10, 0.81), Option(*LYON)]
Mode = Literal["choose", "free"]


def said(mode: Mode, text: str, finish: str = "stop", pool: list[Option] = POOL) -> Option | str:
    """What a reply decides, or the reason why nothing."""
    found = verdict(mode, Reply((Sample(text, -1.0, (), (), finish),)), pool)
    return found.reason if isinstance(found, Rejection) else found


CHOICES = {
    '{"choice": 2}': 2,
    '{"choice": "3"}': 3,
    '{"choice": 2.0}': 2,
    '```json\n{"choice": 2}\n```': 2,
    "{'choice': 2,}": 2,
    "2": 2,
    " **3**.": 3,
    "- 2": 2,
    "#1": 1,
    '{"choice": 1} No: {"choice": 2}': 2,
    '<think>{"choice": 1}? Rather not.</think>{"choice": 3}': 3,
    '{"reason": "signs in Italian, 3 of them", "choice": 2}': 2,
    "41.89020, 12.49220": 2,
    '{"latitude": 45.76401, "longitude": 4.83569}': 3,
    "It is the third guess, 45.76400, 4.83570.": 3,
}


@pytest.mark.parametrize(("text", "number"), CHOICES.items())
def test_a_choice_in_any_dress(text: str, number: int) -> None:
    assert said("choose", text) is POOL[number - 1]


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ('{"choice": 4}', "stop", "out_of_range"),
        ('{"choice": 1} {"choice": 9}', "stop", "out_of_range"),
        ("-1", "stop", "out_of_range"),
        ('{"choice": 1', "length", "cut_off"),
        ('{"choice": 1', "stop", "cut_off"),
        ("1", "length", "cut_off"),
        ('{"choice": null}', "stop", "unparsed"),
        ('{"choice": [1, 2]}', "stop", "unparsed"),
        ('{"choice": Infinity}', "stop", "unparsed"),
        ("45.76460, 4.83570", "stop", "unparsed"),  # 67 m beside Lyon
        ("Guess 2, I think, but it may be 3.", "stop", "unparsed"),
        ("I'm sorry, I can't help with identifying places.", "stop", "refused"),
    ],
)
def test_a_reply_that_names_no_number_of_the_pool(text: str, finish: str, reason: str) -> None:
    assert said("choose", text, finish) == reason


@pytest.mark.parametrize("integers", ['{"latitude": -33, "longitude": -70}', "-33, -70"])
def test_a_free_answer_keeps_its_signs(integers: str) -> None:
    assert said("free", integers) == Option(-33.0, -70.0)


def test_a_hint_repeated_in_five_decimals_is_that_place() -> None:
    exact = [Option(48.858401234, 2.294499), *POOL[1:]]
    assert said("free", '{"latitude": 48.85840, "longitude": 2.29450}', pool=exact) is exact[0]
    other = said("free", '{"latitude": 48.85850, "longitude": 2.29450}', pool=exact)  # 11 m away
    assert isinstance(other, Option) and other is not exact[0] and other.latitude == 48.8585
    assert said("free", '{"latitude": 1.5, "longitude": 2.5}', pool=[]) == Option(1.5, 2.5)


def test_no_reply_is_no_place() -> None:
    found = verdict("free", Reply(()), POOL)
    assert isinstance(found, Rejection) and found.reason == "unparsed"
    fault = Rejection("timeout", "late")
    assert verdict("choose", Reply(fault=fault), POOL) is fault


@settings(max_examples=300, deadline=None)
@example('{"choice": 1e999}')
@example('{"choice": "' + "9" * 5000 + '"}')
@example('{"choice":' * 80)
@given(st.one_of(st.text(), st.text(alphabet='{}[]":choice0123456789.-, <think/>e')))
def test_anything_at_all_is_read_or_refused(text: str) -> None:
    for mode in ("choose", "free"):
        found = verdict(mode, Reply((Sample(text, -1.0, (), (), "stop"),)), POOL)  # type: ignore[arg-type]
        assert isinstance(found, Option) or found.reason in ("unparsed", "refused", "out_of_range", "cut_off")
        if mode == "choose" and isinstance(found, Option):
            assert any(found is each for each in POOL)


def test_a_reader_that_breaks_costs_its_reply_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("geobatch.methods.geotoken.judge_prompts.parse", breaks)
    assert said("free", "x") == "failed"


@pytest.mark.parametrize("size", [1, 2, 12, 36])
def test_the_schema_lets_the_pools_numbers_through_and_no_other(size: int) -> None:
    form = json.loads(schema("choose", size))
    jsonschema.Draft202012Validator.check_schema(form)
    grammar = xgrammar.Grammar.from_json_schema(schema("choose", size), any_whitespace=False)
    for number in range(-1, size + 12):
        text = json.dumps({"choice": number})
        inside = 1 <= number <= size
        assert jsonschema.Draft202012Validator(form).is_valid({"choice": number}) == inside
        assert _accepts(grammar, text) == inside
    assert not _accepts(grammar, '{"choice": 1, "why": "x"}') and not _accepts(grammar, "{}")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ('{"latitude": 48.85840, "longitude": 2.29450}', True),
        ('{"latitude": -33, "longitude": 180}', True),
        ('{"latitude": -90.0, "longitude": -180.0}', True),
        ('{"latitude": 91.0, "longitude": 0.0}', False),
        ('{"latitude": 1.0, "longitude": 180.5}', False),
        ('{"latitude": "1.0", "longitude": 2.0}', False),
        ('{"latitude": 1.0}', False),
    ],
)
def test_the_schema_of_a_free_answer(text: str, inside: bool) -> None:
    grammar = xgrammar.Grammar.from_json_schema(schema("free", 0), any_whitespace=False)
    assert _accepts(grammar, text) == inside


def _accepts(grammar: Any, text: str) -> bool:
    return bool(xgrammar.testing._is_grammar_accept_string(grammar, text))


def test_what_is_told() -> None:
    system, user = messages("choose", POOL)
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["image", "text"] and system["role"] == "system"
    text = user["content"][1]["text"]
    assert "1. 48.85840, 2.29450\n2. 41.89020, 12.49220\n3. 45.76400, 4.83570\n" in text and "3" in text.splitlines()[-1]
    assert "similar" not in text and '{"choice": NUMBER}' in system["content"][0]["text"]
    told = messages("choose", POOL, draws=30)[1]["content"][1]["text"]
    assert "1. 48.85840, 2.29450 (12 of the model's 30 guesses)\n" in told
    assert "2. 41.89020, 12.49220 (10 of the model's 30 guesses; a similar photograph was taken there, cosine 0.81)\n" in told
    assert "3. 45.76400, 4.83570\n" in told
    free = messages("free", [Option(-1e-9, -180.0)])
    assert '"latitude"' in free[0]["content"][0]["text"] and "1. 0.00000, -180.00000\n" in free[1]["content"][1]["text"]
    assert "choice" not in free[0]["content"][0]["text"]
