"""What is drawn of an archive, and what a sample says about all of it, by hand."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.actors import Hands
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import Planned
from geobatch.errors import UserError
from geobatch.pipeline import estimate as estimating
from geobatch.pipeline.account import Account
from geobatch.pipeline.deadline import Deadline
from geobatch.pipeline.estimate import _aside, _images, _machines, estimate, lines, projected
from geobatch.pipeline.flow import Flow
from geobatch.pipeline.frozen import expected
from geobatch.pipeline.machines import Node
from geobatch.pipeline.prices import Prices
from geobatch.pipeline.sample import KEPT, Came, Clock, Listed, Sample, look, size_of
from geobatch.schema import PLAN
from geobatch.sink import Run, begin, latest, open_run
from geobatch.sink.opening import unfinished_run
from geobatch.store import Store, StoreConfig, join
from tests.conftest import S3Server
from tests.sink.rows import manifest

shards = st.lists(
    st.one_of(
        st.tuples(st.just("object"), st.integers(1, 5)),
        st.tuples(st.just("zip"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["tar", "parquet"]), st.just(1)),
    ),
    min_size=1,
    max_size=60,
)


def planned(kinds: list[tuple[str, int]], size: int = 1) -> pa.Table:
    table = manifest([(kind, [f"s{n}#{row}" for row in range(rows)]) for n, (kind, rows) in enumerate(kinds)])
    return table.set_column(table.column_names.index("size"), PLAN.field("size"), pa.array([size] * len(table), pa.int64()))


def plans(table: pa.Table, pieces: int = 1) -> Iterator[Planned]:
    """The planner's tables: shards whole, counts rising, the last one always there."""
    numbers = sorted(set(table["shard"].to_pylist()))
    for piece in range(pieces):
        mine = {number for number in numbers if number * pieces // len(numbers) == piece}
        rows = table.filter(pa.array([number in mine for number in table["shard"].to_pylist()]))
        yield Planned(rows, listed=1000 * (piece + 1), skipped=piece, known=7)


@settings(deadline=None, max_examples=50)
@given(shards, st.integers(1, 4), st.integers(1, 200), st.integers(0, 5))
def test_everything_is_counted_and_whole_shards_are_drawn(
    kinds: list[tuple[str, int]], pieces: int, images: int, seed: int
) -> None:
    table = planned(kinds, size=10)
    found = look(plans(table, pieces), Sample(images=images, seed=seed))
    truth = Counter[str]()
    for kind, rows in kinds:
        truth[kind] += rows
    assert found.rows == truth and found.size == Counter({kind: 10 * rows for kind, rows in truth.items()})  # a tar is one row
    assert found.shards == Counter(kind for kind, _ in kinds)
    assert (found.listed, found.known, found.complete) == (1000 * pieces, 7, True)
    rows = [tuple(shard["image_id"].to_pylist() + shard["uri"].to_pylist()) for _, shard in found.drawn]
    assert len(set(rows)) == len(rows) and all(len(set(shard["shard"].to_pylist())) == 1 for _, shard in found.drawn)
    for kind, shard in found.drawn:
        whole = table.filter(pa.compute.equal(table["shard"], shard["shard"][0]))
        assert shard.equals(whole) and set(shard["kind"].to_pylist()) == {kind}
    enough = sum(len(shard) for _, shard in found.drawn) >= images
    assert enough or Counter(kind for kind, _ in found.drawn) == Counter({k: min(n, KEPT) for k, n in found.shards.items()})
    if len(found.drawn) >= len(found.shards):
        assert {kind for kind, _ in found.drawn} == set(found.shards), "each kind gives one before any gives two"


def test_a_seed_draws_again_what_it_drew_and_every_shard_has_its_chance() -> None:
    table = planned([("object", 2)] * 40)

    def drawn(seed: int) -> list[int]:
        return [shard["shard"][0].as_py() for _, shard in look(plans(table), Sample(images=8, seed=seed)).drawn]

    assert drawn(3) == drawn(3) and len(drawn(3)) == 4
    times = Counter(number for seed in range(400) for number in drawn(seed))
    assert set(times) == set(range(40)) and max(times.values()) < 75, "400 draws of 4 in 40 are 40 each, give or take 18"


def test_a_listing_that_is_cut_off_says_so() -> None:
    table = planned([("object", 2)] * 40)
    found = look(plans(table, pieces=4), Sample(listed=2000))
    assert (found.listed, found.complete, found.rows["object"]) == (2000, False, 40)
    assert look(plans(table, pieces=4), Sample(listed=4000)).complete


def test_nothing_new_draws_nothing() -> None:
    found = look(iter([Planned(planned([("object", 1)])[:0], listed=9, skipped=1, known=8)]), Sample())
    assert (found.drawn, found.known, found.complete) == ([], 8, True)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"listed": 0}])
