"""The canary's judgement, on distances that were made up, and its way through files; through a river it goes with Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.actors import Slice
from geobatch.archive.config import ArchiveConfig
from geobatch.errors import UserError
from geobatch.pipeline.canary import Cage, Canary
from geobatch.pipeline.flow import computed
from geobatch.pipeline.verdict import CHANCE, LEAST, LOST_KM, RATIO, judged, measured
from geobatch.schema import REUSED
from geobatch.sink import Run
from geobatch.sink.rows import Stamp
from geobatch.sink.write import Write, aside_name
from geobatch.store import Store, StoreConfig
from tests.sink.rows import located

KM = st.floats(0.0, 20_000.0)


def images(distances: list[float]) -> list[dict[str, Any]]:
    return [{"image_id": f"i{n}", "sha256": f"s{n}", "reason": None, "distance_km": km} for n, km in enumerate(distances)]


def by_hand(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """The slow reference: ratio, and the share of all sign patterns with a mean as large."""
    grown = np.log(np.array(ours) + 1) - np.log(np.array(theirs) + 1)
    signs = np.array(np.meshgrid(*[[1, -1]] * len(grown))).reshape(len(grown), -1)
    means = (signs * np.abs(grown)[:, None]).mean(0)
    return float(np.exp(grown.mean())), float((means >= grown.mean() - 1e-12).mean())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(KM, KM), min_size=LEAST, max_size=9))
def test_ratio_and_chance_are_those_of_the_definition(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    found = judged(images(ours), images(theirs))
    ratio, chance = by_hand(ours, theirs)
    assert found["ratio"] == pytest.approx(ratio, abs=1e-3, rel=1e-3)
    if ours != theirs:
        assert found["chance"] == pytest.approx(chance, abs=1e-4)
    assert found["worse"] == (found["ratio"] >= RATIO and found["chance"] < CHANCE) or abs(found["ratio"] - RATIO) < 1e-3


def test_the_same_night_is_never_worse_and_a_lost_model_is() -> None:
    rng = np.random.default_rng(1)
    record = rng.lognormal(4, 1, 20).tolist()
    same = judged(images(record), images(record))
    assert (same["worse"], same["ratio"], same["chance"]) == (False, 1.0, 1.0)
    lost = judged(images(rng.uniform(500, 20_000, 20).tolist()), images(record))
    assert lost["worse"] and "times the record's" in lost["said"]
    better = judged(images([km / 3 for km in record]), images(record))
    assert not better["worse"] and better["ratio"] < 0.5
    one_jump = judged(images([LOST_KM, *record[1:]]), images(record))
    assert not one_jump["worse"]
    a_little = judged(images([km * 1.1 for km in record]), images(record))
    assert a_little["chance"] < CHANCE and not a_little["worse"]  # sure, and of no consequence


def test_seven_images_can_reach_the_chance_and_six_cannot() -> None:
    assert by_hand([100.0] * 7, [10.0] * 7)[1] < CHANCE <= by_hand([100.0] * 6, [10.0] * 6)[1]
    assert judged(images([100.0] * LEAST), images([10.0] * LEAST))["worse"]
    with pytest.raises(UserError, match=f"has {LEAST - 1} images in common"):
        judged(images([100.0] * LEAST), images([10.0] * (LEAST - 1)))


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(7)
    nights = [judged(images(rng.lognormal(4, 1, 12).tolist()), images(rng.lognormal(4, 1, 12).tolist())) for _ in range(60)]
    assert sum(night["chance"] < CHANCE for night in nights) <= 3  # 0.6 expected; 3 or fewer in 99.7 of 100 such tests


@pytest.fixture
def cage(tmp_path: Path) -> Cage:
    """Ten images at (n, 2n) in a folder, and their truth."""
    (tmp_path / "canary").mkdir()
    for number in range(10):
        (tmp_path / f"canary/{number}.jpg").write_bytes(b"bytes")
    lines = "".join(f"{number}.jpg,{number},{2 * number}\n" for number in range(10))
    (tmp_path / "truth.csv").write_text(f"image_id,latitude,longitude\n{lines}")
    archive = ArchiveConfig(uri=str(tmp_path / "canary"), shard_rows=4)
    return Cage(archive=archive, truth=str(tmp_path / "truth.csv"), model=str(tmp_path / "model"), fingerprint="f", stop=True)


def a_run(folder: Path, number: int = 1, resumed: bool = False) -> Run:
    return Run(store=Store(), output=str(folder / "out"), id=f"{number:06d}", record={}, resumed=resumed)


def flown(cage: Cage, run: Run, off: float, reject: tuple[int, ...] = (), reason: str = "broken", read: bool = True) -> Canary:
    """A canary whose images went through a river that places each `off` degrees north of the truth; what is rejected was read
    before, or not.
    """
    canary = Canary(cage, Store(), Store(), Store())
    canary.begin(run, {})
    write = Write(run.output, Stamp(run=run.id, method="geotoken", model="f"), StoreConfig())
    for task in canary.tasks():
        row = task.to_pylist()[0]
        plan = pq.ParquetFile(row["plan"]).read_row_group(row["group"])
        names = plan["image_id"].to_pylist()
        rows = located(names, plan["uri"].to_pylist())
        numbers = [int(Path(name).stem) for name in names]
        for column, values in {
            "latitude": [number + off for number in numbers],
            "longitude": [2.0 * number for number in numbers],
            "sha256": [None if number in reject and not read else f"{number:064x}" for number in numbers],
            "reason": [reason if number in reject else None for number in numbers],
            "stage": ["decode" if number in reject else None for number in numbers],
        }.items():
            field = rows.schema.field(column)
            rows = rows.set_column(rows.column_names.index(column), field, pa.array(values, field.type))
        piece = Slice(shard=row["shard"], number=0, last=True, end=-1, skipped=0, rows=rows)
        (told,) = write(piece).to_pylist()
        assert told["shard"] == row["shard"] < 0
        canary.slice(told)
    return canary


def test_the_first_run_makes_the_record_and_the_next_is_held_to_it(
    cage: Cage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = flown(cage, a_run(tmp_path), off=0.1)
    assert first.found is not None and not first.found["worse"] and first.enough() is None
    assert first.found["median_km"] == pytest.approx(11.1, abs=0.1) and len(first.found["images"]) == 10
    assert not (tmp_path / "out/runs/000001/commits").exists() and not (tmp_path / "out/places").exists()
    same = flown(cage, a_run(tmp_path, 2), off=0.1)
    assert same.found is not None and same.found["ratio"] == 1.0 and same.found["compared"] == 10
    worse = flown(cage, a_run(tmp_path, 3), off=5.0, reject=(3,))
    assert str(worse.enough()).startswith("canary: 10 images") and worse.found is not None and worse.found["rejected"] == 1
    assert "warning: the canary is worse" in capsys.readouterr().out
    told = json.loads((tmp_path / "out/runs/000003/canary.json").read_text())
    assert told["worse"] and told["record"] == first.found["record"] and len(told["images"]) == 10
    lost = next(each for each in told["images"] if each["image_id"].endswith("/3.jpg"))
    assert lost["distance_km"] == pytest.approx(LOST_KM, abs=0.01) and lost["reason"] == "broken"
    assert worse.end({"shards": 1}) == {"canary": {name: value for name, value in told.items() if name != "images"}}


def test_an_image_without_bytes_is_known_by_its_name(cage: Cage, tmp_path: Path) -> None:
    first = flown(cage, a_run(tmp_path), off=0.1, reject=(3,), read=False)  # rejected before its bytes were hashed
    assert first.found is not None and first.found["ratio"] is None and len(list((tmp_path / "out/canary").iterdir())) == 1
    same = flown(cage, a_run(tmp_path, 2), off=0.1)
    assert same.found is not None and (same.found["compared"], same.found["worse"]) == (10, False) and same.found["ratio"] < 1
    lost = flown(cage, a_run(tmp_path, 3), off=0.1, reject=tuple(range(9)), read=False)
    assert lost.found is not None and (lost.found["compared"], lost.found["worse"]) == (10, True)
    assert len(list((tmp_path / "out/canary").iterdir())) == 1  # the same record, whatever was rejected
    listed = json.loads((tmp_path / "out/runs/000003/canary.json").read_text())["images"]
    assert sum(each["sha256"] is None for each in listed) == 9
    # Held to a model's record without names, only bytes tell.
    (tmp_path / "model").mkdir()
    strict = [{"sha256": f"{number:064x}", "distance_km": 11.0} for number in range(10)]
    (tmp_path / "model/canary.json").write_text(json.dumps({"version": 1, "images": strict}))
    by_bytes = flown(cage, a_run(tmp_path, 4), off=0.1, reject=(3,), read=False)
    assert by_bytes.found is not None and by_bytes.found["compared"] == 9


def test_a_night_that_could_not_read_its_canary_makes_no_record(
    cage: Cage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = flown(cage, a_run(tmp_path), off=0.1, reject=(3, 4), reason="unreadable", read=False).found
    assert found is not None and not found["worse"] and found["compared"] == 0
    assert "2 could not be read, so this is no record" in capsys.readouterr().out
    assert not (tmp_path / "out/canary").exists()
    flown(cage, a_run(tmp_path, 2), off=0.1)  # makes it
    found = flown(cage, a_run(tmp_path, 3), off=0.1, reject=(3, 4), reason="unreadable", read=False).found
    assert found is not None and (found["compared"], found["unread"]) == (8, 2)
    assert (found["ratio"], found["median_km"]) == (1.0, pytest.approx(11.1, abs=0.1))  # they are no 20,015 km away


@pytest.mark.parametrize(("lost", "median"), [(4, 11.1), (10, None)])
def test_a_canary_that_cannot_be_read_judges_nobody(
    cage: Cage, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: int, median: float | None
) -> None:
    flown(cage, a_run(tmp_path), off=0.1)
    canary = flown(cage, a_run(tmp_path, 2), off=5.0, reject=tuple(range(lost)), reason="missing", read=False)
    assert canary.enough() is None and canary.found is not None and not canary.found["worse"]
    assert (canary.found["ratio"], canary.found["compared"], canary.found["unread"]) == (None, 10 - lost, lost)
    assert median is None or canary.found["median_km"] > median  # of those that were read
    assert f"warning: canary: {lost} of 10 images could not be read, too few are left" in capsys.readouterr().out
    # Nor does a run's own record that was made the model's.
    (tmp_path / "model").mkdir()
    (tmp_path / "model/canary.json").write_bytes((tmp_path / "out/runs/000002/canary.json").read_bytes())
    with pytest.raises(UserError, match=rf"the canary has {10 - lost} images in common"):
        flown(cage, a_run(tmp_path, 3), off=0.1)


def grow(tmp_path: Path, number: int) -> None:
    (tmp_path / f"canary/{number}.jpg").write_bytes(b"bytes")
    with (tmp_path / "truth.csv").open("a") as file:
        file.write(f"{number}.jpg,{number},{2 * number}\n")


def test_a_canary_that_grew_is_judged_by_what_its_record_knows(cage: Cage, tmp_path: Path) -> None:
    first = flown(cage, a_run(tmp_path), off=0.1).found
    grow(tmp_path, 10)
    bad = flown(cage, a_run(tmp_path, 2), off=5.0)
    assert first is not None and bad.found is not None and bad.enough() is not None, "a bad night made itself the record"
    assert (bad.found["compared"], bad.found["record"]) == (10, first["record"])
    assert len(list((tmp_path / "out/canary").iterdir())) == 1
    good = flown(cage, a_run(tmp_path, 3), off=0.11).found
    assert good is not None and good["ratio"] == pytest.approx(1.09, abs=0.01)
    new = next(path for path in (tmp_path / "out/canary").iterdir() if str(path) not in first["record"])
    kept = {Path(each["image_id"]).name: each["distance_km"] for each in json.loads(new.read_text())["images"]}
    assert len(kept) == 11 and kept["3.jpg"] == pytest.approx(11.1, abs=0.1) and kept["10.jpg"] == pytest.approx(12.2, abs=0.1)
    # From then on by all eleven; and by the ten after one is taken out, which have a record already.
    assert (again := flown(cage, a_run(tmp_path, 4), off=0.1).found) is not None and again["compared"] == 11
    (tmp_path / "canary/10.jpg").unlink()
    assert (less := flown(cage, a_run(tmp_path, 5), off=0.1).found) is not None and less["record"] == first["record"]
    # One that lost images is judged as well.
    (tmp_path / "canary/9.jpg").unlink()
    lost = flown(cage, a_run(tmp_path, 6), off=5.0).found
    assert lost is not None and (lost["worse"], lost["compared"]) == (True, 9)


def test_what_is_no_record_stands_in_nobodys_way(cage: Cage, tmp_path: Path) -> None:
    (tmp_path / "out/canary").mkdir(parents=True)
    (tmp_path / "out/canary/a.json").write_text("{")
    flown(replace(cage, fingerprint="g"), a_run(tmp_path), off=0.1)
    grow(tmp_path, 10)
    found = flown(cage, a_run(tmp_path, 2), off=5.0).found
    assert found is not None and found["ratio"] is None


def test_another_driver_of_a_run_flies_it_again(cage: Cage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine may be another; what the first found stays told."""
    flown(cage, a_run(tmp_path), off=0.1)
    beside = replace(cage, stop=False)
    first = flown(beside, a_run(tmp_path, 2), off=5.0)
    resumed = a_run(tmp_path, 2, resumed=True)
    nothing_left = Canary(beside, Store(), Store(), Store())
    nothing_left.begin(resumed, {})
    assert nothing_left.end({"shards": 3})["canary"]["worse"]
    assert "before its canary" not in capsys.readouterr().out
    second = flown(beside, resumed, off=0.1)
    assert second.found is not None and not second.found["worse"] and first.found is not None
    told = second.end({"shards": 3})["canary"]
    assert told["worse"] and "an earlier driver's was worse: 10 images" in told["said"]  # its rows are in the table
    assert [each["said"] for each in told["earlier"]] == [first.found["said"]] and "images" not in told["earlier"][0]
    third = flown(cage, resumed, off=0.1)  # where a bad canary stops a run, the first left none
    told = third.end({"shards": 3})["canary"]
    assert third.enough() is None and not told["worse"] and [each["worse"] for each in told["earlier"]] == [True, False]
    assert flown(cage, resumed, off=5.0).enough() is not None


