"""The stage that draws: its table, its independence of the batch, and images that cannot be drawn for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from geobatch.errors import UserError
from geobatch.methods.geotoken.config import Sampling
from geobatch.methods.geotoken.draws import shared
from geobatch.methods.geotoken.inputs import context, places_of
from geobatch.methods.geotoken.sample import Sample
from geobatch.schema import CANDIDATES, FATE, NEIGHBOURS
from tests.methods.geotoken.tiny import TINY, arrays, model_of

WIDTH = 12  # 2 views of 6


def table_of(images: int = 7, seed: int = 0) -> pa.Table:
    vectors, near, latitude, longitude = arrays(images=images, seed=seed)
    neighbours = [
        [
            {"image_id": f"{row}.{k}", "latitude": latitude[row, k], "longitude": longitude[row, k], "similarity": 0.5}
            for k in range(3)
        ]
        for row in range(images)
    ]
    return pa.table(
        {
            "image_id": [f"s3://bucket/{row}.jpg" for row in range(images)],
            "vector": pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32())),
            "neighbours": pa.array(neighbours, NEIGHBOURS),
            "neighbour_vectors": pa.array(list(near.reshape(images, -1).astype(np.float32)), pa.list_(pa.float32())),
            **{field.name: pa.nulls(images, field.type) for field in FATE},
        }
    )


def changed(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def test_candidates_are_the_draws_best_first() -> None:
    model, table = model_of(), table_of()
    found = Sample(model, Sampling(samples=25, seed=3, batch=3))(table)
    assert "neighbour_vectors" not in found.column_names
    assert found.schema.field("candidates").type == CANDIDATES
    draws = shared(model, context(TINY, *arrays(images=7)), table["image_id"].to_pylist(), samples=25, seed=3)
    latitude, longitude = places_of(draws.codes_RT.numpy(), TINY)
    for row in range(7):
        mine = np.flatnonzero(draws.image_R.numpy() == row)
        mine = mine[np.argsort(-draws.log_probability_R.numpy()[mine], kind="stable")]
        places = found["candidates"][row].as_py()
        assert [place["latitude"] for place in places] == latitude[mine].tolist()
        assert [place["longitude"] for place in places] == longitude[mine].tolist()
        assert [place["score"] for place in places] == pytest.approx(draws.log_probability_R[mine].tolist(), abs=1e-4)
        assert {place["origin"] for place in places} == {"sample"}
        assert [place["count"] for place in places] == draws.count_R[mine].tolist()
        assert sum(place["count"] for place in places) == 25


def test_rows_do_not_depend_on_the_rows_beside_them() -> None:
    stage, table = Sample(model_of(), Sampling(batch=4)), table_of()
    whole = stage(table)
    for row in range(7):
        alone = stage(table[row : row + 1])
        assert [x["count"] for x in alone["candidates"][0].as_py()] == [x["count"] for x in whole["candidates"][row].as_py()]
        assert _places(alone, 0) == _places(whole, row)


def _places(table: pa.Table, row: int) -> list[tuple[float, float]]:
    return [(place["latitude"], place["longitude"]) for place in table["candidates"][row].as_py()]


def test_missing_neighbours_are_told_by_lists_and_by_places() -> None:
    stage, table = Sample(model_of()), table_of()
    neighbours, near = table["neighbours"][2].as_py(), table["neighbour_vectors"][2].as_py()
    shorter = changed(changed(table, "neighbours", 2, neighbours[:2]), "neighbour_vectors", 2, near[: 2 * WIDTH])
    placeless = changed(table, "neighbours", 2, [*neighbours[:2], {**neighbours[2], "latitude": None}])
    broken = changed(table, "neighbour_vectors", 2, [*near[: 2 * WIDTH], *[float("nan")] * WIDTH])
    expected = stage(shorter)
    for other in (placeless, broken):
        assert stage(other)["candidates"].to_pylist() == expected["candidates"].to_pylist()
    assert _places(expected, 2) != _places(stage(table), 2)


def test_more_neighbours_than_the_model_reads_are_left_unread() -> None:
    stage, table = Sample(model_of()), table_of()
    row = table["neighbours"].to_pylist()
    near = table["neighbour_vectors"].to_pylist()
    longer = table.set_column(2, "neighbours", pa.array([[*x, {**x[0], "latitude": 1.0}] for x in row], NEIGHBOURS))
    longer = longer.set_column(3, "neighbour_vectors", pa.array([[*x, *[9.0] * WIDTH] for x in near], pa.list_(pa.float32())))
    assert stage(longer)["candidates"].to_pylist() == stage(table)["candidates"].to_pylist()


def test_an_image_without_any_neighbour_is_drawn_for() -> None:
    stage, table = Sample(model_of()), table_of()
    lonely = table
    for row in range(7):
        lonely = changed(changed(lonely, "neighbours", row, []), "neighbour_vectors", row, [])
    assert [sum(place["count"] for place in places) for places in stage(lonely)["candidates"].to_pylist()] == [30] * 7


@pytest.mark.parametrize("vector", [None, [], [float("nan")] * WIDTH, [float("inf"), *[0.0] * (WIDTH - 1)]])
def test_an_image_without_a_sound_vector_is_rejected_and_costs_its_batch_nothing(vector: list[float] | None) -> None:
    stage, table = Sample(model_of()), table_of()
    found = stage(changed(table, "vector", 4, vector))
    assert pc.is_null(found["reason"]).to_pylist() == [row != 4 for row in range(7)]
    assert found["stage"][4].as_py() == "sample" and found["reason"][4].as_py() == "failed"
    assert found["candidates"][4].as_py() is None
    whole = stage(table)
    for row in (0, 3, 5, 6):
        assert _places(found, row) == _places(whole, row)


def test_a_table_without_one_sound_vector_is_rejected_whole() -> None:
    table = table_of(images=2)
    table = changed(changed(table, "vector", 0, None), "vector", 1, None)
    assert Sample(model_of())(table)["reason"].to_pylist() == ["failed", "failed"]


def test_vectors_of_another_encoder_are_the_users_fault() -> None:
    table = changed(table_of(), "vector", 1, [1.0] * 5)
    with pytest.raises(UserError, match=r"5 long|12 long"):
        Sample(model_of())(table)
    all_short = table_of()
    for row in range(7):
        all_short = changed(all_short, "vector", row, [1.0] * 5)
    with pytest.raises(UserError, match="are 5 long, the model reads 12"):
        Sample(model_of())(all_short)


def test_the_model_may_be_a_folder(tmp_path: Path) -> None:
    model_of().save(tmp_path)
    table = table_of()
    assert Sample(tmp_path)(table).equals(Sample(model_of())(table))
    other = Sample(model_of(replace(TINY, prefix="sum")))(table)
    assert not other["candidates"].equals(Sample(model_of())(table)["candidates"])