def test_a_sample_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="a sample needs"):
        Sample(**wrong)


def timed(slices: list[tuple[float, int, int, int]], last: bool = False, end: int = 0) -> Clock:
    """A clock that took down these (seconds, shard, images, bytes)."""
    clock = Clock(images=100)
    clock.slices = [Came(clock.started + at, shard, images, size, last, end) for at, shard, images, size in slices]
    clock.read = sum(images for _, _, images, _ in slices)
    return clock


def test_what_an_image_takes_of_its_container() -> None:
    """A tar of 3,000 bytes with two images of 1,000: whole, half read, and as if its reader did not count in bytes."""
    drawn = [("tar", planned([("tar", 1)], size=3000)), ("parquet", planned([("parquet", 1)] * 1, size=5000))]
    assert timed([(1, 0, 2, 2000)], last=True, end=3000).bytes_an_image(drawn) == {"tar": 1500}
    assert timed([(1, 0, 1, 1000)], end=1500).bytes_an_image(drawn) == {"tar": 1500}
    assert timed([(1, 1, 4, 4000)], end=4).bytes_an_image(drawn) == {"parquet": 1000}  # its reader counts rows
    assert timed([(1, 1, 4, 4000)], last=True, end=4).bytes_an_image(drawn) == {"parquet": 1250}
    assert timed([(1, 1, 0, 0)], last=True).bytes_an_image(drawn) == {}  # holds no image: says nothing of others


def test_of_a_tar_in_parts_the_first_counts() -> None:
    rows = planned([("tar", 2)], size=700)
    assert (size_of("tar", rows), size_of("object", rows)) == (700, 1400)


def test_by_hand() -> None:
    """20 images a second after 10 s; 1000 loose images and tars of 30 MB whose images had 20 kB each: 2500 in all."""
    found = Listed(listed=1003, skipped=2, known=1)
    found.rows.update({"object": 1000, "tar": 3})
    found.size.update({"object": 10_000_000, "tar": 30_000_000})
    found.shards.update({"object": 10, "tar": 3})
    table = planned([("object", 1)])
    found.drawn = [("object", table), ("tar", table)]
    clock = timed([(10.0, 0, 50, 500_000), (12.0, 1, 50, 1_000_000), (15.0, 0, 50, 500_000)])
    assert (clock.start_seconds(), clock.rate()) == (pytest.approx(10), pytest.approx(20))
    done = {
        "read": 150, "placed": 140, "rejected": 10, "bytes": 2_000_000, "reasons": {"broken": 10}, "usd": 0.01,
        "wall_seconds": 16.0, "slowest": "Embed", "seconds": {"Read": 1.5, "Embed": 6.0},
        "stages": {"Read": {"workers": 1, "images_a_second": 100.0}, "Embed": {"workers": 1, "images_a_second": 25.0}},
    }  # fmt: skip
    told = projected(found, clock, done, {"gpu": 2, "cpu": 1}, Prices(own={"gpu": 1.5, "cpu": 0.6}, date="2026-11"))
    assert (told["images"], told["images_known"], told["bytes"], told["shards"]) == (2500, False, 40_000_000, 13)
    assert (told["images_a_second"], told["images_a_second_at_best"]) == (20, 25)
    assert (told["seconds"], told["seconds_at_best"]) == (10 + 125, 10 + 100)
    assert told["usd"] == round(3.6 / 3600 * 135, 4) and told["usd_at_best"] == round(3.6 / 3600 * 110, 4)
    assert told["usd_a_million"] == 54.0
    assert told["stages"]["Embed"] == {"seconds_an_image": 0.04, "workers": 1}
    said = lines({"new": True, "unfinished": "", "listed": 1003, "skipped": 2, "known": 1, "complete": False, **told}, "out")
    assert said == [
        "dry run: at least about 2,500 images, 40.0 MB in 13 shards; nothing of it stays",
        "  passed over: 2 that are no images by name, 1 already in the table",
        "  sample: 150 images in 16 s, the first after 10 s; 10 rejected, broken 10",
        "  Read   10.00 ms an image, 1 at once",
        "  Embed  40.00 ms an image, 1 at once  <- the slowest",
        "  20.0 images a second as measured, 25.0 at best: 2 min, or 110 s",
        "  cost on 1 x cpu, 2 x gpu: 0.14 USD, at best 0.11; 54.00 USD a million images (prices of 2026-11)",
    ]
    unpriced = projected(found, clock, done, {"z9": 1}, Prices())
    assert (unpriced["usd"], unpriced["usd_a_million"], unpriced["unpriced"]) == (None, None, ["z9"])
    assert lines({"new": True, "unfinished": "", "listed": 1, "skipped": 0, "known": 0, "complete": True, **unpriced}, "out")[
        -1
    ] == ("  cost: not known; name the price of z9 in a file of --prices")
    silent = projected(found, clock, done, {}, Prices(own={"gpu": 1.5}))
    assert (silent["usd"], silent["usd_at_best"], silent["usd_a_million"], silent["machines"]) == (None, None, None, {})
    counts = {"new": True, "unfinished": "", "listed": 1, "skipped": 0, "known": 0, "complete": True}
    assert lines({**counts, **silent}, "out")[-1] == (
        "  cost: not known; the cluster does not say what nodes it has, look at its head"
    )
    early = lines({**counts, "ended": "deadline: 06:30 has come", **told}, "out")
    assert early[3] == "  the sample was ended early, deadline: 06:30 has come" and len(early) == len(said) + 1


