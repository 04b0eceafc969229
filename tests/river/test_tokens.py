"""The command that compares tokenisations, on the tiny world: seven of them trained for a few steps, each with its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.benchmark.intervals import Difference
from tests.bench import bench_tokens
from tests.river.conftest import Tiny


@pytest.mark.timeout(300)
def test_seven_tokenisations_are_trained_and_judged(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").symlink_to(tiny.model / "encoder")
    (tmp_path / "gallery").symlink_to(tiny.folder / "gallery")
    sizes = {"DEMO": tmp_path, "KEPT": tmp_path / "kept", "TRAINED": 48, "JUDGED": 12, "BATCH": 16}
    for name, value in sizes.items():
        monkeypatch.setattr(bench_tokens, name, value)
    rows = bench_tokens.run(steps=2)
    names = [str(row["name"]) for row in rows]
    assert [name.removeprefix("tokens: ").split(", 2 steps")[0] for name in names] == [
        *(f"S2 level {level}, {group} a token" for level, group in ((12, 2), (12, 1), (12, 3), (12, 4), (8, 2), (16, 2))),
        "country, region, city",
    ]
    tokens = [int(str(row["measured"]).split(" tokens")[0]) for row in rows]
    assert tokens == [7, 13, 5, 4, 5, 9, 3], "a face, then the levels in groups; three of the regions"
    assert rows[0]["ratio"] == 1.0 and rows[0]["shows"] == "" and all("12 images" in str(row["shows"]) for row in rows[1:])


@pytest.mark.parametrize(
    ("ends", "p", "greedy", "oracle", "says"),
    [
        ((0.1, 0.05, 0.15), 0.001, 300.0, 100.0, "surely more than S2 level 12, 2 a token within 200 km (+10.0 points"),
        ((-0.1, -0.15, -0.05), 0.001, 300.0, 100.0, "surely fewer than"),
        ((0.1, 0.05, 0.15), 0.2, 300.0, 100.0, "no surely other share than"),
        ((0.0, -0.1, 0.1), 1.0, 300.0, 100.0, "lies 3.0 times nearer than its greedy answer"),
        ((0.0, -0.1, 0.1), 1.0, 100.0, 100.0, "none of its 30 draws is nearer"),
    ],
)
def test_a_sentence_says_no_more_than_is_sure(
    ends: tuple[float, float, float], p: float, greedy: float, oracle: float, says: str
) -> None:
    value, low, high = ends
    assert says in bench_tokens.sentence("X", Difference(value=value, low=low, high=high, p=p), greedy, oracle)
