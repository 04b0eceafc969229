"""Submissions without a cluster: names, commands, statuses; on one: tests/river/test_submit.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.job_submission import JobStatus

from geobatch.errors import UserError
from geobatch.pipeline.submit import Submit, _machines, _next, _status, split_command, submit

WORDS = st.lists(st.text(max_size=5).filter(lambda word: word != "--"), max_size=4)


@given(WORDS, st.lists(st.text(max_size=5), max_size=4))
def test_the_command_stands_behind_the_first_dashes(own: list[str], command: list[str]) -> None:
    assert split_command([*own, "--", *command]) == (own, command)
    assert split_command(own) == (own, [])


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