def test_a_head_that_is_silent_costs_no_sample() -> None:
    """Two GPU nodes for all of it, a CPU node for a tenth; then the head answers no more."""
    there, now = {"a": "gpu", "b": "gpu"}, 0.0

    def look() -> list[Node]:
        if not there:
            raise RuntimeError("the head is busy")
        return [Node(node, (kind,)) for node, kind in there.items()]

    prices = Prices(own={"gpu": 3.6, "cpu": 0.36})
    account = Account(prices, look=look, clock=lambda: now, look_seconds=3600)
    assert _machines(account, prices) == {"gpu": 2}
    with tempfile.TemporaryDirectory() as folder:
        account.begin(Run(store=Store(), output=folder, id="000001", record={}, resumed=False), {})
        now = 900.0
        account.sample()
        there["c"] = "cpu"
        account.sample()
        now = 1000.0
        account.sample()
        there.clear()
        account.close()
    assert _machines(account, prices) == {"gpu": 2, "cpu": 1}
    assert _machines(Account(prices, look=look), prices) == {}


def test_what_bounds_the_run_bounds_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/a.jpg").write_bytes(b"a")
    job = replace(job_at(str(tmp_path / "out"), StoreConfig()), archive=ArchiveConfig(uri=str(tmp_path / "archive")))

    def flow(tried: Flow) -> dict[str, Any]:
        return {"ended": next((reason for watch in tried.watches if (reason := watch.enough()) is not None), None)}

    monkeypatch.setattr(estimating, "flow", flow)
    past = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
    told = estimate(job, expected(job.archive, Store(), None), Sample(), Prices(), lambda account: (Deadline(past),))
    assert str(told["ended"]).startswith("deadline: ") and lines(told, "out")[-1] == (
        f"  the sample was ended early, {told['ended']}"
    )
    assert estimate(job, expected(job.archive, Store(), None), Sample(), Prices())["ended"] is None


def test_a_sample_without_an_image_gives_counts_and_one_line() -> None:
    found = Listed(listed=3)
    found.rows["tar"], found.size["tar"], found.shards["tar"] = 3, 30_000_000, 3
    found.drawn = [("tar", planned([("tar", 1)]))]
    done = {"read": 0, "slowest": "Read", "stages": {"Read": {"workers": 1, "images_a_second": None}}, "seconds": {"Read": 0.1}}
    for clock in (timed([(4.0, 0, 0, 0)], last=True), timed([])):
        told = projected(found, clock, done, {"cpu": 1}, Prices())
        assert told == {"images": None, "bytes": 30_000_000, "shards": 3}
        assert lines(
            {"new": True, "unfinished": "", "listed": 3, "skipped": 0, "known": 0, "complete": True, **told}, "out"
        ) == [
            "dry run: 30.0 MB in 3 shards; nothing of it stays",
            "  passed over: 0 that are no images by name, 0 already in the table",
            "  no image in the sample; give --sample.images more",
        ]


