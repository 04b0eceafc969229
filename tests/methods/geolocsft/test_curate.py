"""Every rule of curation alone, their order, and what holds whatever the captions."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.methods.geolocsft.curate import LOOKS, REASONS, Curated, Curation, curate, water_filled

ALL = Curation(target=None)

WORDS = [
    "asphalt",
    "gravel",
    "poplar",
    "cypress",
    "gutter",
    "tramway",
    "hedgerow",
    "ridge",
    "clay",
    "ochre",
    "harbour",
    "valley",
    "stucco",
    "canal",
    "shutters",
    "heath",
]


def geo_caption(name: str, latitude: float, longitude: float) -> dict[str, Any]:
    """A short caption with all three looks, its words drawn by its name."""
    rng = np.random.default_rng(list(name.encode()))

    def said() -> str:
        return " ".join(rng.choice(WORDS, 9, replace=False))

    return {
        "image_id": name,
        "thinking": {
            "25km_analysis": {"terrain_characteristics": said(), "climate_features": said()},
            "1km_analysis": {"road_engineering": {"lighting": said()}, "vegetation": {"tree_species": said()}},
            "elimination_similar_regions": [{"eliminated_region": said(), "reasons": [said(), said(), said()]}],
        },
        "answer": {"coordinates": {"latitude": latitude, "longitude": longitude, "region": said()}},
    }


def row_of(name: str, latitude: float = 48.85, longitude: float = 2.35, **changes: Any) -> dict[str, Any]:
    """A caption that every rule keeps."""
    return {
        "image_id": name,
        "sha256": f"sha {name}",
        "dhash": int.from_bytes(np.random.default_rng(list(name.encode())).bytes(8), "big"),
        "latitude": latitude,
        "longitude": longitude,
        "answer_latitude": latitude,
        "answer_longitude": longitude,
        "caption": json.dumps(geo_caption(name, latitude, longitude)),
        **changes,
    }


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = {name: pa.float64() for name in ("latitude", "longitude", "answer_latitude", "answer_longitude")}
    kinds |= {"image_id": pa.string(), "sha256": pa.string(), "dhash": pa.uint64(), "caption": pa.string()}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def fates(curated: Curated) -> dict[str, str]:
    return dict(zip(curated.dropped["image_id"].to_pylist(), curated.dropped["reason"].to_pylist(), strict=True))


def altered(name: str, change: Any) -> str:
    caption = geo_caption(name, 48.85, 2.35)
    change(caption["thinking"])
    return json.dumps(caption)


def test_good_captions_are_kept_whole_and_sorted() -> None:
    rows = [row_of(name) for name in ("c", "a", "b")]
    curated = curate(table_of(rows), ALL)
    assert curated.kept["image_id"].to_pylist() == ["a", "b", "c"]
    assert curated.kept.to_pylist() == sorted(rows, key=lambda row: row["image_id"])
    assert curated.dropped.column_names == [*curated.kept.column_names, "reason"]
    assert curated.counts() == dict.fromkeys(REASONS, 0)


@pytest.mark.parametrize(
    ("latitude", "longitude", "kept"),
    [
        (48.85 + 24.9 / 111.195, 2.35, True),
        (48.85 + 25.1 / 111.195, 2.35, False),
        (None, 2.35, False),
        (48.85, None, False),
        (None, None, False),
        (np.nan, 2.35, False),
        (91.0, 2.35, False),
    ],
)
def test_an_answer_far_from_the_truth_goes(latitude: float | None, longitude: float | None, kept: bool) -> None:
    row = row_of("a", answer_latitude=latitude, answer_longitude=longitude)
    assert fates(curate(table_of([row]), ALL)) == ({} if kept else {"a": "far"})


def test_the_antimeridian_is_near_itself() -> None:
    row = row_of("a", -17.0, 179.99, answer_longitude=-179.99)
    assert not fates(curate(table_of([row]), ALL))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("left", ["absent", "null", "empty"])
def test_a_missing_look_is_incomplete(look: str, left: str) -> None:
    def change(thinking: dict[str, Any]) -> None:
        if left == "absent":
            del thinking[look]
        else:
            thinking[look] = None if left == "null" else {"a": "", "b": [" ", "-"]}

    assert fates(curate(table_of([row_of("a", caption=altered("a", change))]), ALL)) == {"a": "incomplete"}


@pytest.mark.parametrize(
    "text", [None, "", "no JSON", "[]", "3", "null", '{"thinking": 3}', '{"thinking": []}', '{"answer": {}}']
)
def test_what_is_no_geo_caption_is_incomplete(text: str | None) -> None:
    assert fates(curate(table_of([row_of("a", caption=text)]), ALL)) == {"a": "incomplete"}


def test_answers_alone_are_kept_where_no_reasoning_is_wanted() -> None:
    rows = [row_of("a", caption=None), row_of("b"), row_of("c", caption="{}"), row_of("d", caption=None, answer_latitude=0.0)]
    assert fates(curate(table_of(rows), Curation(reasoning=False))) == {"c": "incomplete", "d": "far"}
    assert fates(curate(table_of(rows), ALL)) == {"a": "incomplete", "c": "incomplete", "d": "far"}


@pytest.mark.parametrize("words", ["It stands at 48.8512 by the river", "The given coordinates lie in Paris"])
def test_reasoning_that_knows_the_truth_is_a_leak(words: str) -> None:
    def change(thinking: dict[str, Any]) -> None:
        thinking["25km_analysis"]["climate_features"] += ". " + words

    assert fates(curate(table_of([row_of("a", caption=altered("a", change))]), ALL)) == {"a": "leak"}


@pytest.mark.parametrize("words", ["none", "n/a n/a", "the road is " * 40])
def test_a_look_that_says_little_is_boilerplate(words: str) -> None:
    def change(thinking: dict[str, Any]) -> None:
        thinking["1km_analysis"] = {"road_engineering": words}

    assert fates(curate(table_of([row_of("a", caption=altered("a", change))]), ALL)) == {"a": "boilerplate"}


def test_a_look_that_many_have_word_for_word_goes_with_all_of_them() -> None:
    shared = geo_caption("shared", 0, 0)["thinking"]["25km_analysis"]
    shouted = {key: f"  {text.upper()}!" for key, text in shared.items()}
    rows = []
    for at, name in enumerate("abcd"):
        look = copy.deepcopy(shouted if at % 2 else shared)
        rows.append(row_of(name, caption=altered(name, lambda thinking, look=look: thinking.update({"25km_analysis": look}))))
    assert fates(curate(table_of(rows[:2]), ALL)) == {}
    assert fates(curate(table_of([*rows[:3], row_of("z")]), ALL)) == dict.fromkeys("abc", "boilerplate")
    assert fates(curate(table_of(rows), Curation(repeats=4))) == {}


def test_one_of_the_same_bytes_is_kept_and_one_of_alike_pictures() -> None:
    rows = [row_of(name, sha256="same") for name in "abc"]
    assert Counter(fates(curate(table_of(rows), ALL)).values()) == {"duplicate": 2}
    rows = [row_of(name, dhash=0b1111 << 8 >> at) for at, name in enumerate("abc")]
    assert Counter(fates(curate(table_of(rows), ALL)).values()) == {"near_duplicate": 2}
    assert not fates(curate(table_of(rows), Curation(near_bits=-1)))
    assert Counter(fates(curate(table_of(rows), Curation(near_bits=0))).values()) == {}


def test_a_duplicate_of_what_was_dropped_is_no_duplicate() -> None:
    rows = [row_of("a", sha256="same", dhash=7, answer_latitude=0.0), row_of("b", sha256="same", dhash=7)]
    assert fates(curate(table_of(rows), ALL)) == {"a": "far"}


def test_without_hashes_nothing_is_a_duplicate() -> None:
    rows = [row_of(name, sha256=None, dhash=None) for name in "abc"]
    assert not fates(curate(table_of(rows), ALL))


def cities(sizes: list[int]) -> list[dict[str, Any]]:
    return [
        row_of(f"{city}/{at}", 10.0 + 5 * city, 20.0 + 5 * city, caption=None)
        for city, size in enumerate(sizes)
        for at in range(size)
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 3))
def test_the_target_is_filled_evenly_over_cells(sizes: list[int], target: int, seed: int) -> None:
    how = Curation(reasoning=False, target=target, near_bits=-1, seed=seed)
    curated = curate(table_of(cities(sizes)), how)
    kept = Counter(name.split("/")[0] for name in curated.kept["image_id"].to_pylist())
    given = [kept[str(city)] for city in range(len(sizes))]
    assert sum(given) == min(target, sum(sizes))
    assert set(fates(curated).values()) <= {"surplus"}
    # Who gave less than another by more than one had no more.
    for city, size in enumerate(sizes):
        assert given[city] == size or given[city] >= max(given) - 1


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 300))
def test_water_filling_equals_pouring(sizes: list[int], target: int) -> None:
    poured = [0] * len(sizes)
    while sum(poured) < min(target, sum(sizes)):
        lowest = min(have for have, size in zip(poured, sizes, strict=True) if have < size)
        for cell, size in enumerate(sizes):
            if poured[cell] == lowest < size and sum(poured) < target:
                poured[cell] += 1
    assert water_filled(sizes, target).tolist() == poured


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_the_order_of_rows_changes_nothing(random: Any, seed: int, target: int) -> None:
    rng = np.random.default_rng(seed)
    rows = cities([6, 5, 4, 1])
    for row in rows:
        row["sha256"] = str(rng.integers(12))
        row["dhash"] = int(rng.choice([0, 15, 255, 65535])) ^ int(rng.integers(16)) << 32
        row["answer_latitude"] += float(rng.choice([0.0, 0.0, 1.0]))
    how = Curation(reasoning=False, target=target)
    one = curate(table_of(rows), how)
    random.shuffle(rows)
    other = curate(table_of(rows), how)
    assert one.kept.equals(other.kept) and one.dropped.equals(other.dropped)
    assert len(one.kept) + len(one.dropped) == len(rows)
    assert sum(one.counts().values()) == len(one.dropped)
    assert pc.count_distinct(one.kept["sha256"]).as_py() == len(one.kept) <= target
    again = curate(one.kept, how)
    assert again.kept.equals(one.kept), "what is kept is kept again"
    hashes = one.kept["dhash"].to_pylist()
    assert all((a ^ b).bit_count() > 4 for at, a in enumerate(hashes) for b in hashes[:at])


def test_another_seed_draws_another_set_of_the_same_cells() -> None:
    table = table_of(cities([30, 30, 2]))
    one, other = (curate(table, Curation(reasoning=False, target=20, near_bits=-1, seed=seed)).kept for seed in (0, 1))
    assert one["image_id"].to_pylist() != other["image_id"].to_pylist()
    for kept in (one, other):
        cells = s2.cell_ids(kept["latitude"].to_numpy(), kept["longitude"].to_numpy(), 6)
        assert sorted(np.unique(cells, return_counts=True)[1].tolist()) == [2, 9, 9]


def test_nothing_makes_nothing() -> None:
    curated = curate(table_of([]))
    assert len(curated.kept) == len(curated.dropped) == 0
    assert curated.dropped.schema.field("reason").type == pa.string()


def test_an_older_reason_is_replaced() -> None:
    table = table_of([row_of("a", answer_latitude=0.0)]).append_column("reason", pa.array([None], pa.string()))
    assert fates(curate(table)) == {"a": "far"}


@pytest.mark.parametrize(
    "wrong", [{"far_km": 0}, {"near_bits": 8}, {"near_bits": -2}, {"target": 0}, {"level": 31}, {"repeats": 0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="use"):
        Curation(**wrong)
