"""A stage never sees a failed row, and narrows an error down to the rows that cause it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import MachineError, Rejection
from geobatch.schema import IMAGE, empty_columns
from geobatch.stage import Stage, rejected


def images(names: list[str], dead: set[int] = frozenset()) -> pa.Table:
    table = pa.table(
        {
            **empty_columns(list(IMAGE), len(names)),
            "image_id": names,
            "uri": names,
            "bytes": pa.array([name.encode() for name in names], pa.large_binary()),
        }
    ).cast(IMAGE)
    return rejected(table, "read", {row: Rejection("empty") for row in dead})


class Measure(Stage):
    """Adds the length of the bytes; raises on names that start with 'bad', as a whole batch, like a model would."""

    drops = ("bytes",)
    adds = (pa.field("length", pa.int64()),)

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def work(self, table: pa.Table) -> pa.Table:
        names = table["image_id"].to_pylist()
        self.calls.append(names)
        if any(name.startswith("bad") for name in names):
            raise ValueError("bad input in the batch")
        if any(name.startswith("lost") for name in names):
            raise OSError("device lost")
        if len(names) == 1 and names[0].startswith("sick"):
            raise Rejection("failed", "sick")
        return table.append_column("length", pa.array([len(each) for each in table["bytes"].to_pylist()], pa.int64()))


def test_rejected_rows_pass_by_in_their_place() -> None:
    stage = Measure()
    out = stage(images(["a", "bb", "ccc", "dddd"], dead={0, 2}))
    assert out["image_id"].to_pylist() == ["a", "bb", "ccc", "dddd"]
    assert out["length"].to_pylist() == [None, 2, None, 4]
    assert out["reason"].to_pylist() == ["empty", None, "empty", None]
    assert "bytes" not in out.column_names
    assert stage.calls == [["bb", "dddd"]]


def test_nothing_alive_means_no_call() -> None:
    stage = Measure()
    for table in (images(["a", "b"], dead={0, 1}), images([])):
        out = stage(table)
        assert out["length"].to_pylist() == [None] * len(table)
        assert "bytes" not in out.column_names
    assert stage.calls == []


@given(st.lists(st.sampled_from(["good", "good", "bad"]), min_size=1, max_size=20), st.data())
def test_one_bad_row_never_takes_its_batch_with_it(kinds: list[str], data: st.DataObject) -> None:
    names = [f"{kind}{row}" for row, kind in enumerate(kinds)]
    dead = data.draw(st.sets(st.integers(0, len(names) - 1)))
    living = [kind for row, kind in enumerate(kinds) if row not in dead]
    table = images(names, dead)
    if len(living) > 1 and "good" not in living:
        with pytest.raises(ValueError, match="bad input"):
            Measure()(table)
        return
    out = Measure()(table)
    assert out["image_id"].to_pylist() == names
    for row, kind in enumerate(kinds):
        reason = out["reason"][row].as_py()
        if row in dead:
            assert reason == "empty"
        elif kind == "bad":
            assert reason == "failed"
            assert out["stage"][row].as_py() == "measure"
        else:
            assert reason is None
            assert out["length"][row].as_py() == len(names[row])


def test_a_stage_may_reject_a_row_by_its_own_word() -> None:
    out = Measure()(images(["sick", "bad", "good"]))
    assert out["reason"].to_pylist() == ["failed", "failed", None]
    assert out["detail"].to_pylist() == ["sick", "ValueError: bad input in the batch", None]
    with pytest.raises(ValueError, match="bad input"):  # nobody went through: the machine is suspected
        Measure()(images(["sick", "bad"]))


def test_a_machine_error_is_raised_at_once() -> None:
    stage = Measure()
    with pytest.raises(OSError, match="device lost"):
        stage(images(["a", "lost", "c"]))
    assert len(stage.calls) == 1


def test_a_stage_that_loses_rows_is_a_bug_and_says_so() -> None:
    class Lose(Measure):
        def work(self, table: pa.Table) -> pa.Table:
            return super().work(table)[:1]

    with pytest.raises(MachineError, match="gave 1 of 2 rows"):
        Lose()(images(["a", "b"]))


def test_a_reason_outside_the_closed_list_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no reason"):
        Rejection("because")
