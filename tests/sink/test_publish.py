"""What the table is after a run that ended before everything was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geobatch.errors import MachineError
from geobatch.sink import Run, begin, latest, read
from geobatch.store import Store
from tests.sink.rows import located, manifest, piece
from tests.sink.test_run import ids, opened, whole_run, write


def etags(output: Path) -> dict[str, str]:
    """image_id -> etag of every row; none may come twice."""
    rows = read(str(output), ["image_id", "etag"]).to_pylist()
    found = {row["image_id"]: row["etag"] for row in rows}
    assert len(found) == len(rows)
    return found


def begun(output: Path, shards: list[tuple[str, list[str]]], etag: str = "e2") -> tuple[Run, dict[str, object]]:
    run = begin(opened(output))
    return run, run.freeze([manifest(shards, etag)], {"listed": 9})


def test_what_is_committed_is_published_and_the_rest_is_left_as_it_was(tmp_path: Path) -> None:
    whole_run(tmp_path, [("object", ["a", "b"]), ("tar", ["t.tar"]), ("tar", ["u.tar"])])
    run, plan = begun(tmp_path, [("object", ["a", "n"]), ("object", ["b", "m"]), ("tar", ["t.tar"]), ("tar", ["u.tar"])])
    write(run)(piece(0, located(["a", "n"], etag="e2")))
    write(run)(piece(2, located(["t.tar#1", "t.tar#2"], ["t.tar"] * 2, "e2"), last=False, end=512))
    with pytest.raises(MachineError, match="shard 1 is not wholly committed"):
        run.finish(plan)
    done = run.finish(plan, ended="the deadline came")
    assert (done["ended"], done["read"], done["unfinished"], done["shards"]) == ("the deadline came", 4, 3, 4)
    assert etags(tmp_path) == {
        "a": "e2",
        "n": "e2",
        "b": "e1",
        "t.tar#1": "e2",
        "t.tar#2": "e2",
        "t.tar#0": "e1",
        "u.tar#0": "e1",
        "u.tar#1": "e1",  # what was not reached stays as it was
    }
    table = latest(Store(), str(tmp_path))
    assert table is not None and table.record["partial_sources"] == ["t.tar"] and table.record["empty_sources"] == []
    whole_run(tmp_path, [("tar", ["t.tar"])], etag="e2")
    assert {name: etag for name, etag in etags(tmp_path).items() if name.startswith("t")} == {"t.tar#0": "e2", "t.tar#1": "e2"}
    table = latest(Store(), str(tmp_path))
    assert table is not None and table.record["partial_sources"] == []


def test_a_container_of_several_shards_is_whole_when_all_of_them_are(tmp_path: Path) -> None:
    names = [f"z.zip#{n}" for n in range(4)]
    whole_run(tmp_path, [("object", [names[0]])])  # its old rows: one, whose uri is the recipe's name
    run, plan = begun(tmp_path, [("zip", names[:2]), ("zip", names[2:]), ("parquet", ["p"]), ("tar", ["empty.tar"])])
    write(run)(piece(1, located(names[2:], ["z.zip"] * 2, "e2")))
    write(run)(piece(3, located([])))
    run.finish(plan, ended="the cost was reached")
    table = latest(Store(), str(tmp_path))
    assert table is not None and table.record["partial_sources"] == ["z.zip"]
    assert table.record["empty_sources"] == [["empty.tar", "e2"]]  # read to its end; p was never begun
    assert set(ids(tmp_path)) == {names[0], *names[2:]}


def test_a_driver_that_dies_between_table_and_proof_keeps_the_reason(tmp_path: Path) -> None:
    run, plan = begun(tmp_path, [("object", ["a"]), ("object", ["b"])])
    write(run)(piece(0, located(["a"])))
    run.finish(plan, ended="the deadline came")
    (tmp_path / "runs/000001/done.json").unlink()
    again = opened(tmp_path)
    assert again.resumed and list(again.remaining(plan)) == []  # the table stands: nothing may be added to this run
    assert again.finish(plan)["ended"] == "the deadline came"
    assert json.loads((tmp_path / "runs/000001/done.json").read_text())["table"] == 1
    assert opened(tmp_path).id == "000002"


def test_nothing_at_all_was_done(tmp_path: Path) -> None:
    run, plan = begun(tmp_path, [("object", ["a"]), ("tar", ["t"])])
    done = run.finish(plan, ended="the deadline came")
    table = latest(Store(), str(tmp_path))
    assert table is not None and (table.parts, table.record["rows"], done["read"]) == ([], 0, 0)
    assert table.record["empty_sources"] == table.record["partial_sources"] == []


def test_of_what_was_done_only_the_parts_of_sources_read_in_part_are_read_again(tmp_path: Path) -> None:
    whole_run(tmp_path, [("tar", ["t.tar"])])
    run, plan = begun(tmp_path, [("object", ["a"]), ("object", ["b"]), ("tar", ["t.tar"]), ("object", ["c"])])
    for shard, name in ((0, "a"), (1, "b")):
        write(run)(piece(shard, located([name], etag="e2")))
    write(run)(piece(2, located(["t.tar#1"], ["t.tar"], "e2"), last=False, end=512))
    got: list[str] = []

    class Watched(Store):
        def get(self, uri: str, *rest: Any, **named: Any) -> bytes:
            got.append(uri)
            return super().get(uri, *rest, **named)

    run.store = Watched()
    run.finish(plan, ended="the deadline came")
    parts = {str(commit["part"]["path"]): commit["shard"] for commit in run.committed() if commit["part"]}
    fetched = {shard for path, shard in parts.items() if any(uri.endswith(path) for uri in got)}
    assert set(parts.values()) == {0, 1, 2} and fetched == {2}
    assert etags(tmp_path) == {"a": "e2", "b": "e2", "t.tar#0": "e1", "t.tar#1": "e2"}
