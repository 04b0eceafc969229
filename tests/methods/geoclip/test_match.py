"""The stage against the plain way: every number of a row from one softmax written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.geo.cell import finest
from geobatch.geo.distance import haversine_km
from geobatch.methods.geoclip import match as matching_module
from geobatch.methods.geoclip.config import Matching
from geobatch.methods.geoclip.density import AREA_LEVEL
from geobatch.methods.geoclip.match import Match, likeliest
from geobatch.methods.geoclip.weights import find
from geobatch.schema import FATE, LOCATED, RADII_KM, empty_columns, probability_column
from tests.methods.geoclip import miniature

SCALE = 12.0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Match:
    folder = tmp_path_factory.mktemp("match")
    files = find(miniature.weights(folder / "weights"))
    return Match(str(files.location), str(files.places), SCALE, cache=str(folder))


def queries(count: int, seed: int = 0, size: int = miniature.SIZE) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(count, size))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def table_of(vectors: object) -> pa.Table:
    column = pa.array(list(vectors), pa.list_(pa.float32()))  # type: ignore[call-overload]
    return pa.table({"image_id": [str(n) for n in range(len(column))], "vector": column, **empty_columns(FATE, len(column))})


def chosen(stage: Match, **settings: object) -> Match:
    made = Match.__new__(Match)
    made.__dict__.update(stage.__dict__)
    made.matching = Matching(**settings)  # type: ignore[arg-type]
    return made


def softmax(stage: Match, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cosines = stage.places.features.astype(np.float64) @ vector.astype(np.float64)
    raised = np.exp(SCALE * cosines)
    return cosines, raised / raised.sum()


def distances(stage: Match, at: int) -> np.ndarray:
    places = stage.places
    return haversine_km(places.latitude[at], places.longitude[at], places.latitude, places.longitude)


def test_a_row_is_what_one_softmax_says(stage: Match) -> None:
    vectors = queries(5)
    rows = stage(table_of(vectors)).to_pylist()
    for vector, row in zip(vectors, rows, strict=True):
        cosines, mass = softmax(stage, vector)
        order = np.argsort(-mass, kind="stable")
        best, places = order[0], stage.places
        assert (row["latitude"], row["longitude"]) == (places.latitude[best], places.longitude[best])
        assert row["score"] == pytest.approx(mass[best], rel=1e-4)
        away = distances(stage, best)
        for km in RADII_KM:
            assert row[probability_column(km)] == pytest.approx(mass[away <= km].sum(), abs=1e-5)
        reached = np.cumsum(mass[np.argsort(away)])
        assert row["radius_90_km"] == pytest.approx(np.sort(away)[np.searchsorted(reached, 0.9)], abs=0.01)
        assert [each["latitude"] for each in row["candidates"]] == places.latitude[order[:10]].tolist()
        assert [each["score"] for each in row["candidates"]] == pytest.approx(mass[order[:10]], rel=1e-4)
        assert [each["similarity"] for each in row["candidates"]] == pytest.approx(cosines[order[:10]], abs=1e-5)
        assert {(each["count"], each["origin"]) for each in row["candidates"]} == {(None, "place")}
        assert row["neighbours"] is None and row["chosen_by"] == "similarity"
        leaves = s2.cell_ids(places.latitude, places.longitude, s2.MAX_LEVEL)
        cells, held = finest(leaves[None], mass[None], 0.9, AREA_LEVEL)
        assert row["area"] == (s2.cell_tokens(cells)[0] if cells[0] else None)
        assert row["area"] is None or row["area_probability"] == pytest.approx(held[0], abs=1e-5)


@pytest.mark.parametrize("choose", ["expected_distance", "expected_share"])
def test_expected_loss_over_the_pool(stage: Match, choose: str) -> None:
    """Written out for one picture at a time; where the two losses agree with the likeliest place nothing is shown."""
    vectors, pool, differ = queries(30), 40, 0
    rows = chosen(stage, choose=choose, pool=pool)(table_of(vectors)).to_pylist()
    for vector, row in zip(vectors, rows, strict=True):
        _, mass = softmax(stage, vector)
        among = np.argsort(-mass, kind="stable")[:pool]
        away = np.stack([distances(stage, at)[among] for at in among])
        share = np.stack([(away <= km) @ mass[among] for km in RADII_KM]).mean(axis=0)
        loss = away @ mass[among] if choose == "expected_distance" else -share
        places = stage.places
        at = int(np.flatnonzero((places.latitude == row["latitude"]) & (places.longitude == row["longitude"]))[0])
        assert loss[list(among).index(at)] == pytest.approx(loss.min(), rel=1e-4)
        differ += at != among[0]
        assert row["score"] == pytest.approx(mass[at], rel=1e-4) and row["chosen_by"] == choose
    assert differ > 5


def test_blocks_change_nothing(stage: Match, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(queries(11))
    whole = stage(table).to_pylist()
    monkeypatch.setattr(matching_module, "_BLOCK", 4)
    for one, other in zip(whole, stage(table).to_pylist(), strict=True):
        assert (one["latitude"], one["longitude"]) == (other["latitude"], other["longitude"])
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)


def test_columns_come_as_the_schema_says(stage: Match) -> None:
    done = stage(table_of(queries(2)))
    assert "vector" not in done.column_names
    for field in (*LOCATED, *stage.adds):
        assert done.schema.field(field.name).type == field.type


@pytest.mark.parametrize("bad", [None, [float("nan")] * miniature.SIZE])
def test_a_vector_that_says_nothing_is_one_rejection(stage: Match, bad: object) -> None:
    vectors = [*queries(3).tolist()[:2], bad, *queries(3).tolist()[2:]]
    rows = stage(table_of(vectors)).to_pylist()
    assert [row["reason"] for row in rows] == [None, None, "failed", None]
    assert rows[2]["stage"] == "match" and rows[2]["latitude"] is None and rows[3]["latitude"] is not None


def test_vectors_of_another_space_are_refused(stage: Match) -> None:
    with pytest.raises(UserError, match="image vectors are 5 long and the places' 16"):
        stage(table_of(queries(2, size=5)))


def test_one_view_of_several_is_compared(tmp_path: Path) -> None:
    """An encoder of ours, and vectors of three views: the second, brought to unit length, is what counts."""
    LocationEncoder(Gps(size=8, width=16, features=8)).save(tmp_path / "gps")
    (tmp_path / "some.csv").write_text("\n".join(["LAT,LON", *(f"{a},{b}" for a, b in miniature.places(50).tolist())]))
    asked = {"encoder": str(tmp_path / "gps"), "places": str(tmp_path / "some.csv"), "scale": 9.0, "cache": str(tmp_path)}
    views = [queries(4, seed, size) for seed, size in ((1, 6), (2, 8), (3, 5))]
    whole = np.concatenate(views, axis=1) / np.sqrt(3)
    several, alone = Match(**asked, view=(6, 8))(table_of(whole)), Match(**asked)(table_of(views[1]))
    assert several["latitude"].equals(alone["latitude"])
    assert np.allclose(several["score"], alone["score"], rtol=1e-4)


def test_the_likeliest_come_in_order_and_the_first_of_equals_first() -> None:
    mass = torch.tensor([[0.1, 0.3, 0.3, 0.3], [0.4, 0.2, 0.1, 0.3]])
    assert likeliest(mass, 4).tolist() == [[1, 2, 3, 0], [0, 3, 1, 2]]
    assert likeliest(mass, 9).tolist() == likeliest(mass, 4).tolist()
    assert likeliest(mass, 2)[1].tolist() == [0, 3]


def test_settings_that_are_no_choice_are_refused() -> None:
    for wrong in ({"candidates": 0}, {"pool": 0}):
        with pytest.raises(UserError, match="give at least 1"):
            Matching(**wrong)
