"""A run's record against everything that may happen to it, on a real folder."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from geobatch.errors import MachineError, Rejection, UserError
from geobatch.sink import Run, Stamp, Write, begin, latest, open_run, read
from geobatch.stage import rejected
from geobatch.store import Store, StoreConfig
from tests.sink.rows import located, manifest, piece

ARCHIVE = {"uri": "s3://a/b", "include": [], "exclude": []}


def opened(output: Path, fingerprint: str = "f1", archive: dict[str, object] = ARCHIVE, relocate: bool = False) -> Run:
    run, _ = open_run(Store(), str(output), method="geotoken", fingerprint=fingerprint, archive=archive, relocate=relocate)
    return run


def write(run: Run) -> Write:
    return Write(run.output, Stamp(run=run.id, method="geotoken", model="f1"), StoreConfig())


def whole_run(output: Path, shards: list[tuple[str, list[str]]], etag: str = "e1", **options: object) -> dict[str, object]:
    run = begin(opened(output, **options))
    plan = run.freeze([manifest(shards, etag)], {"listed": 9, "skipped": 2, "known": 0})
    writer = write(run)
    for shard, (kind, names) in enumerate(shards):
        members = names if kind == "object" else [f"{names[0]}#{n}" for n in range(2)]
        uris = names if kind == "object" else [names[0]] * 2
        writer(piece(shard, located(members, uris, etag)))
    return run.finish(plan)


def ids(output: Path) -> list[str]:
    return sorted(read(str(output), ["image_id"])["image_id"].to_pylist())


def test_a_run_from_beginning_to_proof(tmp_path: Path) -> None:
    run = begin(opened(tmp_path))
    assert run.id == "000001" and not run.resumed
    plan = run.freeze([manifest([("object", ["a", "b"]), ("object", ["c"])])], {"listed": 5, "skipped": 2, "known": 0})
    assert [task["shard"][0].as_py() for task in run.remaining(plan)] == [0, 1]
    with pytest.raises(MachineError, match="not wholly committed"):
        run.finish(plan)
    summary = write(run)(piece(0, located(["a", "b"], dead={1}), skipped=1)).to_pylist()[0]
    assert (summary["read"], summary["placed"], summary["rejected"]) == (2, 1, 1)
    assert [task["shard"][0].as_py() for task in run.remaining(plan)] == [1]
    assert latest(Store(), str(tmp_path)) is None
    with pytest.raises(UserError, match="no finished table"):
        read(str(tmp_path))
    write(run)(piece(1, located(["c"])))
    done = run.finish(plan)
    assert (done["read"], done["placed"], done["rejected"]) == (3, 2, 1)
    assert done["reasons"] == {"broken": 1} and done["skipped"] == 3 and done["seconds"]["Read"] == 2.0
    table = read(str(tmp_path)).sort_by("image_id")
    assert table["status"].to_pylist() == ["placed", "rejected", "placed"]
    assert table["stage"].to_pylist() == [None, "decode", None]
    assert json.loads((tmp_path / "runs/000001/done.json").read_text())["table"] == 1


def test_bytes_are_those_of_images_that_were_read(tmp_path: Path) -> None:
    """Of what the reader rejected, too large or gone, nobody fetched the size that the listing says; a broken one was read."""
    run = begin(opened(tmp_path))
    run.freeze([manifest([("object", ["a", "bb", "ccc"])])], {})
    rows = rejected(located(["a", "bb", "ccc"], dead={1}), "read", {2: Rejection("too_large", "3 bytes, more than 2")})
    assert rows["size"].to_pylist() == [1, 2, 3]
    assert write(run)(piece(0, rows)).to_pylist()[0]["bytes"] == 3


def test_the_same_command_takes_up_the_run_and_finish_is_idempotent(tmp_path: Path) -> None:
    run = begin(opened(tmp_path))
    plan = run.freeze([manifest([("object", ["a"])])], {})
    again = opened(tmp_path)
    assert again.resumed and again.id == run.id and again.plan() == plan
    write(again)(piece(0, located(["a"])))
    first = run.finish(plan)
    (tmp_path / "runs/000001/done.json").unlink()  # died between the table and the proof
    third = opened(tmp_path)
    assert third.resumed and third.finish(plan)["table"] == first["table"] == 1
    assert opened(tmp_path).id == "000002"


def test_a_tar_is_taken_up_in_its_middle(tmp_path: Path) -> None:
    run = begin(opened(tmp_path))
    plan = run.freeze([manifest([("tar", ["t.tar"]), ("tar", ["u.tar"])])], {})
    writer = write(run)
    writer(piece(0, located(["t#0"]), number=0, last=False, end=512))
    writer(piece(0, located(["t#2"]), number=2, last=True, end=2048))
    tasks = [task.to_pylist()[0] for task in run.remaining(plan)]
    assert [task["shard"] for task in tasks] == [0, 1]
    assert tasks[0]["done"] == [{"number": 0, "end": 512}, {"number": 2, "end": 2048}]
    assert len(tasks[0]["parts"]) == 2 and tasks[1]["done"] == []
    writer(piece(0, located(["t#1"]), number=1, last=False, end=1024))
    writer(piece(1, located([]), number=0, last=True))
    assert list(run.remaining(plan)) == []
    done = run.finish(plan)
    assert done["read"] == 3
    snapshot = latest(Store(), str(tmp_path))
    assert snapshot is not None and snapshot.record["empty_sources"] == [["u.tar", "e1"]]


def test_two_hands_on_one_slice_commit_it_once(tmp_path: Path) -> None:
    run = begin(opened(tmp_path))
    plan = run.freeze([manifest([("object", ["a", "b"])])], {})
    one, two = write(run), write(run)
    one(piece(0, located(["a", "b"])))
    two(piece(0, located(["a", "b"], dead={0})))  # other bytes: another model on another day
    (tmp_path / "places" / f"{run.id}-00000000-000000-feedfacefeedface.parquet").write_bytes(b"left by a dead worker")
    done = run.finish(plan)
    assert (done["placed"], done["rejected"]) == (2, 0)
    assert len(list((tmp_path / "places").iterdir())) == 1


def test_counts_that_do_not_add_up_publish_nothing(tmp_path: Path) -> None:
    run = begin(opened(tmp_path))
    plan = run.freeze([manifest([("object", ["a", "b"])])], {})
    write(run)(piece(0, located(["a"])))
    with pytest.raises(MachineError, match="2 images planned, 1 came out"):
        run.finish(plan)
    assert latest(Store(), str(tmp_path)) is None


def test_an_image_twice_in_a_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="twice"):
        write(begin(opened(tmp_path)))(piece(0, located(["a", "a"])))


def test_a_row_with_neither_place_nor_reason_is_refused(tmp_path: Path) -> None:
    rows = located(["a"])
    rows = rows.set_column(rows.column_names.index("latitude"), "latitude", pa.nulls(1, pa.float64()))
    with pytest.raises(MachineError, match="neither a place nor a reason"):
        write(begin(opened(tmp_path)))(piece(0, rows))


def test_changed_objects_replace_their_rows(tmp_path: Path) -> None:
    whole_run(tmp_path, [("object", ["a", "b", "c"]), ("tar", ["t.tar"])])
    assert ids(tmp_path) == ["a", "b", "c", "t.tar#0", "t.tar#1"]
    done = whole_run(tmp_path, [("object", ["b", "d"]), ("tar", ["t.tar"])], etag="e2")
    assert done["table"] == 2
    assert ids(tmp_path) == ["a", "b", "c", "d", "t.tar#0", "t.tar#1"]
    rows = {row["image_id"]: row["etag"] for row in read(str(tmp_path)).to_pylist()}
    assert rows == {"a": "e1", "c": "e1", **dict.fromkeys(["b", "d", "t.tar#0", "t.tar#1"], "e2")}
    whole_run(tmp_path, [("object", ["a", "c"])], etag="e3")
    snapshot = latest(Store(), str(tmp_path))
    assert snapshot is not None and snapshot.record["rows"] == len(ids(tmp_path)) == 6
    assert not any(part["path"].startswith("places/000001-") for part in snapshot.parts)  # no row of it is left


def test_another_fingerprint_is_refused_in_one_line(tmp_path: Path) -> None:
    begin(opened(tmp_path)).freeze([manifest([("object", ["a"])])], {})
    for sealed in (False, True):
        if sealed:
            whole_run(tmp_path, [("object", ["a"])])
        with pytest.raises(UserError, match=r"another model, gallery or setting.*--relocate") as error:
            opened(tmp_path, fingerprint="f2")
        assert "\n" not in str(error.value)


def test_relocate_starts_the_table_anew(tmp_path: Path) -> None:
    whole_run(tmp_path, [("object", ["a", "b"])])
    run, table = open_run(Store(), str(tmp_path), method="geotoken", fingerprint="f2", archive=ARCHIVE, relocate=True)
    assert table is None
    begin(run).freeze([manifest([("object", ["b"])])], {})
    resumed, table = open_run(Store(), str(tmp_path), method="geotoken", fingerprint="f2", archive=ARCHIVE, relocate=True)
    assert resumed.resumed and table is None  # died before it published: the old rows are still not "known"
    again, table = open_run(Store(), str(tmp_path), method="geotoken", fingerprint="f2", archive=ARCHIVE)
    assert again.resumed and table is None
    (tmp_path / "runs" / run.id / "plan.json").unlink()  # died before its plan was frozen
    resumed, table = open_run(Store(), str(tmp_path), method="geotoken", fingerprint="f2", archive=ARCHIVE, relocate=True)
    assert not resumed.resumed and table is None
    whole_run(tmp_path, [("object", ["b", "c"])], fingerprint="f2", relocate=True)
    assert ids(tmp_path) == ["b", "c"]
    with pytest.raises(UserError, match="another model"):
        opened(tmp_path, fingerprint="f1")


def test_an_unfinished_run_over_another_archive_is_not_mixed(tmp_path: Path) -> None:
    begin(opened(tmp_path)).freeze([manifest([("object", ["a"])])], {})
    other = {**ARCHIVE, "uri": "s3://elsewhere"}
    with pytest.raises(UserError, match="unfinished run 000001 over s3://a/b"):
        opened(tmp_path, archive=other)
    second = begin(opened(tmp_path, archive=other, relocate=True))
    assert second.id == "000002"
    second.freeze([manifest([("object", ["a"])])], {})
    assert opened(tmp_path, archive=other).resumed


def test_two_drivers_that_start_at_once_join_one_run(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    begin(first)
    joined = begin(second)
    assert joined.id == first.id and joined.resumed
    one = first.freeze([manifest([("object", ["a", "b"])])], {})
    assert joined.freeze([manifest([("object", ["a"])])], {}) == one  # the plan that was there first is the plan


def test_the_driver_that_starts_with_another_model_at_the_same_moment_is_refused(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path, fingerprint="f2")
    begin(first)
    with pytest.raises(UserError, match="this moment"):
        begin(second)
