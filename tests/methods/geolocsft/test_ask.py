"""The stage that asks, with a table as its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.request import GeneratorConfig, Reply, Request, Sample, Sampling
from geobatch.errors import MachineError, UserError
from geobatch.methods.geolocsft.agree import Agree, Consensus
from geobatch.methods.geolocsft.ask import Ask, Asking, answered
from geobatch.methods.geolocsft.prompts import tag
from geobatch.schema import PICTURE, empty_columns


def pictures(*names: str, hints: list[list[str]] | None = None) -> pa.Table:
    columns = empty_columns(list(PICTURE), len(names))
    columns |= {
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "picture": pa.array([bytes(12)] * len(names), pa.large_binary()),
        "picture_height": pa.array([2] * len(names), pa.int32()),
        "picture_width": pa.array([2] * len(names), pa.int32()),
    }
    return pa.table({**columns, **({} if hints is None else {"hints": pa.array(hints, pa.list_(pa.string()))})})


@pytest.fixture
def asks(tmp_path: Path) -> Any:
    made: list[Ask] = []

    def make(replies: dict[str, list[Any]], **settings: Any) -> Ask:
        (tmp_path / "scripted.json").write_text(json.dumps({"replies": replies}))
        made.append(Ask(str(tmp_path), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_greedy_answer_with_the_log_probability_of_its_own_characters(asks: Any) -> None:
    text = f"Red soil. {tag(-33.8568, 151.2153)}"
    done = asks({"*": [text]})(pictures("a"))
    (answer,) = done["answers"][0].as_py()
    assert (answer["latitude"], answer["longitude"], answer["greedy"]) == (-33.8568, 151.2153, True)
    assert answer["tokens"] == len(text) and answer["sequence"] == pytest.approx(-0.1 * len(text))
    start, end = text.index("-33"), text.index("151.2153") + len("151.21530")
    assert answer["logprob"] == pytest.approx(-0.1 * (end - start), abs=0.5)
    assert "picture" not in done.column_names


def test_a_greedy_answer_comes_first_and_the_draws_beside_it(asks: Any) -> None:
    said = [tag(1, 1), tag(2, 2), "no idea"]
    found = asks({"*": said}, asking=Asking(answers=4))(pictures("a"))["answers"][0].as_py()
    assert [answer["greedy"] for answer in found] == [True, False, False]
    assert [answer["latitude"] for answer in found] == [1, 1, 2]


def test_without_a_greedy_answer_none_counts_thrice(asks: Any) -> None:
    """Greedy says nothing, the draws 1, 2, 2: with the first counted three times 1 would win."""
    said = ["no idea", tag(1, 1), tag(2, 2), tag(2, 2)]
    table = asks({"*": said}, asking=Asking(answers=5))(pictures("a"))
    assert [answer["greedy"] for answer in table["answers"][0].as_py()] == [False, False, False]
    assert Agree(Consensus(first=3.0))(table)["latitude"][0].as_py() == 2


def test_the_ladder_asks_again_and_keeps_the_first_reason(asks: Any) -> None:
    replies = {"second": ["hm", tag(3, 4)], "never": ["I am sorry, I cannot determine this.", "hm", "hm"], "*": [tag(5, 6)]}
    done = asks(replies, asking=Asking(attempts=2))(pictures("second", "never", "other"))
    assert done["answers"][0].as_py()[0]["latitude"] == 3 and done["answers"][2].as_py()[0]["latitude"] == 5
    assert done["reason"].to_pylist() == [None, "refused", None] and done["stage"][1].as_py() == "ask"
    assert "I am sorry" in done["detail"][1].as_py()
    once = asks(replies, asking=Asking(attempts=1))(pictures("second"))
    assert once["reason"][0].as_py() == "unparsed"


def test_hints_reach_the_question_and_nothing_of_the_answer_does(asks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, seen = asks({"*": [tag(5, 6)]}), []
    ask = stage.generator.ask

    def spy(requests: list[Request], sampling: Sampling) -> list[Reply]:
        seen.extend(requests)
        return ask(requests, sampling)  # type: ignore[no-any-return]

    monkeypatch.setattr(stage.generator, "ask", spy)
    stage(pictures("a", "b", hints=[["lat: 1.0000, lon: 2.0000"], []]))
    questions = [request.messages[1]["content"][1]["text"] for request in seen]
    assert "- lat: 1.0000, lon: 2.0000" in questions[0] and "lat:" not in questions[1]
    assert seen[0].messages[0] == seen[1].messages[0], "the instructions differ: no prefix is shared"
    assert seen[0].picture is not None and seen[0].picture.shape == (2, 2, 3)


def test_an_engine_that_fails_at_everything_is_the_machines_fault(asks: Any) -> None:
    with pytest.raises(MachineError, match="at every one of 3 images"):
        asks({"*": [{"refuses": "failed"}]})(pictures("a", "b", "c"))
    assert asks({"a": [{"refuses": "failed"}], "*": [tag(5, 6)]})(pictures("a", "b"))["reason"].to_pylist() == ["failed", None]
    with pytest.raises(MachineError, match=r"at every one of 2 images: no reply within 0\.1 s"):
        asks({"probe": ["Hello"], "*": [{"stalls": True}]}, generator=GeneratorConfig(deadline_s=0.1))(pictures("a", "b"))


def test_a_reader_that_breaks_costs_its_reply_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str, finished: bool) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("geobatch.methods.geolocsft.ask.parse", breaks)
    fate = answered(Sample("{" * 9, -1.0, (-1.0,), (0,), "stop"))
    assert not isinstance(fate, dict) and fate.reason == "failed" and "RecursionError" in fate.detail


@pytest.mark.parametrize(
    "wrong", [{"answers": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"attempts": 0}, {"warmer": -1.0}, {"tokens": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Asking(**wrong)


def test_a_table_that_is_none_and_a_backend_that_cannot(tmp_path: Path) -> None:
    (tmp_path / "scripted.json").write_text("[]")
    with pytest.raises(UserError, match="is no table"):
        Ask(str(tmp_path))
    with pytest.raises(UserError, match="holds a model on one GPU"):
        Ask(str(tmp_path / "none"), generator=GeneratorConfig(backend="transformers", tensor_parallel=2))


def test_draws_do_not_depend_on_what_else_is_asked(asks: Any) -> None:
    replies = {f"{n}": [tag(n, n), tag(n, -n)] for n in range(10)}
    stage = asks(replies, asking=Asking(answers=3))
    all_at_once = stage(pictures(*replies))["answers"].to_pylist()
    alone = [stage(pictures(name))["answers"][0].as_py() for name in replies]
    assert all_at_once == alone
    assert np.unique([each[0]["latitude"] for each in alone]).size == 10
