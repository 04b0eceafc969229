"""What a night is asked, what it refuses in one line, and how it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tyro

from geobatch.errors import REASONS, MachineError, UserError
from geobatch.pipeline import estimate as estimating
from geobatch.pipeline import geolocate as main_job
from geobatch.pipeline.account import Account
from geobatch.pipeline.canary import Canary
from geobatch.pipeline.deadline import Deadline
from geobatch.pipeline.flow import Flow
from geobatch.pipeline.frozen import Wanted
from geobatch.pipeline.geolocate import GeolocateBucket, geolocate
from geobatch.pipeline.limits import Budget, Rejections
from geobatch.pipeline.night import Night, unspent
from geobatch.pipeline.watch import Onlooker
from geobatch.sink import Run, latest
from geobatch.store import Store
from tests.pipeline.test_flow import Nights
from tests.pipeline.test_limits import Purse


def account(**about: Any) -> dict[str, Any]:
    return {"new": True, "run": "000003", "read": 100, "rejected": 10, "reasons": {"broken": 7, "empty": 3}, "ended": None,
            "unfinished": 0, "shards": 5, **about}  # fmt: skip


CAGE: dict[str, Any] = {"canary": "c", "canary_truth": "t", "canary_stop": True}
WORSE = {"worse": True, "said": "8 images"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"all": True, "retry_rejected": ()}, "leave --retry-rejected out"),
        ({"retry_rejected": ("brokn",)}, "there is no reason 'brokn'; there are missing, changed"),
        ({"timezone": "UTC"}, "give --deadline"),
        ({"max_cost": 0.0}, "give USD above 0"),
        ({"max_cost": float("nan")}, "give USD above 0"),
        ({"max_rejected": 20.0}, "is no share"),
        ({"max_rejected": -0.1}, "is no share"),
        ({"canary": "x"}, "both --canary and --canary-truth"),
        ({"canary_truth": "x"}, "both --canary and --canary-truth"),
        ({"canary_stop": True}, "needs a canary"),
    ],
)
def test_what_does_not_go_together_is_one_line(flags: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as raised:
        Night(**flags)
    assert "\n" not in str(raised.value)


def test_what_is_wanted() -> None:
    assert Night().wanted().asked() == {"everything": False, "retry": []}
    assert Night(all=True).wanted().everything
    assert Night(retry_rejected=("broken", "timeout")).wanted().retry == {"broken", "timeout"}
    assert Night(retry_rejected=()).wanted().retry == frozenset(REASONS)
    assert Night(archive_emptied=True).wanted().emptied


@pytest.mark.parametrize(
    ("typed", "reasons"),
    [([], None), (["--retry-rejected"], ()), (["--retry-rejected", "broken", "timeout"], ("broken", "timeout"))],
)
def test_the_flags_are_typed_without_a_prefix(typed: list[str], reasons: tuple[str, ...] | None) -> None:
    needed = ["--archive", "a", "--output", "o", "--model", "m"]
    flags = ["--deadline", "06:30", "--timezone", "Europe/Berlin", "--max-cost", "12.5", "--max-rejected", "0.2"]
    config = tyro.cli(GeolocateBucket, args=[*needed, *flags, *typed, *([] if typed else ["--all"])])
    assert (config.deadline, config.timezone, config.max_cost, config.max_rejected) == ("06:30", "Europe/Berlin", 12.5, 0.2)
    assert config.retry_rejected == reasons and config.all == (not typed)


def test_who_looks_on() -> None:
    purse = Purse()
    assert Night().watches(purse, None, None) == ()
    now = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
    night = Night(deadline="06:30", timezone="UTC", max_cost=3.0, max_rejected=0.5)
    at = night.ends(now)
    assert at == datetime(2026, 11, 22, 6, 30, tzinfo=UTC)
    deadline, budget, rejections = night.watches(purse, at, 2.0)
    assert isinstance(deadline, Deadline) and isinstance(budget, Budget) and isinstance(rejections, Rejections)
    assert budget.usd == 2.0 and not any(isinstance(each, Canary) for each in night.watches(purse, at, None))
    with pytest.raises(UserError, match="is past"):
        Night(deadline=(now - timedelta(minutes=1)).isoformat()).ends(now)


@pytest.mark.parametrize(
    ("flags", "told", "status", "line"),
    [
        ({}, account(), 0, None),
        ({}, {"new": False, "table": 3, "rows": 10, "run": "000002"}, 0, None),
        ({"max_rejected": 0.1}, account(), 0, None),
        ({"max_rejected": 0.09}, account(), 3, "10.0% of 100 images were rejected, more than --max-rejected 0.09 (broken 7,"),
        ({}, account(ended="deadline: 06:30 has come", unfinished=2), 4, "100 images are done, 2 of 5 shards are left"),
        ({}, account(ended="cost: 3.00 USD of 3.00 are spent", unfinished=2), 4, "the same command goes on with the rest"),
        ({"max_rejected": 0.05}, account(ended="deadline: x", unfinished=2), 3, "--retry-rejected"),
        ({"max_rejected": 0.05}, account(ended="rejected: y", unfinished=2), 3, "more than --max-rejected 0.05"),
        ({}, account(ended="canary: 20 images", unfinished=4), 3, "runs/000003/canary.json"),
        (CAGE, account(canary=WORSE), 3, "the canary is worse: 8 images; look at runs/000003/canary.json"),
        (CAGE, account(canary=WORSE, ended="deadline: x", unfinished=4), 3, "runs/000003/canary.json"),
        ({**CAGE, "canary_stop": False}, account(canary=WORSE), 0, None),
        (CAGE, account(canary={"worse": False, "said": ""}), 0, None),
        (CAGE, account(canary=None), 0, None),
        ({"all": True}, account(ended="cost: x", left="open"), 4, "the table stands as it was; the same command"),
        ({"all": True, "max_rejected": 0.05}, account(ended="cost: x", left="open"), 4, "the same command goes on"),
        ({"max_rejected": 0.05}, account(ended="rejected: y", left="abandoned"), 3, "give the same command again"),
        ({}, account(ended="canary: 20 images", unfinished=4, left="abandoned"), 3, "the table stands as it was; look at runs"),
        ({"retry_rejected": ()}, account(ended="cost: x", unfinished=2), 4, "with the rest, after what was rejected again"),
        ({}, account(ended="price: nobody knows", unfinished=2), 2, "price: nobody knows; 100 images are done, 2 of 5 shards"),
        ({}, account(read=0, ended="deadline: x", wall_seconds=30_000.0), 2, "and in 500 min not one image came through; see"),
        ({}, account(read=0, ended="deadline: x", wall_seconds=300.0), 4, "0 images are done"),
        ({}, account(read=0, ended="price: x", wall_seconds=30_000.0), 2, "price: x"),
        ({"all": True}, account(ended="price: x", left="open"), 2, "the table stands as it was; the same command goes on"),
    ],
)  # fmt: skip
def test_the_exit_status_tells_the_truth(flags: dict[str, Any], told: dict[str, Any], status: int, line: str | None) -> None:
    found, said = Night(**flags).verdict(told)
    assert found == status
    assert (said is None) == (line is None) and (line is None or line in str(said)) and "\n" not in str(said)


def test_after_a_run_that_was_taken_up_the_archive_is_looked_at_again() -> None:
    taken_up = account(resumed=True, usd=1.0)
    assert Night().again(taken_up)
    assert not Night().again(account(resumed=False))
    assert not Night().again({**taken_up, "ended": "deadline: x"})
    assert not Night(**CAGE).again({**taken_up, "canary": WORSE}) and Night(**CAGE).again({**taken_up, "canary": None})
    assert not Night(all=True).again(taken_up) and not Night(retry_rejected=()).again(taken_up)


def test_what_was_asked_follows_a_run_that_was_asked_for_something_else() -> None:
    """Else the command would end with 0, and nothing of what it asks for done."""
    other = account(resumed=True, as_asked=False)
    assert Night(all=True).again(other) and Night(retry_rejected=("broken",)).again(other) and Night().again(other)
    assert not Night(all=True).again({**other, "ended": "deadline: x"})
    assert not Night(all=True).again({**other, "as_asked": True}) and Night().again({**other, "as_asked": True})


class Dies(Onlooker):
    def begin(self, run: Run, frozen: dict[str, Any]) -> None:
        raise MachineError("the driver dies")


def test_a_run_says_whether_it_was_asked_for_what_the_call_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(tmp_path, monkeypatch)
    assert nights.night(6)["as_asked"]
    for number in range(6, 8):
        (tmp_path / f"archive/{number}.jpg").write_bytes(b"%d" % number)
    with pytest.raises(MachineError):
        nights.night(0, watches=(Dies(),))
    first = nights.night(9, all=True)  # takes up the two new ones, and is told that this is not all
    assert (first["resumed"], first["as_asked"], first["read"]) == (True, False, 2) and Night(all=True).again(first)
    second = nights.night(9, all=True)
    assert (second["resumed"], second["as_asked"], second["read"]) == (False, True, 8) and not Night(all=True).again(second)
    # A driver that died while it listed left nothing to take up: what this call lists is its own.
    record = json.loads((tmp_path / "out/runs/000003/run.json").read_text())
    (tmp_path / "out/runs/000004").mkdir()
    (tmp_path / "out/runs/000004/run.json").write_text(json.dumps(record | {"asked": Wanted().asked()}))
    third = nights.night(9, all=True)
    assert (third["run"], third["resumed"], third["as_asked"], third["read"]) == ("000005", False, True, 8)
    assert json.loads((tmp_path / "out/runs/000005/run.json").read_text())["asked"]["everything"]


class Over(Onlooker):
    """Has enough once it was asked so often."""

    def __init__(self, times: int) -> None:
        self.times = times

    def enough(self) -> str | None:
        self.times -= 1
        return "deadline: 06:30 has come" if self.times < 0 else None


def test_a_deadline_that_comes_while_the_archive_is_listed_ends_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(tmp_path, monkeypatch)
    for _ in range(2):
        early = nights.night(6, watches=(Over(0),))
        status, line = Night().verdict(early)
        assert (early["new"], status) == (False, 4) and "\n" not in str(line) and not Night().again(early)
        assert str(line).startswith("ended while the archive was listed, deadline: 06:30 has come; the table stands")
        assert not list((tmp_path / "out").glob("runs/*")) and latest(Store(), str(tmp_path / "out")) is None
    # In the middle of a plan: what was written of it is nobody's, and the next call lists anew.
    monkeypatch.setattr("geobatch.archive.plan.TABLE_ROWS", 2)
    whole = Store.objects
    monkeypatch.setattr(Store, "objects", lambda *of: ([each] for page in whole(*of) for each in page))
    assert nights.night(6, watches=(Over(4),))["ended"] == "deadline: 06:30 has come"
    assert (tmp_path / "out/runs/000001/run.json").exists() and not (tmp_path / "out/runs/000001/plan.json").exists()
    done = nights.night(6)
    assert (done["run"], done["read"], done["ended"], done["resumed"]) == ("000002", 6, None, False)
    assert Night().verdict({**early, "ended": "price: nobody knows"})[0] == 2


class Told:
    """The main job with runs that are made up: what each returns, and what it was given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *told: dict[str, Any]) -> None:
        self.folder, self.told, self.jobs = folder, list(told), list[Flow]()
        monkeypatch.setattr(main_job, "flow", self._flow)
        monkeypatch.setattr(main_job, "_diagnosed", lambda *_: None)
        monkeypatch.setattr(Account, "cost_so_far", lambda _: self.usd)
        for name in ("model", "archive"):
            (folder / name).mkdir()
        (folder / "model/scripted.json").write_text('{"replies": {}}')
        (folder / "prices.json").write_text(json.dumps({"hours": {"this machine": 1.0}}))
        self.usd = 0.0

    def _flow(self, job: Flow) -> dict[str, Any]:
        self.jobs.append(job)
        told = self.told.pop(0)
        self.usd = told.get("tonight", 0.0)
        return account(skipped=0, known=0, table=1, placed=90, **told)

    def __call__(self, **flags: Any) -> int:
        archive, model, prices = (str(self.folder / name) for name in ("archive", "model", "prices.json"))
        config = GeolocateBucket(
            archive=archive, output=str(self.folder / "out"), model=model, method="geolocsft", prices=prices, **flags
        )
        return int(geolocate(config)["status"])

    def budgets(self) -> list[float]:
        return [each.usd for job in self.jobs for each in job.watches if isinstance(each, Budget)]


