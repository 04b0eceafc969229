"""Slices survive the way through Ray's blocks, bit by bit and zero-copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.actors import AHEAD, MOST, Hands, Slice, _on_slices, cores, through, workers_of
from geobatch.layout import UNBOUNDED, Nodes, NodeType, settle

ROWS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("bytes", pa.large_binary()),
        pa.field("vector", pa.list_(pa.float32())),
    ]
)
row = st.fixed_dictionaries(
    {
        "image_id": st.text(max_size=8),
        "bytes": st.none() | st.binary(max_size=20),
        "vector": st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    }
)


@settings(deadline=None)
@given(st.lists(st.lists(row, max_size=5), min_size=1, max_size=4), st.booleans())
def test_slices_round_trip_through_one_block(pieces: list[list[dict[str, object]]], chunked: bool) -> None:
    slices = []
    for number, rows in enumerate(pieces):
        table = pa.Table.from_pylist(rows, schema=ROWS)
        if chunked:
            table = pa.concat_tables([table[:1], table[1:]])
        slices.append(
            Slice(
                shard=3,
                number=number,
                last=number == len(pieces) - 1,
                end=10 * number,
                skipped=number,
                rows=table,
                seconds=(("Read", 0.5), ("Decode", 1.25)),
            )
        )
    back = list(Slice.from_block(pa.concat_tables([each.to_block() for each in slices])))
    assert [(s.shard, s.number, s.last, s.end, s.skipped, s.seconds) for s in back] == [
        (s.shard, s.number, s.last, s.end, s.skipped, s.seconds) for s in slices
    ]
    for ours, theirs in zip(slices, back, strict=True):
        assert theirs.rows.schema.equals(ROWS)
        assert theirs.rows.to_pylist() == ours.rows.to_pylist()


def test_wrapping_copies_no_bytes() -> None:
    payload = pa.array([b"x" * 1_000_000], pa.large_binary())
    table = pa.table({"bytes": payload})
    block = Slice(shard=0, number=0, last=True, end=0, skipped=0, rows=table).to_block()
    (back,) = Slice.from_block(block)
    assert back.rows["bytes"].chunk(0).buffers()[2].address == payload.buffers()[2].address


class Shout:
    def __call__(self, table: pa.Table) -> pa.Table:
        return table.append_column("loud", pa.array([name.upper() for name in table["image_id"].to_pylist()]))


def test_ray_sees_the_stage_by_its_name_and_a_block_of_two_slices_stays_two() -> None:
    wrapped = _on_slices(Shout)
    assert wrapped.__name__ == "Shout"
    blocks = [
        Slice(shard=s, number=0, last=True, end=0, skipped=0, rows=pa.table({"image_id": [f"a{s}", f"b{s}"]})).to_block()
        for s in range(2)
    ]
    out = [piece for block in wrapped({})(pa.concat_tables(blocks)) for piece in Slice.from_block(block)]
    assert [piece.rows["loud"].to_pylist() for piece in out] == [["A0", "B0"], ["A1", "B1"]]
    assert [stage for stage, _ in out[0].seconds] == ["Shout"]


def test_hands_make_their_stage_without_ray() -> None:
    assert isinstance(Hands(stage=Shout)(), Shout)
    with pytest.raises(TypeError):
        Hands(stage=Shout, make={"nonsense": 1})()


CPUS, GPUS = {"CPU": 15.0}, {"CPU": 7.0, "GPU": 1.0}
GROWS = (
    NodeType(name="head", resources={}),
    NodeType(name="cpu", resources=CPUS, most=8, brought=True),
    NodeType(name="gpu", resources=GPUS, most=16, brought=True),
)


@pytest.mark.parametrize(
    ("there", "workers"),
    [
        (Nodes(types=GROWS), 8 * 15 + 16 * 7),  # a head that works for nobody, and nothing alive yet
        (Nodes(types=GROWS, workers=3), 3 * 15),
        (Nodes(types=(*GROWS, NodeType(name="large", resources={"CPU": 64.0}, most=UNBOUNDED, brought=True))), MOST),
        (Nodes(types=(NodeType(name="head", resources={"CPU": 0.5}),)), 1),
        (Nodes(types=(NodeType(name="node", resources={"CPU": 96.0}, most=2),), known=False), 192),
        (Nodes(types=(NodeType(name="head", resources={}),), known=False), cores()),
    ],
)
def test_on_a_cluster_the_default_is_a_worker_for_each_cpu_there_could_be(there: Nodes, workers: int) -> None:
    assert workers_of(0, "ray://head:10001", there) == workers
    assert workers_of(5, "ray://head:10001", there) == 5


def test_on_one_machine_the_default_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert workers_of(0, None) == workers_of(0, "local") == cores()
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a submitted job has it
    assert workers_of(0, None, Nodes(types=GROWS)) == 232


def test_pools_of_the_default_share_what_there_is() -> None:
    """Neither of two stages of the default starves the other, nor do both the stage with GPUs, which keeps no CPU."""
    there = Nodes(types=GROWS)
    workers = workers_of(0, "ray://head:10001", there)
    pools = [Hands(stage=Shout, workers=workers, gpus=gpus).pool() for gpus in (0.0, 0.0, 1.0)]
    one, other, computing = settle(pools, there)
    assert computing == 16 and one + other == workers and abs(one - other) <= 1


@pytest.mark.parametrize(
    ("hands", "cores"),
    [
        (Hands(stage=object), 1.0),
        (Hands(stage=object, gpus=0.5), 0.0),  # or a decoder that came first could hold its node's last CPU for ever
        (Hands(stage=object, gpus=1, cpus=2), 2.0),
        (Hands(stage=object, cpus=0.5), 0.5),
        (replace(Hands(stage=object), gpus=1), 0.0),  # as --stages asks for one
    ],
)
def test_beside_a_gpu_no_cpu_is_kept_unless_asked_for(hands: Hands, cores: float) -> None:
    assert hands.cores == cores == hands.pool().each["CPU"]


@pytest.mark.parametrize(
    ("hands", "slices"), [(Hands(stage=Shout), 2), (Hands(stage=Shout, ahead=AHEAD), AHEAD), (Hands(stage=Shout, at_once=4), 8)]
)
def test_an_actor_is_given_slices_ahead(hands: Hands, slices: int) -> None:
    """Two by default, as one is worked on; more where one actor serves all, or Ray's driver, which looks ten times a second,
    would be the pace of the whole river."""

    class Dataset:
        def map_batches(self, *_: object, compute: Any, **__: object) -> Any:
            return compute

    assert through(Dataset(), hands).max_tasks_in_flight_per_actor == slices
