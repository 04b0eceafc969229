"""What a night is asked, what it refuses in one line, and how it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import tyro

from geobatch.errors import REASONS, UserError
from geobatch.pipeline.canary import Canary
from geobatch.pipeline.deadline import Deadline
from geobatch.pipeline.geolocate import GeolocateBucket
from geobatch.pipeline.limits import Budget, Rejections
from geobatch.pipeline.night import Night
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
    assert Night().watches(purse, None) == ()
    now = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
    night = Night(deadline="06:30", timezone="UTC", max_cost=3.0, max_rejected=0.5)
    at = night.ends(now)
    assert at == datetime(2026, 11, 22, 6, 30, tzinfo=UTC)
    deadline, budget, rejections = night.watches(purse, at, spent=1.0)
    assert isinstance(deadline, Deadline) and isinstance(budget, Budget) and isinstance(rejections, Rejections)
    assert budget.usd == 2.0 and not any(isinstance(each, Canary) for each in night.watches(purse, at))
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
    assert not Night(max_cost=1.0).again(taken_up) and Night(max_cost=1.5).again(taken_up)