@pytest.mark.parametrize(("size", "images"), [(0, 1000 + 60), (5_000_000, 1000 + 300)])  # guessed, or as the loose ones
def test_a_kind_without_an_image_in_the_sample_is_counted_by_what_images_are(size: int, images: int) -> None:
    found = Listed()
    found.rows.update({"object": 1000, "tar": 3})
    found.size.update({"object": 10_000_000, "tar": 30_000_000})
    table = planned([("object", 1)])
    found.drawn = [("object", table), ("tar", table)]
    assert _images(found, timed([(1.0, 0, 50, size), (2.0, 1, 0, 0)], last=True)) == (images, 40_000_000)


def job_at(output: str, store: StoreConfig) -> Flow:
    archive = ArchiveConfig(uri="s3://photos")
    return Flow(archive=archive, output=output, store=store, method="geotoken", fingerprint="f", river=[])


def test_the_sample_lies_in_the_output_where_no_reader_looks_and_is_removed(s3: S3Server) -> None:
    bucket, store = s3.bucket(), Store(s3.config())
    for output in (f"s3://{bucket}", f"s3://{bucket}/located/"):  # beside a bucket's root lies somebody else's bucket
        keep = join(output, "places", "kept.parquet")
        store.put(keep, b"0")
        with _aside(job_at(output, s3.config())) as place:
            assert place.startswith(f"{output.rstrip('/')}/.dry-run-")
            run, _ = open_run(store, place, method="geotoken", fingerprint="f", archive={})
            begin(run)
            store.put(join(place, "places", "000001-a.parquet"), b"0")
            assert latest(store, output) is None and unfinished_run(store, output) == ("", 0)
            assert unfinished_run(store, place) == ("000001", 1)
        assert [item.uri for page in store.objects(output) for item in page if "/.dry" in item.uri] == []
        assert store.exists(keep)


def test_what_a_killed_dry_run_left_is_gone_a_day_later(s3: S3Server, tmp_path: Path) -> None:
    old, new = f".dry-run-{time.time() - 90_000:.0f}-0a1b2c3d", f".dry-run-{time.time() - 80_000:.0f}-0a1b2c3d"
    output, store = f"s3://{s3.bucket()}/located", Store(s3.config())
    names = [f"{old}/runs/000001/run.json", f"{new}/runs/000001/run.json", ".dry-run-mine/a", "places/a.parquet"]
    for name in names:
        store.put(join(output, name), b"0")
    with _aside(job_at(output, s3.config())):
        pass
    left = [item.uri for page in store.objects(output) for item in page]
    assert left == [join(output, name) for name in sorted(names[1:])]
    for name in (old, new, ".dry-run-mine"):
        (tmp_path / name).mkdir()
    with _aside(job_at(str(tmp_path / "out"), StoreConfig())):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {new, ".dry-run-mine"}


def test_a_folder_that_is_not_there_is_not_made_for_a_sample(tmp_path: Path) -> None:
    output = tmp_path / "a" / "out"
    with _aside(job_at(str(output), StoreConfig())) as place:
        assert Path(place).parent == tmp_path and not output.parent.exists()
    output.mkdir(parents=True)
    with _aside(job_at(str(output), StoreConfig())) as place:
        assert Path(place).parent == output
        (Path(place) / "runs").mkdir()
    assert list(output.iterdir()) == [] and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_one_slice_is_timed_from_the_start() -> None:
    clock = timed([(4.0, 0, 8, 80)])
    assert clock.rate() == pytest.approx(2.0)


def test_the_clock_ends_the_sample_and_starts_once(tmp_path: Path) -> None:
    clock = Clock(images=10)
    clock.river([Hands(stage=dict)])
    started = clock.started
    clock.river([Hands(stage=dict)])
    assert clock.started == started and clock.enough() is None
    clock.slice({"shard": 0, "read": 9, "bytes": 1, "last": False, "end": 0})
    assert clock.enough() is None
    clock.slice({"shard": 0, "read": 1, "bytes": 1, "last": True, "end": 0})
    assert clock.enough() == "sampled: 10 images are enough"


def test_nothing_to_do_is_two_lines() -> None:
    assert lines({"new": False, "unfinished": "000003", "listed": 9, "skipped": 1, "known": 8, "complete": True}, "out") == [
        "dry run: nothing new in 9 objects for out",
        "  passed over: 1 that are no images by name, 8 already in the table, "
        "beside the unfinished run 000003, which goes first",
    ]
