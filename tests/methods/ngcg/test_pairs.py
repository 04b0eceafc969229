"""Pairs on disk: what goes in comes out, by rows and subsets; whole places are kept out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.engine.encode import encoded
from geobatch.methods.ngcg.pairs import Pairs, split, write
from geobatch.schema import PAIRS


def picture(seed: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def rows(groups: list[str], first: int = 0, **changed: Any) -> pa.Table:
    """A table of PAIRS, one row a group; row i has 1 + i % 3 texts."""
    made = []
    for at, group in enumerate(groups, first):
        made.append(
            {
                "image_id": f"a#{at}",
                "uri": "a",
                "latitude": float(at),
                "longitude": float("nan") if at % 2 else -float(at),
                "image": encoded(picture(at))[0],
                "texts": [f"text {at} {number}" for number in range(1 + at % 3)],
                "group": group,
                "status": "placed",
                **changed,
            }
        )
    return pa.Table.from_pylist(made, PAIRS)


def dead(name: str) -> pa.Table:
    lost = {"image": None, "texts": None, "group": None, "status": "rejected", "stage": "decode", "reason": "broken"}
    return rows(["x"], image_id=name, **lost)


def test_what_is_written_is_read_in_order_and_without_the_rejected(tmp_path: Path) -> None:
    written = write([rows(["p", "q"]), dead("z"), rows(["p", "r", "é"], 2)], tmp_path / "pairs.arrow")
    assert (written.pairs, written.texts, written.groups) == (5, 1 + 2 + 3 + 1 + 2, 4)
    pairs = Pairs(tmp_path / "pairs.arrow")
    assert len(pairs) == 5
    for at in range(5):
        np.testing.assert_array_equal(pairs.picture(at), picture(at))
        assert pairs.texts(at) == [f"text {at} {number}" for number in range(1 + at % 3)]
        assert pairs.name(at) == f"a#{at}"
    np.testing.assert_array_equal(pairs.latitude, np.arange(5.0))
    np.testing.assert_array_equal(pairs.longitude, [0, np.nan, -2, np.nan, -4])
    assert pairs.groups.dtype == np.int64
    assert pairs.groups[0] == pairs.groups[2] and len(set(pairs.groups.tolist())) == 4
    assert list(pairs.every_text()) == [text for at in range(5) for text in pairs.texts(at)]


def test_a_subset_of_a_subset_keeps_its_places(tmp_path: Path) -> None:
    write([rows(["p", "q", "p", "r", "q", "s"])], tmp_path / "pairs.arrow")
    whole = Pairs(tmp_path / "pairs.arrow")
    some = whole.subset([5, 0, 2, 3])
    less = some.subset(np.array([2, 0]))
    assert [less.name(0), less.name(1)] == ["a#2", "a#5"]
    np.testing.assert_array_equal(less.groups, whole.groups[[2, 5]])
    np.testing.assert_array_equal(less.picture(1), whole.picture(5))
    again = Pairs(tmp_path / "pairs.arrow", [2, 5])
    assert again.texts(0) == less.texts(0) and again.groups.tolist() == less.groups.tolist()
    assert list(less.every_text()) == whole.texts(2) + whole.texts(5)


def test_jpeg_is_read_upright_and_in_colour(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((120, 200), 77, np.uint8)).save(out, "jpeg")
    write([rows(["p"], image=out.getvalue())], tmp_path / "pairs.arrow")
    seen = Pairs(tmp_path / "pairs.arrow").picture(0)
    assert seen.shape == (120, 200, 3) and seen.dtype == np.uint8 and abs(int(seen.mean()) - 77) < 2


def test_the_digest_is_of_all_that_a_training_sees(tmp_path: Path) -> None:
    def digest(*tables: pa.Table) -> str:
        return write(tables, tmp_path / "pairs.arrow").digest

    first = digest(rows(["p", "q"]))
    assert digest(rows(["p"]), dead("z"), rows(["q"], 1)) == first  # nor of how it came
    assert digest(rows(["p", "q"], image_id="another")) == first
    changes: list[dict[str, Any]] = [
        {"texts": ["else"]}, {"group": "p"}, {"latitude": 1.5}, {"image": encoded(picture(9))[0]}
    ]  # fmt: skip
    assert len({first, *(digest(rows(["p", "q"], **change)) for change in changes)}) == 5
    assert digest(rows(["q", "p"])) != first


def test_a_file_that_was_not_finished_is_none(tmp_path: Path) -> None:
    def breaks() -> Any:
        yield rows(["p"])
        raise RuntimeError("the driver died")

    with pytest.raises(RuntimeError):
        write(breaks(), tmp_path / "pairs.arrow")
    assert not (tmp_path / "pairs.arrow").exists()
    assert write([rows(["p"])], tmp_path / "pairs.arrow").pairs == 1


def test_two_that_write_one_file_at_once_do_not_meet(tmp_path: Path) -> None:
    def among(first: bool) -> Any:
        yield rows(["p", "q"])
        if first:  # another training writes the same meanwhile, and is done before
            write(among(False), tmp_path / "pairs.arrow")
            assert len(Pairs(tmp_path / "pairs.arrow")) == 4
        yield rows(["r", "s"], 2)

    assert write(among(True), tmp_path / "pairs.arrow").pairs == 4
    assert len(Pairs(tmp_path / "pairs.arrow")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.arrow"]


def test_no_pair_at_all_is_an_empty_file(tmp_path: Path) -> None:
    assert write([dead("z")], tmp_path / "pairs.arrow").groups == 0
    assert len(Pairs(tmp_path / "pairs.arrow")) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.floats(0, 0.99), st.integers(0, 50), st.integers(0, 5))
def test_whole_places_are_kept_out(numbers: list[int], share: float, most: int, seed: int) -> None:
    groups = np.array(numbers, np.int64)
    kept, held = split(groups, share, most, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(groups)))
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    assert len(kept) and len(held) <= min(round(share * len(groups)), most)
    # Every place that is still trained on, but the one that always is, is larger than what is missing to the wanted share.
    missing = min(round(share * len(groups)), most) - len(held)
    assert (np.unique(groups[kept], return_counts=True)[1] <= missing).sum() <= 1
    again = split(groups, share, most, seed)
    np.testing.assert_array_equal(again[1], held)


def test_the_seed_chooses_the_places() -> None:
    groups = np.repeat(np.arange(100), 2)
    one, other = (split(groups, 0.2, 1000, seed)[1] for seed in (0, 1))
    assert len(one) == len(other) == 40 and set(one.tolist()) != set(other.tolist())
