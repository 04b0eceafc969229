"""The flag --stages: what it can say, and what it refuses in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.actors import Hands
from geobatch.engine.request import GeneratorConfig
from geobatch.errors import UserError
from geobatch.methods.geotoken.judge import JudgeSettings
from geobatch.methods.ngcg.serve import Serving
from geobatch.pipeline.stages import Asked, applied, parsed


class Decode:
    """A stage."""


class Embed:
    """Another."""


RIVER = [Hands(stage=Decode, workers=4), Hands(stage=Embed, workers=2, gpus=1.0, labels={"market": "spot"})]


def test_one_stage_is_changed_and_the_others_stay() -> None:
    decode, embed = applied(
        RIVER, ["Decode:workers=32", "embed:gpus=0.5,accelerator=L4,workers=8,memory=6,label.zone=a,resource.disk=2"]
    )
    assert decode == Hands(stage=Decode, workers=32)
    assert (embed.gpus, embed.workers, embed.accelerator, embed.memory) == (0.5, 8, "L4", 6 << 30)
    assert embed.labels == {"market": "spot", "zone": "a"} and embed.resources == {"disk": 2.0}
    assert embed.pool().each == {"CPU": 0.0, "GPU": 0.5, "memory": 6.0 * 2**30, "accelerator_type:L4": 0.001, "disk": 2.0}
    assert applied(RIVER, []) == RIVER


def test_a_stage_computes_where_it_was_given_gpus() -> None:
    make = {"device": "cpu", "gpu": False, "serving": Serving(), "settings": JudgeSettings(model="m"), "batch": 3}
    there = {
        "device": "cuda",
        "gpu": True,
        "serving": Serving(gpus=2.0),
        "settings": JudgeSettings(model="m", generator=GeneratorConfig(gpu=True, tensor_parallel=2)),
        "batch": 3,
    }
    (embed,) = applied([Hands(stage=Embed, make=make)], ["Embed:gpus=2"])
    assert embed.make == there and make["device"] == "cpu"
    (back,) = applied([embed], ["Embed:gpus=0"])
    assert back.make["device"] == "cpu" and back.make["gpu"] is False and back.make["serving"] == Serving()
    assert applied([embed], ["Embed:workers=9"])[0].make == there
    assert applied([Hands(stage=Embed, make=make)], ["Embed:gpus=0.5"])[0].make["settings"].generator.tensor_parallel == 1


def test_parts_of_a_gallery_take_no_gpu() -> None:
    with pytest.raises(UserError, match="leave out shards, or Embed:gpus"):
        applied([Hands(stage=Embed, make={"shards": 4, "gpu": False})], ["Embed:gpus=1"])


def test_later_words_win_and_the_ends_may_be_named_where_they_are_not() -> None:
    assert applied(RIVER, ["Decode:workers=8", "Decode:workers=2,cpus=2", "Read:workers=9"])[0] == Hands(
        stage=Decode, workers=2, cpus=2
    )


def test_fewer_workers_lower_the_least() -> None:
    assert applied([Hands(stage=Decode, workers=9, least=4)], ["Decode:workers=2"])[0].least == 2


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("Encode:workers=2", "there is no stage 'Encode'; this run has Decode, Embed, Read, Write"),
        ("Decode", "names no stage and what it asks for; write NAME:KEY=VALUE"),
        (":workers=2", "names no stage"),
        ("Decode:", "names no stage"),
        ("Decode:workers", "'workers' is no KEY=VALUE"),
        ("Decode:workers=2,", "'' is no KEY=VALUE"),
        (
            "Decode:hands=2",
            "there is no 'hands'; use workers, least, cpus, gpus, memory, accelerator, resource.NAME or label.NAME",
        ),
        ("Decode:workers=0", "workers is a whole number from 1, not '0'"),
        ("Decode:workers=1.5", "workers is a whole number from 1"),
        ("Decode:cpus=-1", "cpus is a number from 0, not '-1'"),
        ("Decode:cpus=nan", "cpus is a number from 0"),
        ("Decode:gpus=inf", "gpus is a number from 0"),
        ("Decode:gpus=1.5", "a share of one GPU or several whole ones, not 1.5"),
        ("Decode:resource.=1", "there is no 'resource.'"),
        ("Decode:least=9", "at least 9 workers and at most 4; lower least"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(word: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        applied(RIVER, [word])
    assert says in str(raised.value) and "\n" not in str(raised.value)


names = st.text(st.characters(exclude_characters=",=.:", exclude_categories=["Cs"]), min_size=1, max_size=8)
numbers = st.integers(0, 10_000).map(lambda each: each / 16)


@given(
    st.builds(
        Asked,
        stage=st.sampled_from(["Decode", "Embed"]),
        workers=st.none() | st.integers(1, 10**6),
        least=st.none() | st.integers(1, 10**6),
        cpus=st.none() | numbers,
        gpus=st.none() | st.integers(0, 64).map(float) | st.sampled_from([0.25, 0.5]),
        memory=st.none() | numbers,
        accelerator=st.none() | names,
        resources=st.dictionaries(names, numbers, max_size=2),
        labels=st.dictionaries(names, names, max_size=2),
    )
)
def test_whatever_can_be_asked_for_can_be_written(asked: Asked) -> None:
    said = {name: getattr(asked, name) for name in ("workers", "least", "cpus", "gpus", "memory", "accelerator")}
    pairs = [f"{name}={value}" for name, value in said.items() if value is not None]
    pairs += [f"resource.{name}={value}" for name, value in asked.resources.items()]
    pairs += [f"label.{name}={value}" for name, value in asked.labels.items()]
    if pairs:
        assert parsed(f"{asked.stage}:{','.join(pairs)}") == asked


@given(st.text(max_size=30))
def test_any_other_text_is_the_users_fault(text: str) -> None:
    try:
        parsed(text)
    except UserError as error:
        assert "--stages" in str(error)
