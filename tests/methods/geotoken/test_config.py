"""The paper's numbers, and what no network can be made of."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.methods.geotoken import config as module
from geobatch.methods.geotoken.config import GeoToken, Sampling, Selection, Training


def test_the_papers_tokens_and_weights() -> None:
    paper = GeoToken.paper()
    assert paper.vocabularies == (6, *[4] * 20)
    assert paper.weights == pytest.approx([2 - t / 20 for t in range(21)])


def test_two_children_a_token_make_eleven() -> None:
    assert GeoToken(group_size=2).vocabularies == (6, *[16] * 10)


def test_the_last_token_holds_the_rest() -> None:
    config = GeoToken(level=7, group_size=3)
    assert config.groups == (3, 3, 1)
    assert config.vocabularies == (6, 64, 64, 4)
    assert config.length == 4


@pytest.mark.parametrize("wrong", [{"level": 0}, {"level": 31}, {"group_size": 0}, {"heads": 7}, {"views": ()}])
def test_impossible_networks_are_refused_with_what_to_do(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"; |correct"):
        GeoToken(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"decode": ()}, "correct"), ({"samples": 0}, "correct"), ({"beam": 0}, "correct")]
    + [({"temperature": each}, "decode greedy") for each in (0.0, -1.0, float("nan"))],
)
def test_sampling_that_draws_nothing_is_refused_with_what_to_do(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sampling(**wrong)


@pytest.mark.parametrize("temperature", [0.0, -0.01, float("nan")])
def test_neighbours_that_no_softmax_splits_are_refused(temperature: float) -> None:
    with pytest.raises(UserError, match="raise neighbour_temperature above 0"):
        Selection(neighbour_temperature=temperature)


@pytest.mark.parametrize("config", [GeoToken, Training, Sampling, Selection])
def test_every_field_has_its_sentence(config: type) -> None:
    lines = [line.strip() for line in Path(module.__file__).read_text().splitlines()]
    for field in fields(config):
        at = [row for row, line in enumerate(lines) if line.startswith(f"{field.name}:")]
        assert any(lines[row + 1].startswith('"""') for row in at), field.name
