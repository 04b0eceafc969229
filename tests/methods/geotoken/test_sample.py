"""The stage that draws: its table, its independence of the batch, and images that cannot be drawn for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from geobatch.errors import UserError
from geobatch.methods.geotoken import sample
from geobatch.methods.geotoken.config import Decode, GeoToken, Sampling
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


@pytest.mark.parametrize("decode", [("sample",), ("beam", "greedy")])
def test_an_image_whose_probabilities_are_no_numbers_is_rejected(decode: tuple[Decode, ...]) -> None:
    """Its vector is finite, and its products are not; a network that diverged has nothing to say of any image."""
    model, table = model_of(), table_of()
    stage = Sample(model, Sampling(decode=decode))
    found = stage(changed(table, "vector", 4, [3e38] * WIDTH))
    assert found["reason"].to_pylist() == [None] * 4 + ["failed"] + [None] * 2
    assert "no numbers" in found["detail"][4].as_py() and found["candidates"][4].as_py() is None
    whole = stage(table)
    assert [_places(found, row) for row in (0, 3, 5, 6)] == [_places(whole, row) for row in (0, 3, 5, 6)]
    with torch.no_grad():
        model.heads[0].weight.fill_(torch.nan)
    lost = stage(table)
    assert lost["reason"].to_pylist() == ["failed"] * 7 and lost["candidates"].null_count == 7


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


def by_origin(found: pa.Table, row: int) -> dict[str, list[dict[str, object]]]:
    out: dict[str, list[dict[str, object]]] = {}
    for each in found["candidates"][row].as_py():
        out.setdefault(each["origin"], []).append(each)
    return out


def test_draws_beam_and_greedy_stand_in_one_list_and_say_which_they_are() -> None:
    model, table = model_of(), table_of()
    found = Sample(model, Sampling(decode=("sample", "beam", "greedy"), samples=12, beam=4))(table)
    alone = {kind: Sample(model, Sampling(decode=(kind,), samples=12, beam=4))(table) for kind in ("sample", "beam", "greedy")}
    for row in range(7):
        mixed = by_origin(found, row)
        assert {kind: len(each) for kind, each in mixed.items()} | {"sample": 0} == {"sample": 0, "beam": 4, "greedy": 1}
        # The draws are what they are alone, and they alone count.
        assert mixed["sample"] == by_origin(alone["sample"], row)["sample"]
        assert [each["count"] for each in mixed["beam"] + mixed["greedy"]] == [0] * 5
        scores = [each["score"] for each in found["candidates"][row].as_py()]
        assert scores == sorted(scores, reverse=True)
        for kind in ("beam", "greedy"):
            one = by_origin(alone[kind], row)
            assert list(one) == [kind] and sum(each["count"] for each in one[kind]) == 12  # type: ignore[misc]
            assert [each["latitude"] for each in one[kind]] == [each["latitude"] for each in mixed[kind]]


def test_bfloat16_draws_nearly_the_same() -> None:
    model, table = model_of(), table_of()
    one, other = (Sample(model, Sampling(precision=each))(table) for each in ("float32", "bfloat16"))
    same = [
        len({(x["latitude"], x["longitude"]) for x in a} & {(x["latitude"], x["longitude"]) for x in b}) / len(a)
        for a, b in zip(one["candidates"].to_pylist(), other["candidates"].to_pylist(), strict=True)
    ]
    assert np.mean(same) > 0.6 and not one.equals(other)


def test_compiled_steps_draw_the_same_by_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU, then run as it is: one program for all layers, numbers of tokens and of prefixes."""
    compiled: list[object] = []
    compile_ = torch.compile

    def traced(function: object, **named: object) -> object:
        compiled.append(function)
        return compile_(function, backend="eager", **named)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config, table = replace(TINY, level=6), table_of()
    expected = Sample(model_of(config), Sampling(compile="auto", samples=9))(table)
    assert not compiled  # auto: on a GPU only
    found = Sample(model_of(config), Sampling(compile="on", samples=9, batch=4))(table)
    assert len(compiled) == config.decoder_layers
    assert [_places(found, row) for row in range(7)] == [_places(expected, row) for row in range(7)]
    # The first token, whose prefixes are one an image, and two shapes of those after it.
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_batches_are_sized_by_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Sample(model_of()).images == 64 and Sample(model_of(), Sampling(batch=5)).images == 5
    paper, sampling = GeoToken.paper(), Sampling()
    each = sample.bytes_an_image(paper, sampling)
    # 364 positions and 30 × 21 prefixes of 512 floats, twice, for 10 layers; the encoder's passing tensors are a tenth.
    assert 2 * (364 + 630) * 512 * 10 * 4 < each < 1.3 * 2 * (364 + 630) * 512 * 10 * 4
    assert sample.bytes_an_image(paper, Sampling(decode=("greedy",))) < each / 2
    monkeypatch.setattr(sample, "free_bytes", lambda device: 100 * each)
    assert sample.fitting(paper, sampling, torch.device("cuda")) == 50
    monkeypatch.setattr(sample, "free_bytes", lambda device: 0)
    assert sample.fitting(paper, sampling, torch.device("cuda")) == 1