def test_the_job_goes_on_until_what_was_asked_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver before died after 6 USD, more than 12 h ago; tonight's 5 leave another 5, whatever the run cost in all."""
    job = Told(tmp_path, monkeypatch, {"resumed": True, "usd": 11.0, "tonight": 5.0}, {"resumed": False, "tonight": 1.0})
    assert job(max_cost=10.0) == 0 and job.budgets() == [10.0, 5.0]
    job.told, job.jobs = [{"resumed": True, "as_asked": False}, {"resumed": False, "as_asked": True}], []
    assert job(all=True) == 0 and len(job.jobs) == 2
    job.told, job.jobs = [{"resumed": True, "as_asked": False, "tonight": 10.0}], []
    capsys.readouterr()
    assert job(all=True, max_cost=10.0) == 4 and len(job.jobs) == 1
    assert "--max-cost is spent with that run; the same command goes on" in capsys.readouterr().out


def test_the_nights_bounds_are_a_dry_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, bounds = Told(tmp_path, monkeypatch), list[Any]()
    monkeypatch.setattr(main_job, "estimate", lambda *given: bounds.extend(given[-1](Purse())) or {"new": False})
    monkeypatch.setattr(main_job, "foretell", lambda *_: None)
    assert job(dry_run=True, max_cost=3.0, deadline="06:30", max_rejected=0.5) == 0
    assert [type(each) for each in bounds] == [Deadline, Budget] and bounds[1].usd == 3.0


def test_a_deadline_ends_a_dry_run_that_still_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Told(tmp_path, monkeypatch)
    (tmp_path / "archive/a.jpg").write_bytes(b"a")
    monkeypatch.setattr(Deadline, "enough", lambda _: "deadline: 06:30 has come")
    monkeypatch.setattr(estimating, "flow", lambda _: pytest.fail("nothing is sampled"))
    assert job(dry_run=True, deadline="06:30") == 4
    said = capsys.readouterr().out
    assert said.count("dry run: ended while the archive was listed, deadline: 06:30 has come; give a later --deadline") == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".dry-run-*"))


def test_of_a_budget_is_left_what_tonight_has_not_spent() -> None:
    """6 USD of a driver in its last 12 h and 5 of this one are what counts, not the 30 that the run has cost in all."""
    purse = Purse()
    assert unspent(Night(max_rejected=0.5).watches(purse, None, None)) is None
    watches = Night(max_cost=12.0).watches(purse, None, 12.0)
    purse.usd = 11.0
    assert unspent(watches) == 1.0
