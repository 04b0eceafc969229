"""The stage that puts photographs into words, with a table as its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine.request import GeneratorConfig, Sample
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.methods.ngcg.describe import Describe, Describing, description, messages
from geobatch.schema import PICTURE, empty_columns


def pictures(*names: str) -> pa.Table:
    columns = empty_columns(list(PICTURE), len(names))
    columns |= {
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "picture": pa.array([bytes(12)] * len(names), pa.large_binary()),
        "picture_height": pa.array([2] * len(names), pa.int32()),
        "picture_width": pa.array([2] * len(names), pa.int32()),
    }
    return pa.table(columns)


@pytest.fixture
def describes(tmp_path: Path) -> Iterator[Any]:
    made: list[Describe] = []

    def make(replies: dict[str, list[Any]], **settings: Any) -> Describe:
        (tmp_path / "scripted.json").write_text(json.dumps({"replies": replies}))
        made.append(Describe(str(tmp_path), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_description_is_the_text_and_the_photograph_is_dropped(describes: Any) -> None:
    done = describes({"*": ["Two lanes run\nstraight  between fields. <think>no</think> A river lies east."]})(
        pictures("a", "b")
    )
    assert done["text"].to_pylist() == ["Two lanes run straight between fields. A river lies east."] * 2
    assert not {"picture", "picture_width", "picture_height"} & set(done.column_names)


def test_what_is_no_description_is_asked_for_again_and_then_rejected_for_its_first_reason(describes: Any) -> None:
    replies = {
        "refuses": ["I'm sorry, I can't help with that."],
        "comes round": ["Sorry, no.", "Houses with red roofs."],
        "blank": ["  \n-"],
        "thinks": ["<think>a house, perhaps, or"],
        "denied": [{"refuses": "too_long"}],
        "worse": ["", "I cannot do that."],
        "*": ["A street."],
    }
    done = describes(replies)(pictures("refuses", "comes round", "blank", "thinks", "denied", "worse", "plain")).to_pylist()
    assert [(row["text"], row["reason"]) for row in done] == [
        (None, "refused"),
        ("Houses with red roofs.", None),
        (None, "unparsed"),
        (None, "cut_off"),
        (None, "too_long"),
        (None, "unparsed"),
        ("A street.", None),
    ]
    assert {row["stage"] for row in done} == {None, "describe"}
    once = describes(replies, describing=Describing(attempts=1))(pictures("comes round")).to_pylist()
    assert once[0]["reason"] == "refused"


def test_a_picture_that_kills_the_engine_is_one_rejection(describes: Any) -> None:
    done = describes({"b": [{"dies": True}], "*": ["A field."]})(pictures("a", "b", "c")).to_pylist()
    assert [row["reason"] for row in done] == [None, "crashed", None]
    assert [row["text"] for row in done] == ["A field.", None, "A field."]


def test_an_engine_that_fails_at_everything_is_the_machines_fault(describes: Any) -> None:
    stage = describes({"*": [{"refuses": "failed"}]}, generator=GeneratorConfig(deadline_s=5))
    with pytest.raises(MachineError, match="fails at every one of 2 images"):
        stage(pictures("a", "b"))


def test_a_cut_off_reply_keeps_its_whole_sentences(describes: Any) -> None:
    told = {"long": ["A lake. A canal. And a bri" + "d" * 100], "short": ["A" * 100]}
    done = describes(told, describing=Describing(tokens=30))(pictures("long", "short")).to_pylist()
    assert done[0]["text"] == "A lake. A canal." and done[1]["reason"] == "cut_off"


def test_a_real_model_is_asked_with_its_own_template(gemma: Path) -> None:
    """Random weights describe nothing in particular; they do it twice alike, and end as a text or as a known reason."""
    how = GeneratorConfig(backend="transformers", dtype="float32", context=4096)
    stage = Describe(str(gemma), Describing(tokens=12, attempts=1), how)
    try:
        done, again = (stage(pictures("a", "b")) for _ in range(2))
    finally:
        stage.close()
    assert done.equals(again)
    for row in done.to_pylist():
        assert row["text"] or row["reason"] in ("cut_off", "unparsed", "refused"), row


@given(st.text(max_size=60), st.sampled_from(["stop", "length"]))
def test_any_reply_is_a_text_without_odd_blanks_or_a_reason(text: str, finish: str) -> None:
    found = description(Sample(text, 0.0, (), (), finish))
    if isinstance(found, Rejection):
        assert found.reason in ("refused", "unparsed", "cut_off")
    else:
        assert found and found == " ".join(found.split()) and "<think>" not in found.lower()


def test_a_remark_within_a_description_is_no_refusal() -> None:
    said = "A narrow road between hedges. The exact use of the shed cannot be determined."
    assert description(Sample(said, 0.0, (), (), "stop")) == said


def test_prompt_and_settings_decide_and_bad_ones_are_refused() -> None:
    before = Describing().decides()
    assert Describing(seed=1).decides() != before and len(before["prompt"]) == 64
    assert [turn["role"] for turn in messages()] == ["system", "user"]
    assert {"type": "image"} in messages()[1]["content"]
    with pytest.raises(UserError, match="at least 1 token"):
        Describing(tokens=0)
