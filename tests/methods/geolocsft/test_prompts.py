"""Prompts: what is fixed stays fixed, what differs comes after the image, and no coordinate reaches a student."""

from __future__ import annotations

import inspect
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo.parse import places
from geobatch.methods.geolocsft import prompts
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, Form, Prompt, messages, student, teacher
from tests.geo.places import POINTS

FORMS: list[Form] = ["tag", "json"]


@pytest.mark.parametrize("form", FORMS)
def test_hints_change_the_question_only(form: Form) -> None:
    bare, hinted = student(form), student(form, ["Paris\n\n(near)", "Lyon"])
    assert bare.system == hinted.system
    assert hinted.question.endswith(bare.question)
    assert "- Paris (near)\n- Lyon\n" in hinted.question


@pytest.mark.parametrize("form", FORMS)
def test_a_students_prompt_holds_no_place(form: Form) -> None:
    """It is not even given one: `student` has no parameter that could hold it."""
    assert set(inspect.signature(student).parameters) == {"form", "hints"}
    prompt = student(form)
    assert not places(prompt.system) and not places(prompt.question)
    assert not re.search(r"[0-9]\.[0-9]", prompt.system + prompt.question)


@pytest.mark.parametrize("form", FORMS)
def test_the_papers_demands_are_made(form: Form) -> None:
    for prompt in (student(form), teacher(1, 2, "a")):
        order = [prompt.system.index(words) for words in ("25 km", "1 km", "Elimination", "Only then the place")]
        assert order == sorted(order)


def test_each_form_is_asked_for() -> None:
    assert "<answer>\nlat: LATITUDE\nlon: LONGITUDE\n</answer>" in student("tag").system
    assert "<answer>" not in student("json").system + teacher(1, 2, "a").system


@pytest.mark.parametrize("system", [student("json").system, teacher(1, 2, "a").system])
def test_the_json_asked_for_has_the_schemas_fields(system: str) -> None:
    shown = json.loads(system[system.index("{") :])

    def same(example: object, schema: dict[str, object]) -> None:
        if isinstance(example, dict):
            assert list(example) == list(schema["properties"])  # type: ignore[call-overload]
            for name, inner in example.items():
                same(inner, schema["properties"][name])  # type: ignore[index]
        elif isinstance(example, list):
            assert schema["minItems"] == len(example)
            same(example[0], schema["items"])  # type: ignore[arg-type]
        else:
            assert example == schema["description"]

    same(shown, GEO_CAPTION)


@settings(deadline=None)
@given(POINTS, st.text())
def test_the_truth_is_in_the_teachers_question_only(point: tuple[float, float], image_id: str) -> None:
    prompt = teacher(*point, image_id)
    assert prompt.system == teacher(1, 2, "other").system
    assert f"latitude {round(point[0], 5) + 0.0:.5f}, longitude {round(point[1], 5) + 0.0:.5f}" in prompt.question
    assert json.dumps(image_id, ensure_ascii=False) in prompt.question


def test_a_teacher_needs_a_place() -> None:
    with pytest.raises(ValueError, match="no place"):
        teacher(91, 0, "a")


def test_the_chat_has_the_image_between_what_is_fixed_and_what_is_not() -> None:
    asked = messages(Prompt("fixed", "question"))
    assert asked == [
        {"role": "system", "content": [{"type": "text", "text": "fixed"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "question"}]},
    ]
    told = messages(Prompt("fixed", "question"), "")
    assert told[:2] == asked and told[2] == {"role": "assistant", "content": [{"type": "text", "text": ""}]}


def test_every_name_it_promises_is_there() -> None:
    assert all(hasattr(prompts, name) for name in prompts.__all__)