def test_who_may_stop_the_run_goes_alone_until_judged(cage: Cage, tmp_path: Path) -> None:
    rest = [pa.table({"shard": [0]})]
    canary = Canary(cage, Store(), Store(), Store())
    canary.begin(a_run(tmp_path), {})
    assert [len(canary.leading(rest)) for _ in range(4)] == [3, 3, 3, 4]  # passes that failed; then the rest with it
    assert flown(cage, a_run(tmp_path), off=0.1).leading(rest) == rest
    beside = Canary(replace(cage, stop=False), Store(), Store(), Store())
    beside.begin(a_run(tmp_path, 2), {})
    assert len(beside.leading(rest)) == 4


def test_the_models_own_record_goes_first(cage: Cage, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    strict = [{"sha256": f"{number:064x}", "distance_km": 0.0} for number in range(10)]
    (tmp_path / "model/canary.json").write_text(json.dumps({"version": 1, "images": strict}))
    found = flown(cage, a_run(tmp_path), off=0.1).found
    assert found is not None and found["worse"] and found["record"].endswith(str(tmp_path / "model/canary.json"))
    for wrong, why in (
        ("{", "is no record"),
        ('{"version": 9, "images": []}', "version 9"),
        ('{"version": 1}', "is no record"),
    ):
        (tmp_path / "model/canary.json").write_text(wrong)
        with pytest.raises(UserError, match=why):
            flown(cage, a_run(tmp_path, 2), off=0.1)


def test_another_fingerprint_has_a_record_of_its_own(cage: Cage, tmp_path: Path) -> None:
    flown(cage, a_run(tmp_path), off=0.1)
    other = replace(cage, model=None, fingerprint="g")
    found = flown(other, a_run(tmp_path, 2), off=5.0).found
    assert found is not None and not found["worse"] and found["ratio"] is None


def test_too_few_too_many_and_none_are_one_line(cage: Cage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tmp_path / "few.csv"
    few.write_text("image_id,latitude,longitude\n1.jpg,1,2\n2.jpg,1,2\n")
    with pytest.raises(UserError, match="has 2 images with a place"):
        Canary(replace(cage, truth=str(few)), Store(), Store(), Store())
    monkeypatch.setattr("geobatch.pipeline.canary.MOST", 9)
    with pytest.raises(UserError, match="a canary is a few"):
        Canary(cage, Store(), Store(), Store())
    with pytest.raises(UserError, match=r"there is no .*no\.csv"):
        Canary(replace(cage, truth=str(tmp_path / "no.csv")), Store(), Store(), Store())


def test_a_run_that_ends_before_its_canary_says_so(cage: Cage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = Canary(cage, Store(), Store(), Store())
    canary.begin(a_run(tmp_path), {})
    assert len(canary.tasks()) == 3 and canary.enough() is None
    canary.slice({"shard": 0, "number": 0, "last": True})
    assert canary.end({"shards": 2}) == {"canary": None} and "before its canary" in capsys.readouterr().out
    assert canary.end({"shards": 0}) == {"canary": None} and capsys.readouterr().out == ""


def test_images_outside_the_truth_are_left_out() -> None:
    from geobatch.benchmark.truth import truth_of

    truth = truth_of(["a.jpg"], np.array([1.0]), np.array([2.0]), "here")
    rows = located(["x/a.jpg", "x/b.jpg"], ["x", "x"])
    assert [each["image_id"] for each in measured(rows, truth)] == ["x/a.jpg"]


def test_known_bytes_of_a_canary_are_looked_at_all_the_same() -> None:
    rows = pa.table({"image_id": ["a"], "bytes": pa.array([b"x"], pa.large_binary())})
    asked: list[int] = []

    def stage(table: pa.Table) -> pa.Table:
        asked.append(len(table))
        return table

    of_canary = Slice(shard=-1, number=0, last=True, end=-1, skipped=0, rows=rows)
    assert computed(stage, of_canary)[REUSED.name].null_count == 1 and asked == []
    computed(stage, Slice(shard=0, number=0, last=True, end=-1, skipped=0, rows=rows))
    assert asked == [1]


def test_names_aside_do_not_meet() -> None:
    names = [aside_name(shard, number) for shard in (-1, -2, -12) for number in (0, 1)]
    assert len(set(names)) == 6 and not any("-" in name for name in names)
