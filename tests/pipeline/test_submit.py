"""Submissions without a cluster: names, commands, statuses; on one: tests/river/test_submit.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.job_submission import JobStatus

from geobatch.errors import MachineError, UserError
from geobatch.pipeline import submit as submitting
from geobatch.pipeline.deadline import dated, same_but_for_the_clock
from geobatch.pipeline.submit import Head, Submit, _machines, _next, _status, split_command, submit

WORDS = st.lists(st.text(max_size=5).filter(lambda word: word != "--"), max_size=4)


@settings(deadline=None)
@given(WORDS, st.lists(st.text(max_size=5), max_size=4))
def test_the_command_stands_behind_the_first_dashes(own: list[str], command: list[str]) -> None:
    assert split_command([*own, "--", *command]) == (own, command)
    assert split_command(own) == (own, [])


@settings(deadline=None)
@given(st.lists(st.integers(1, 99)), st.lists(st.text(max_size=8)))
def test_an_attempt_is_numbered_after_all_there_were(numbers: list[int], others: list[str]) -> None:
    config = Submit(name="a.b", date="2026-11-21")
    names = [*(f"a.b-2026-11-21-a{number}" for number in numbers), *others, "a-b-2026-11-21-a500", "a.b-2026-11-20-a600"]
    assert _next(config, names) == f"a.b-2026-11-21-a{max(numbers, default=0) + 1}"


@pytest.mark.parametrize(
    ("status", "code", "ours", "again"),
    [
        (JobStatus.SUCCEEDED, 0, 0, False),
        (JobStatus.FAILED, 1, 1, True),
        (JobStatus.FAILED, 2, 2, False),
        (JobStatus.FAILED, 3, 3, False),
        (JobStatus.FAILED, 4, 4, False),
        (JobStatus.FAILED, 137, 137, True),
        (JobStatus.FAILED, -9, 137, True),
        (JobStatus.FAILED, 143, 143, False),
        (JobStatus.FAILED, None, 1, True),  # its supervisor died
        (JobStatus.STOPPED, None, 143, False),
    ],
)
def test_a_status_is_the_job_s(status: JobStatus, code: int | None, ours: int, again: bool) -> None:
    assert _status(SimpleNamespace(status=status, driver_exit_code=code, message="m")) == ours
    assert _machines(ours) is again


def test_what_cannot_work_is_refused() -> None:
    for wrong in ({"attempts": 0}, {"wait": -1.0}, {"name": "-a"}, {"name": "a b"}):
        with pytest.raises(UserError):
            Submit(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no date"):
        _next(Submit(date="tonight"), [])
    with pytest.raises(UserError, match="no command"):
        submit(Submit(), [])


EVENING = datetime(2026, 11, 21, 21, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--deadline", "06:00", "--timezone", "Europe/Berlin", "--all"], "2026-11-22T06:00:00+01:00"),
        (["--timezone=Europe/Berlin", "--deadline=06:00"], "2026-11-22T06:00:00+01:00"),
        (["--deadline", "06:00", "--timezone", "America/New_York"], "2026-11-22T06:00:00-05:00"),
        (["--deadline", "2026-11-22T06:00+01:00"], "2026-11-22T06:00:00+01:00"),
        (["--deadline", "2020-01-01T06:00Z"], "2020-01-01T06:00:00+00:00"),  # past: the job refuses it
        (["--deadline", "soon"], None),
        (["--max-cost", "3", "--deadline"], None),
        ([], None),
    ],
)
def test_a_deadline_becomes_the_moment_that_is_meant(given: list[str], meant: str | None) -> None:
    words, ends = dated(["python", "job.py", *given], EVENING)
    assert (None if ends is None else ends.isoformat()) == meant
    assert dated(words, EVENING + timedelta(days=2)) == (words, ends)  # hours later it means the same
    assert len(words) == len(given) + 2 and [word for word in words if word not in ("python", "job.py", *given)] == (
        [] if meant is None else [word for word in words if word.endswith(meant)]
    )


def test_a_time_that_is_none_is_refused_before_anything_is_submitted() -> None:
    with pytest.raises(UserError, match="no time of a day"):
        dated(["job", "--deadline", "26:00"])
    with pytest.raises(UserError, match="no zone"):
        dated(["job", "--deadline", "06:00", "--timezone", "Mars/Base"])


def test_a_running_job_is_known_again_whatever_the_clock_shows_now() -> None:
    typed = ["job", "--deadline", "06:00", "--timezone", "UTC", "a b"]
    running = "job --deadline 2026-11-22T06:00:00+00:00 --timezone UTC 'a b'"
    assert (
        same_but_for_the_clock(running, typed)
        and not same_but_for_the_clock(running, [*typed, "--all"])
        and not same_but_for_the_clock(running + " 'x", typed)
    )
    assert not same_but_for_the_clock(running, [*typed[:2], "2026-11-23T06:00", *typed[3:]])  # another night, and said so
    assert (
        same_but_for_the_clock("job x", ["job", "x"])
        and not same_but_for_the_clock("job", ["job", "x"])
        and not same_but_for_the_clock("", ["job"])
    )


class Failing:
    """A cluster on which machines fail; keeps what it was asked to run."""

    def __init__(self, address: str | None) -> None:
        self.commands: list[list[str]] = []
        made.append(self)

    def names(self) -> list[str]:
        return []

    def alive(self, name: str) -> str | None:
        return None

    def submit(self, name: str, command: Sequence[str], working_dir: str | None) -> str:
        self.commands.append(list(command))
        return name

    def follow(self, name: str) -> int:
        return 1


made: list[Failing] = []


def test_no_attempt_is_made_for_another_night(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(submitting, "Head", Failing)
    at = datetime.now(UTC) + timedelta(hours=2)
    command = ["job", "--deadline", f"{at:%H:%M}", "--timezone", "UTC"]
    assert submit(Submit(attempts=3, wait=0.0), command) == 1
    first, *others = made[-1].commands
    assert datetime.fromisoformat(first[2]) == at.replace(second=0, microsecond=0) and others == [first, first]
    assert submit(Submit(attempts=3, wait=10_000.0), command) == 1  # it would begin when the deadline is past
    assert len(made[-1].commands) == 1 and "no time for another attempt" in "".join(capsys.readouterr())


class Talking:
    """A head whose job writes `size` characters a second and ends after `seconds`; a second passes at each sleep."""

    def __init__(self, seconds: int, size: int) -> None:
        self.seconds, self.size, self.now, self.looks, self.sent = seconds, size, 0, 0, 0

    def monotonic(self) -> float:
        return float(self.now)

    def sleep(self, seconds: float) -> None:
        assert seconds == submitting.LOOK
        self.now += 1

    def get_job_info(self, _: str) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(status=JobStatus.SUCCEEDED if self.now >= self.seconds else JobStatus.RUNNING)

    def get_job_logs(self, _: str) -> str:
        self.sent += 1
        return "".join(f"{number % 10}" * self.size for number in range(self.now))


@pytest.mark.parametrize(("seconds", "size", "sent"), [(61, 3, 14), (601, 40_000, 22), (2, 0, 2)])
def test_a_log_is_not_fetched_at_every_look(
    seconds: int, size: int, sent: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Talking(seconds, size)
    monkeypatch.setattr(submitting, "time", cluster)
    head = Head.__new__(Head)  # one that is connected to nothing
    head.client, head.address, head.mode = cluster, "here", "disabled"  # type: ignore[assignment]
    assert head.follow("x") == 0
    assert (cluster.looks, cluster.sent) == (seconds + 1, sent)
    assert capsys.readouterr().out == "".join(f"{number % 10}" * size for number in range(seconds))  # each once, in order


class Answering:
    """What stands at the head's address: one status an answer, the last one for ever; and a clock that only sleeping moves."""

    def __init__(self, statuses: list[int], body: str) -> None:
        self.statuses, self.body, self.now, self.asked = statuses, body, 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def request(self, _: str, url: str, **__: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code = self.statuses[min(self.asked, len(self.statuses) - 1)]
        answer._content, answer.url = self.body.encode(), url
        self.asked += 1
        return answer


@pytest.mark.parametrize(
    ("statuses", "body", "fault", "said", "asked"),
    [
        ([502, 503, 200], json.dumps({"ray_version": "2.60.0"}), None, "", 4),  # each client asks twice for the version
        ([503], "", MachineError, "out of order for 300 s (503", 152),
        ([400], "", UserError, "no Ray head (400", 1),
        ([404], "", UserError, "no Ray head (Version check returned 404", 1),
        ([200], "<html>", UserError, "no Ray head (", 1),
        ([200], "{}", UserError, "no Ray head ('ray_version')", 1),
    ],
)
def test_a_head_that_is_out_of_order_is_asked_again_and_what_is_none_is_not(
    monkeypatch: pytest.MonkeyPatch, statuses: list[int], body: str, fault: type[Exception] | None, said: str, asked: int
) -> None:
    there = Answering(statuses, body)
    monkeypatch.setattr(submitting, "time", there)
    monkeypatch.setattr(requests, "request", there.request)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    if fault is None:
        Head("http://127.0.0.1:1")
    else:
        with pytest.raises(fault) as raised:
            Head("http://127.0.0.1:1")
        assert said in str(raised.value) and "\n" not in str(raised.value)
    assert there.asked == asked
