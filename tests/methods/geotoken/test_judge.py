"""The judge on tables of replies, a real endpoint, and tiny models: what it changes, what it leaves, and what is marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.remote import KEY, Endpoint
from geobatch.engine.request import Dead, GeneratorConfig, Request
from geobatch.engine.scripted import Scripted
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.calibration import Calibration, Mixture
from geobatch.methods.geotoken.config import Selection
from geobatch.methods.geotoken.judge import SICK, Judge, JudgeSettings
from geobatch.methods.geotoken.judge_prompts import schema
from geobatch.methods.geotoken.judge_record import COLUMNS, judged
from geobatch.methods.geotoken.select import Select
from geobatch.schema import CONFIDENCE, LOCATED, RADII_KM, probability_column
from geobatch.stage import rejected
from tests.engine import endpoint, tiny
from tests.methods.geotoken.judging import BESIDE_PARIS, CAIRO, LYON, PARIS, ROME, SYDNEY, Row, table_of

FREE = '{"latitude": -33.8568, "longitude": 151.2153}'


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Callable[..., Judge]]:
    """Judges that answer from a table, closed at the end."""
    made: list[Judge] = []

    def make(replies: dict[str, list[Any]], deadline_s: float = 20.0, **settings: Any) -> Judge:
        (tmp_path / "scripted.json").write_text(json.dumps({"replies": {"probe": ["Hello"], **replies}}))
        config = GeneratorConfig(deadline_s=deadline_s)
        made.append(Judge(JudgeSettings(model=str(tmp_path), generator=config, **settings)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def untouched(done: pa.Table, before: pa.Table, *but: str) -> bool:
    """Whether all columns that both have are the same, but those named."""
    names = [name for name in done.column_names if name not in but]
    return bool(done.select(names).equals(before.select(names)))


def test_the_number_chosen_becomes_the_place(judge: Callable[..., Judge]) -> None:
    before = table_of(Row(fallback="nothing to compare with"))
    done = judge({"*": ['{"choice": 2}']})(before)  # 1 the place, 2 Rome with 10 draws, 3 Lyon with 8, 4 Cairo, a neighbour
    assert (done["latitude"][0].as_py(), done["longitude"][0].as_py()) == ROME
    assert done["chosen_by"][0].as_py() == "judge" and done["fallback"][0].as_py() is None and done["score"][0].as_py() is None
    assert "picture" not in done.column_names and "picture_width" not in done.column_names
    far = {place: float(haversine_km(*ROME, *place)) for place in (PARIS, LYON, ROME)}
    counts = {PARIS: 12, LYON: 8, ROME: 10}
    for km in RADII_KM:
        share = sum(counts[place] for place in counts if far[place] <= km) / 30
        assert done[probability_column(km)][0].as_py() == pytest.approx(share, abs=1e-6)
    assert done["radius_90_km"][0].as_py() == pytest.approx(far[PARIS], rel=0.02)  # Rome 10, Lyon 18, Paris 30 of 30
    assert untouched(done.select(["area", "area_probability", "candidates", "neighbours"]), before)


PLAIN = Mixture(
    mean=(0.0,) * 7,
    deviation=(1.0,) * 7,
    scale=(3.0, *[0.1] * 7),
    weights=tuple((share, *[0.05 * share] * 7) for share in (1.0, 0.0, 0.5, -2.0)),
    shares=((0.125,) * 8,) * 3,
    temperature=0.05,
    power=0.3,
)
FITTED = Calibration(
    mixture=PLAIN, neighbours=1, platt=((0.2, 0.8),) * 5, area=(0.0, 1.0), radius=1.3, selector="x", images=1, figures={}
)


@pytest.mark.parametrize("calibration", [None, FITTED])
@pytest.mark.parametrize("calibrated", [True, False])
def test_what_is_stated_of_a_moved_place_is_what_select_states_of_it(
    tmp_path: Path, calibration: Calibration | None, calibrated: bool
) -> None:
    """Log-probability chooses the first of equals, Rome; the judge is brought there from Paris."""
    row = Row(candidates=((*ROME, 3), (*PARIS, 12), (*LYON, 15)))
    selection = Selection(selector="log_probability", calibrated=calibrated)
    stated = [probability_column(km) for km in RADII_KM] + ["radius_90_km"]
    columns = [field.name for field in (*LOCATED, *CONFIDENCE) if field.name not in ("candidates", "neighbours")]
    there = Select(selection, None, calibration)(table_of(row).drop_columns(columns))
    assert there["latitude"][0].as_py() == ROME[0]
    if calibration is not None:
        calibration.save(tmp_path)
    generator = Generator(Scripted({"*": ['{"choice": 3}']}))  # 2 is Lyon
    stage = Judge(JudgeSettings(model="x"), selection, str(tmp_path), generator)
    moved = stage(table_of(row))
    stage.close()
    assert moved["latitude"][0].as_py() == ROME[0]
    for name in stated:
        assert moved[name][0].as_py() == pytest.approx(there[name][0].as_py(), rel=1e-5), name
    assert moved["probability_2500km"][0].as_py() > 0.5


def test_a_neighbours_place_can_be_chosen(judge: Callable[..., Judge]) -> None:
    done = judge({"*": ['{"choice": 4}']})(table_of(Row()))
    assert (done["latitude"][0].as_py(), done["longitude"][0].as_py()) == CAIRO
    assert done[probability_column(200)][0].as_py() == 0


@pytest.mark.parametrize(
    ("mode", "reply"), [("choose", '{"choice": 1}'), ("free", '{"latitude": 48.85841, "longitude": 2.2945}')]
)
def test_a_judge_that_agrees_changes_no_bit_but_the_mark(judge: Callable[..., Judge], mode: str, reply: str) -> None:
    before = table_of(Row())
    done = judge({"*": [reply]}, mode=mode)(before)
    assert done["chosen_by"][0].as_py() == "judge"
    assert untouched(done, before, "chosen_by")


def test_a_free_answer_may_be_anywhere(judge: Callable[..., Judge]) -> None:
    done = judge({"*": [FREE]}, mode="free")(table_of(Row()))
    assert (done["latitude"][0].as_py(), done["longitude"][0].as_py()) == SYDNEY
    assert [done[probability_column(km)][0].as_py() for km in RADII_KM] == [0] * 5
    nearest_to_farthest = sorted(float(haversine_km(*SYDNEY, *place)) for place in (PARIS, LYON, ROME))
    assert nearest_to_farthest[0] < done["radius_90_km"][0].as_py() <= nearest_to_farthest[-1] * 1.01


TROUBLE = {
    "choose": {
        "unparsed": ["hm", '{"number": 2}', '{"choice": 1.5}', '{"choice": true}', "1.00000, 1.00000"],
        "out_of_range": ['{"choice": 0}', '{"choice": 5}', '{"choice": -1}', '{"choice": 1e9}', "7"],
        "refused": [{"refuses": "refused"}, "I am sorry, I cannot determine this.", '{"latitude": null, "longitude": null}'],
        "cut_off": ['{"choice": 1', '{"choice"' + " " * 80, "<think>perhaps {'choice': 2}, or else " + "x" * 80],
        "timeout": [{"stalls": True}],
        "crashed": [{"dies": True}],
        "too_long": [{"refuses": "too_long"}],
        "failed": [{"refuses": "failed"}],
    },
    "free": {
        "unparsed": ["", "hm", '{"choice": 2}'],
        "out_of_range": ['{"latitude": 91.0, "longitude": 0.5}', '{"latitude": NaN, "longitude": 2}'],
        "refused": [
            "I cannot identify the location.",
            '{"latitude": 0, "longitude": 0} I am sorry, I do not know; I cannot tell.',
        ],
        "cut_off": ['{"latitude": 48.85841, "longitude": 2.2', '{"latitude": ' + "1" * 99],
        "timeout": [{"stalls": True}],
        "crashed": [{"dies": True}],
        "too_long": [{"refuses": "too_long"}],
        "failed": [{"refuses": "failed"}],
    },
}


@pytest.mark.parametrize(
    ("mode", "reason", "reply"),
    [(mode, reason, reply) for mode, kinds in TROUBLE.items() for reason, replies in kinds.items() for reply in replies],
)
def test_a_reply_that_decides_nothing_leaves_the_selectors_place_and_says_why(
    judge: Callable[..., Judge], mode: str, reason: str, reply: Any
) -> None:
    before = table_of(Row("bad", fallback="similarity: nothing to compare with"), Row("good"))
    good = '{"choice": 2}' if mode == "choose" else FREE
    done = judge({"bad": [reply], "*": [good]}, mode=mode, deadline_s=0.3)(before)
    assert done["chosen_by"].to_pylist() == ["expected_distance", "judge"]
    assert done["fallback"].to_pylist() == [f"judge: {reason}; similarity: nothing to compare with", None]
    assert untouched(done[:1], before[:1], "fallback"), "more than the mark has changed"
    assert (done["latitude"][0].as_py(), done["longitude"][0].as_py()) == PARIS
    assert done["reason"].to_pylist() == [None, None], "a judge rejects nobody"


def test_zero_zero_is_a_place_where_the_judge_says_so(judge: Callable[..., Judge]) -> None:
    done = judge({"*": ['{"latitude": 0.0, "longitude": 0.0}']}, mode="free")(table_of(Row()))
    assert (done["latitude"][0].as_py(), done["longitude"][0].as_py(), done["chosen_by"][0].as_py()) == (0, 0, "judge")


SURE = [0.2, 0.5, None, 0.9, 1.0]


@pytest.mark.parametrize(("below", "asked"), [(0.0, "c"), (0.5, "ac"), (0.9, "abc"), (0.95, "abcd"), (1.0, "abcde")])
def test_only_the_unsure_go_and_all_are_counted(judge: Callable[..., Judge], below: float, asked: str) -> None:
    before = table_of(*(Row(name, sure=sure) for name, sure in zip("abcde", SURE, strict=True)))
    stage = judge({"b": ["hm"], "c": ['{"choice": 1}'], "*": ['{"choice": 3}']}, below=below)
    done = stage(before)
    assert stage.generator.health.answered == len(asked)
    passed = [at for at, name in enumerate("abcde") if name not in asked]
    assert untouched(done.take(pa.array(passed, pa.int64())), before.take(pa.array(passed, pa.int64())))
    told = judged([done.select(COLUMNS)])
    moved = len(set(asked) - set("bc"))
    assert told["asked"] == len(asked) and told["not_asked"] == 5 - len(asked) and told["placed"] == 5
    assert (told["changed"], told["agreed"]) == (moved, int("c" in asked))
    assert told["fell_back"] == ({"unparsed": 1} if "b" in asked else {})


def test_nobody_unsure_costs_no_question(judge: Callable[..., Judge]) -> None:
    before = table_of(Row(sure=0.99))
    stage = judge({"*": ['{"choice": 2}']}, below=0.5)
    assert untouched(stage(before), before) and stage.generator.health.answered == 0


def test_one_place_is_no_choice_but_a_hint(judge: Callable[..., Judge]) -> None:
    row = Row(candidates=((*PARIS, 20), (*BESIDE_PARIS, 10)), neighbours=((*PARIS, 0.9),))
    before = table_of(row)
    assert untouched(judge({"*": ['{"choice": 1}']})(before), before)
    free = judge({"*": [FREE]}, mode="free")(before)
    assert free["latitude"][0].as_py() == SYDNEY[0]
    apart = judge({"*": ['{"choice": 2}']}, merge_km=0.01)(before)
    assert apart["latitude"][0].as_py() == BESIDE_PARIS[0]


def test_verdicts_do_not_depend_on_company_or_order(judge: Callable[..., Judge]) -> None:
    rng = np.random.default_rng(3)
    rows = [
        Row(f"i{n}", candidates=[(*place, int(rng.integers(1, 9))) for place in (PARIS, LYON, ROME, CAIRO)[: 2 + n % 3]])
        for n in range(12)
    ]
    stage = judge({f"i{n}": [json.dumps({"choice": 1 + n % 4})] for n in range(12)})
    before = table_of(*rows)
    together = stage(before)
    assert together.equals(stage(before))
    order = rng.permutation(12).tolist()
    assert stage(before.take(order)).equals(together.take(order))
    assert pa.concat_tables([stage(before[n : n + 1]) for n in range(12)]).equals(together)


def test_rejected_rows_pass_by(judge: Callable[..., Judge]) -> None:
    before = rejected(table_of(Row("a"), Row("b")), "decode", {0: Rejection("broken", "x")})
    done = judge({"*": ['{"choice": 2}']})(before)
    assert done["reason"].to_pylist() == ["broken", None] and done["chosen_by"].to_pylist() == ["expected_distance", "judge"]


def test_what_the_judge_is_told(judge: Callable[..., Judge], monkeypatch: pytest.MonkeyPatch) -> None:
    stage, seen = judge({"*": ['{"choice": 1}']}), []
    ask = stage.generator.ask

    def spy(requests: list[Request], sampling: Any) -> Any:
        seen.extend((request, sampling) for request in requests)
        return ask(requests, sampling)

    monkeypatch.setattr(stage.generator, "ask", spy)
    stage(table_of(Row("a"), Row("b", candidates=((*LYON, 3),), neighbours=())))
    (first, two), (second, four) = sorted(seen, key=lambda each: -len(each[0].key + str(each[1].schema)))[::-1]
    assert json.loads(two.schema)["properties"]["choice"]["enum"] in ([1, 2], [1, 2, 3, 4])
    lists = {request.key: request.messages[1]["content"][1]["text"].splitlines() for request, _ in seen}
    assert lists["a"][1:5] == ["1. 48.85840, 2.29450", "2. 41.89020, 12.49220", "3. 45.76400, 4.83570", "4. 30.04440, 31.23570"]
    assert lists["b"][1:3] == ["1. 48.85840, 2.29450", "2. 45.76400, 4.83570"]
    assert first.messages[0] == second.messages[0], "the instructions differ: no prefix is shared"
    assert all(request.picture is not None and request.picture.shape == (60, 60, 3) for request, _ in seen)
    sizes = {request.key: len(json.loads(sampling.schema)["properties"]["choice"]["enum"]) for request, sampling in seen}
    assert sizes == {"a": 4, "b": 2} and {two.temperature, four.temperature} == {0}


# The engine's faults are not the images'


class Mortal(Scripted):
    """Starts once."""

    async def open(self) -> None:
        if self.opened:
            raise Dead("it does not start again")
        await super().open()


def test_an_engine_that_cannot_be_brought_back_is_the_machines_fault() -> None:
    generator = Generator(Mortal({"probe": ["Hello"], "b": [{"dies": True}], "*": ['{"choice": 2}']}))
    stage = Judge(JudgeSettings(model="x"), generator=generator)
    try:
        with pytest.raises(MachineError, match="does not start"):
            stage(table_of(Row("a"), Row("b")))
    finally:
        stage.close()


def test_an_engine_that_fails_at_everything_is_the_machines_fault(judge: Callable[..., Judge]) -> None:
    many = table_of(*(Row(f"i{n}") for n in range(SICK)))
    with pytest.raises(MachineError, match=f"every one of {SICK} images"):
        judge({"*": [{"refuses": "failed"}]})(many)
    assert set(judge({"*": [{"refuses": "failed"}]})(many[1:])["fallback"].to_pylist()) == {"judge: failed"}
    assert set(judge({"*": [{"refuses": "refused"}]})(many)["fallback"].to_pylist()) == {"judge: refused"}


@pytest.mark.parametrize("wrong", [{"below": 1.1}, {"below": -0.1}, {"candidates": 0}, {"neighbours": -1}, {"tokens": 0},
                                   {"merge_km": -1.0}, {"engines": 0}])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        JudgeSettings(**wrong)


def test_a_judge_is_one_of_a_folder_and_a_service(tmp_path: Path) -> None:
    there = Endpoint(url="http://127.0.0.1:1/v1", model="m")
    with pytest.raises(UserError, match="name one"):
        Judge(JudgeSettings(model=str(tmp_path), endpoint=there))
    with pytest.raises(UserError, match="name one"):
        Judge(JudgeSettings())
    assert not JudgeSettings().asked and JudgeSettings(endpoint=there).asked and JudgeSettings(model="m").asked


def test_what_decides_a_row_and_what_does_not() -> None:
    one = JudgeSettings(model="m")
    same = replace(one, engines=3, model="elsewhere", generator=GeneratorConfig(in_flight=8, gpu=True))
    assert one.decides() == same.decides() and JudgeSettings().decides() == {}
    for other in ({"mode": "free"}, {"below": 0.5}, {"merge_km": 2.0}, {"evidence": True}, {"tokens": 65}):
        assert replace(one, **other).decides() != one.decides()
    json.dumps(one.decides())


# A service


def _answers(reply: Callable[[dict[str, Any]], endpoint.Answer]) -> Callable[[dict[str, Any]], endpoint.Answer]:
    return lambda body: endpoint.completion("Hello") if body["max_tokens"] == 1 else reply(body)


def _remote(url: str, **settings: Any) -> Judge:
    return Judge(JudgeSettings(endpoint=Endpoint(url=url, model="m", patience_s=5), **settings))


@pytest.mark.parametrize("mode", ["choose", "free"])
def test_a_service_judges(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    reply = 'Sure: ```json\n{"choice": 3}\n```' if mode == "choose" else FREE
    with endpoint.served(_answers(lambda _: endpoint.completion(reply))) as server:
        stage = _remote(server.url, mode=mode)
        done = stage(table_of(Row("a"), Row("b")))
        stage.close()
    assert set(zip(done["latitude"].to_pylist(), done["longitude"].to_pylist(), strict=True)) == {
        LYON if mode == "choose" else SYDNEY
    }
    sent = server.bodies[-1]
    told = sent["response_format"]["json_schema"]["schema"]
    jsonschema.Draft202012Validator.check_schema(told)
    assert told == json.loads(schema(mode, 4))  # type: ignore[arg-type]
    assert sent["messages"][1]["content"][0]["image_url"]["url"].startswith("data:image/")
    assert sent["temperature"] == 0


def test_a_service_that_ignores_the_schema_may_repeat_a_place_in_its_own_words() -> None:
    said = "It is most likely the second guess, at 41.89020° N, 12.49220° E."
    with endpoint.served(_answers(lambda _: endpoint.completion(said))) as server:
        stage = _remote(server.url)
        done = stage(table_of(Row()))
        stage.close()
    assert (done["latitude"][0].as_py(), done["chosen_by"][0].as_py()) == (ROME[0], "judge")


def test_a_service_that_takes_no_pictures_is_the_users_to_know() -> None:
    with endpoint.served(_answers(lambda _: endpoint.fault(400, "images are not supported"))) as server:
        stage = _remote(server.url)
        with pytest.raises(UserError, match="refuses all of"):
            stage(table_of(*(Row(f"i{n}") for n in range(SICK))))
        few = stage(table_of(Row("a"), Row("b")))
        stage.close()
    assert few["fallback"].to_pylist() == ["judge: failed"] * 2


def test_a_content_filter_is_a_refusal() -> None:
    filtered = endpoint.completion("", finish="content_filter")
    with endpoint.served(_answers(lambda _: filtered)) as server:
        stage = _remote(server.url)
        assert stage(table_of(Row()))["fallback"].to_pylist() == ["judge: refused"]
        stage.close()


# Real models


def _judged_alike(generator: Generator, mode: str) -> None:
    """Six pictures through both: replies are JSON of the schema, and what they say is what the rows say; twice the same."""
    rows = [Row(f"i{n}", candidates=[(*place, 5) for place in (LYON, ROME)[: 1 + n % 2]], sure=0.1 * n) for n in range(6)]
    before, seen = table_of(*rows), []
    stage = Judge(JudgeSettings(model="x", mode=mode, below=0.45), generator=generator)  # type: ignore[arg-type]
    ask = generator.ask

    def spy(requests: Any, sampling: Any) -> Any:
        replies = ask(requests, sampling)
        seen.extend((request.key, sampling.schema, reply) for request, reply in zip(requests, replies, strict=True))
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "ask", spy)
        done = stage(before)
    assert stage(before).equals(done)
    assert sorted(key for key, *_ in seen) == [f"i{n}" for n in range(5)], "the sure one was asked, or an unsure one was not"
    for key, form, reply in seen:
        said = json.loads(reply.samples[0].text)
        jsonschema.validate(said, json.loads(form))
        row = int(key[1:])
        place = (done["latitude"][row].as_py(), done["longitude"][row].as_py())
        if mode == "choose":
            pool = [PARIS, LYON, CAIRO] if row % 2 == 0 else [PARIS, ROME, LYON, CAIRO]
            assert place in pool and len(pool) == len(json.loads(form)["properties"]["choice"]["enum"])
        else:
            assert place == (said["latitude"], said["longitude"])
    told = judged([done])
    assert (told["asked"], told["answered"], told["fell_back"], told["not_asked"]) == (5, 5, {}, 1)
    cut = Judge(JudgeSettings(model="x", mode=mode, tokens=3), generator=generator)(before)  # type: ignore[arg-type]
    assert set(cut["fallback"].to_pylist()) == {"judge: cut_off"} and set(cut["latitude"].to_pylist()) == {PARIS[0]}


@pytest.mark.parametrize("mode", ["choose", "free"])
def test_vllm_judges(served: Generator, mode: str) -> None:
    _judged_alike(served, mode)


@pytest.mark.parametrize("mode", ["choose", "free"])
def test_transformers_judge(gemma: Path, mode: str) -> None:
    generator = serve(str(gemma), replace(tiny.CONFIG, backend="transformers"))
    try:
        _judged_alike(generator, mode)
    finally:
        generator.close()
