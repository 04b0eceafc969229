"""Budgets and rejections: when they have enough, and what is said at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geobatch.errors import UserError
from geobatch.pipeline.limits import LEAST, Budget, Rejections, too_many
from geobatch.sink import Run, begin
from geobatch.store import Store
from tests.sink.rows import manifest
from tests.sink.test_run import opened


class Purse:
    """What a run has cost; a price may be missing."""

    def __init__(self) -> None:
        self.usd, self.unknown = 0.0, ""

    def cost_so_far(self) -> float:
        if self.unknown:
            raise UserError(f"nobody knows what {self.unknown!r} costs an hour; name it in a file of --prices")
        return self.usd


def new_run(resumed: bool = False) -> Run:
    return Run(store=Store(), output="/nowhere", id="000001", record={}, resumed=resumed)


def frozen(images: int, kind: str = "object") -> dict[str, Any]:
    return {"files": [{"first": 0, "rows": [images], "kinds": [kind], "path": "x"}], "shards": 1}


def row(read: int, rejected: int, reason: str = "unreadable", shard: int = 0) -> dict[str, Any]:
    return {"shard": shard, "number": 0, "last": True, "read": read, "placed": read - rejected, "rejected": rejected,
            "reasons": [(reason, rejected)] if rejected else []}  # fmt: skip


def test_a_budget_ends_when_it_is_spent() -> None:
    purse = Purse()
    budget = Budget(purse, 2.5)
    budget.begin(new_run(), frozen(1))
    purse.usd = 2.49
    assert budget.enough() is None
    purse.usd = 2.5
    assert budget.enough() == "cost: 2.50 USD of 2.50 are spent"


def test_a_run_that_a_budget_left_open_has_another_from_there(tmp_path: Path) -> None:
    purse = Purse()
    run = Run(store=Store(), output=str(tmp_path), id="000001", record={"started": "now"}, resumed=True)
    purse.usd = 2.6  # earlier drivers' included
    crashed = Budget(purse, 2.5)
    crashed.begin(run, frozen(1))
    assert crashed.enough() is not None
    left = run.leave(frozen(1), "cost: 2.60 USD of 2.50 are spent", lambda account: {"usd": 2.6})
    assert left["left"] == "open" and left["unfinished"] == 1
    second = Budget(purse, 2.5)
    second.begin(run, frozen(1))
    assert second.enough() is None
    purse.usd = 5.1
    assert second.enough() == "cost: 5.10 USD of 5.10 are spent, 2.60 of it by earlier drivers"


def test_a_budget_without_a_price_is_refused_at_once_and_ends_in_order_later() -> None:
    purse = Purse()
    budget = Budget(purse, 1.0)
    budget.begin(new_run(), frozen(1))
    purse.unknown = "p5.48xlarge"
    assert str(budget.enough()).startswith("price: nobody knows what 'p5.48xlarge'")
    with pytest.raises(UserError, match="--prices"):
        Budget(purse, 1.0).begin(new_run(), frozen(1))


def watching(share: float, images: int) -> Rejections:
    watch = Rejections(share)
    watch.begin(new_run(), frozen(images))
    return watch


def over(folder: Path, share: float, shards: list[tuple[str, list[str]]]) -> Rejections:
    """Over a real plan, as `manifest` makes it."""
    run = begin(opened(folder))
    watch = Rejections(share)
    watch.begin(run, run.freeze([manifest(shards)], {}))
    return watch


def test_a_run_stops_once_nothing_can_mend_it() -> None:
    watch = watching(0.1, 20_000)
    for _ in range(20):
        watch.slice(row(200, 100))  # half of them: not by far too many, while more than 18,000 are to come
        assert watch.enough() is None
    watch.slice(row(200, 1, "broken"))
    assert watch.enough() == "rejected: 2,001 of 4,200 images (unreadable 2,000, broken 1)"


@pytest.mark.parametrize("kind", ["object", "tar"])
def test_far_too_many_of_the_first_thousand_are_enough(tmp_path: Path, kind: str) -> None:
    def begun(folder: str) -> Rejections:
        return watching(0.2, 10_000_000) if kind == "object" else over(tmp_path / folder, 0.2, [("tar", ["t.tar"])])

    watch = begun("first")
    watch.slice(row(LEAST - 1, LEAST - 1))
    assert watch.enough() is None  # too few to say
    watch.slice(row(1, 1))
    assert watch.enough() is not None
    moderate = begun("second")
    for _ in range(100):
        moderate.slice(row(1000, 590))  # beyond the share, not by far: the end will judge
        assert moderate.enough() is None


def test_a_small_run_is_judged_at_its_end() -> None:
    watch = watching(0.5, 100)
    watch.slice(row(60, 60))
    assert watch.enough() is None
    watch.slice(row(39, 0))
    assert watch.enough() is None


def test_all_may_be_rejected_where_nothing_else_is_said_and_the_canary_never_counts() -> None:
    watch = watching(1.0, 10_000)
    watch.slice(row(9_000, 9_000))
    assert watch.enough() is None
    strict = watching(0.1, 10_000)
    strict.slice(row(5_000, 5_000, shard=-1))
    assert strict.enough() is None and strict._read == 0


@pytest.mark.parametrize(
    ("share", "rejected", "line"),
    [(0.2, 20, False), (0.2, 21, True), (0.0, 1, True), (0.0, 0, False), (1.0, 100, False)],
)
def test_the_verdict_at_the_end(share: float, rejected: int, line: bool) -> None:
    reasons = {"broken": rejected // 2, "unreadable": rejected - rejected // 2, "empty": 0, "timeout": 0}
    found = too_many({"read": 100, "rejected": rejected, "reasons": reasons}, share)
    assert (found is not None) == line
    if found is not None:
        assert found.startswith(f"{rejected}.0% of 100 images were rejected, more than --max-rejected {share:g} (unreadable")
        assert "\n" not in found and found.count(",") >= 3 and "timeout" not in found


def test_containers_that_cannot_be_read_are_a_share_of_their_own(tmp_path: Path) -> None:
    """900 of 1,000 tars are denied: 0.09 % of the rows."""
    shards = [("tar", [f"{n}.tar"]) for n in range(1000)]
    watch = over(tmp_path, 0.05, shards)
    for shard in range(100):
        watch.slice(row(10_000, 10, "broken", shard))
        assert watch.enough() is None
    for shard in range(100, 150):
        watch.slice(row(1, 1, shard=shard))
        assert watch.enough() is None  # of 1,000, 50 may be
    watch.slice(row(1, 1, shard=150))
    assert watch.enough() == "rejected: 51 of 151 containers could not be opened or broke off (broken 1,000, unreadable 51)"
    for shard in range(151, 1000):
        watch.slice(row(1, 1, shard=shard))
    account = {"read": 1_000_900, "rejected": 1_900, "reasons": {"broken": 1000, "unreadable": 900}}
    account |= watch.end(account)
    assert account["containers"] == {"planned": 1000, "unread": 900}
    assert too_many(account, 0.9) is None and too_many(account, 1.0) is None
    assert str(too_many(account, 0.05)).startswith(
        "900 of 1,000 tars, zips and the like could not be opened or broke off, more than --max-rejected 0.05 (broken 1,000"
    )


def test_what_counts_as_a_container_that_could_not_be_read(tmp_path: Path) -> None:
    zipped = [f"z.zip#{n}" for n in range(4)]
    shards = [("object", ["a", "b"]), ("zip", zipped[:2]), ("zip", zipped[2:]), ("parquet", ["p.parquet"]), ("tar", ["t.tar"])]
    watch = over(tmp_path, 0.0, shards)
    watch.slice(row(2, 2, "unreadable", 0))  # loose images are none
    watch.slice(row(2, 1, "broken_archive", 1))  # one member of a zip
    watch.slice(row(9, 2, "too_large", 4))
    assert watch.end({})["containers"] == {"planned": 3, "unread": 0}
    watch.slice(row(2, 2, "unreadable", 2))  # the same zip, of which one member came
    watch.slice(row(9, 1, "broken_archive", 4))
    watch.slice(row(9, 1, "broken_archive", 4))  # a slice that was done twice
    assert watch.end({})["containers"] == {"planned": 3, "unread": 1}
    assert watch.enough() is None  # a few are judged at the end
    assert watching(0.5, 10).end({}) == {}


@pytest.mark.parametrize("last_first", [False, True])
def test_a_zip_counts_as_unread_where_nothing_of_it_was_read_over_all_its_slices(tmp_path: Path, last_first: bool) -> None:
    """257 members are cut into 256 and 1; of one zip the last is damaged, the other may not be read at all."""
    zips = [[f"{name}.zip#{n:03}" for n in range(257)] for name in "ab"]
    watch = over(tmp_path, 0.05, [("zip", part) for members in zips for part in (members[:256], members[256:])])
    slices = [row(256, 0, shard=0), row(1, 1, "broken_archive", 1), row(256, 256, shard=2), row(1, 1, shard=3)]
    for each in reversed(slices) if last_first else slices:
        watch.slice(each)
    assert watch.end({})["containers"] == {"planned": 2, "unread": 1}


def test_an_empty_run_rejected_nothing() -> None:
    assert too_many({"read": 0, "rejected": 0, "reasons": {}}, 0.0) is None
