"""A job on a cluster from afar: submitted, followed, tried again; its exit status is this process's.

`ray job submit` does most of it and three things not: its own status is 0 or 1 whatever the job's was, a job that failed stays
failed, and a second submission beside a living one is the user's business. Here a submission is called NAME-DATE-aN, N the
attempt, which Ray refuses to use twice; before one is made the cluster is asked whether another attempt of that name lives.
If it does, and runs the same command, it is followed in its place, so that typing the command again after a lost connection
goes on watching. Faults of machines (status 1, or death by a signal) are tried again; the user's (2), rejections (3) and ends
in order (4) are not, nor what somebody stopped (143).

A job's --deadline is made a moment before it is submitted: to a second attempt after six, "06:00" would be tomorrow's. Without
--timezone it is counted by this machine's clock. Once it is past there is no further attempt.

Ctrl-C ends the watching, not the job. A head that does not answer, or with a status of 500 or more, is asked for `PATIENCE`
seconds; the jobs of a head that died are gone with it, and the next attempt takes the run up from the bucket.

Where nobody watches (KubeRay, a timer), the attempts are its own; the lease at the output keeps two from working at once.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from requests.exceptions import HTTPError, Timeout

from geobatch.access import refused, settle_mode
from geobatch.errors import MachineError, UserError
from geobatch.pipeline.deadline import dated, said, same_but_for_the_clock
from geobatch.pipeline.entry import INTERRUPTED, MACHINES, TERMINATED, Terminated
from geobatch.progress import say

#: Seconds between two looks at a job, and for which a head may stay silent.
LOOK, PATIENCE = 1.0, 300.0

#: Seconds between two looks at its log, which comes whole each time: while it is shorter than `SHORT` characters, and after.
SHORT, LOG_LOOK, LONG_LOG_LOOK = 100_000, 5.0, 30.0

#: Seconds that one request may take.
ANSWER = 60.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Submits a job to a Ray cluster, follows its log, and ends as it ends; the command stands behind `--`."""

    address: str | None = None
    """Where the cluster takes jobs, such as http://127.0.0.1:8265; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    name: str = "geobatch"
    """What the submission is called; two jobs of one name never run at once."""
    date: str | None = None
    """Date in the submission's name; default: today's, UTC."""
    attempts: int = 3
    """How often the job is tried while machines are at fault."""
    wait: float = 30.0
    """Seconds before the second attempt; each further wait is twice as long."""
    working_dir: str | None = None
    """Folder to upload and run the command in; default: what the cluster's image holds."""

    def __post_init__(self) -> None:
        """Refuses what cannot work."""
        if self.attempts < 1 or self.wait < 0:
            raise UserError("a job needs one attempt at least and no negative wait; mend --attempts or --wait")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"{self.name!r} is no name of a submission; use letters, digits, dots, dashes")


def split_command(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is meant for the submitter and what is the job's command, divided by the first `--`."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def submit(config: Submit, command: Sequence[str]) -> int:
    """Submits, follows, tries again; returns the exit status of the job's last attempt.

    Raises:
        UserError: no command, no cluster, a token that is refused, or another command running under this name.
        MachineError: the head stays silent.
    """
    if not command:
        raise UserError(
            "no command; give it behind --, as in: python jobs/submit.py -- python jobs/geolocate_bucket.py --archive …"
        )
    typed, (command, ends) = command, dated(command)
    head = Head(config.address)
    for attempt in range(config.attempts):
        name = head.alive(config.name)
        if name is None:
            name = head.submit(_next(config, head.names()), command, config.working_dir)
            say(f"submitted {name}: {shlex.join(command)}")
        elif same_but_for_the_clock(theirs := head.entrypoint(name), typed) or theirs == shlex.join(command):
            say(f"{name} is running already; following it")
            command, ends = dated(shlex.split(theirs))
        else:
            raise UserError(f"{name} is running another command; wait for it, stop it with `ray job stop {name}`, or give "
                            "another --name")  # fmt: skip
        try:
            status = head.follow(name)
        except (KeyboardInterrupt, Terminated) as end:
            say(f"{name} goes on; follow it with the same command, end it with `ray job stop {name}`")
            return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
        say(f"{name} ended with status {status}")
        if not _machines(status) or attempt + 1 == config.attempts:
            return status
        pause = config.wait * 2**attempt
        if ends is not None and time.time() + pause >= ends.timestamp():
            say(f"machines were at fault, and there is no time for another attempt before --deadline {said(ends)}")
            return status
        say(f"machines were at fault; trying again in {pause:.0f} s, attempt {attempt + 2} of {config.attempts}")
        time.sleep(pause)
    raise AssertionError("unreachable")


class Head:
    """The head of a cluster, asked patiently.

    Args:
        address: URL; None: what the environment says.

    Raises:
        UserError: nothing answers there, or something that is no head, or the token is refused.
        MachineError: it took the connection and nothing more, or kept answering that it is out of order.
    """

    def __init__(self, address: str | None) -> None:
        self.mode = settle_mode(joins=True)
        self.address = address or "RAY_ADDRESS"
        try:
            self.client = self._reached(address)
            self.address = self.client.get_address()
        except (RayError, ConnectionError) as error:
            raise refused(error, self.address, self.mode) or error from error
        except Timeout as error:
            raise MachineError(
                f"{self.address} takes connections and did not answer for {ANSWER:.0f} s; look after its head, then run the "
                "same command again"
            ) from error
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            raise UserError(
                f"what answers at {self.address} is no Ray head ({_line(error)}); give --address its dashboard, such as "
                "http://127.0.0.1:8265"
            ) from error

    def _reached(self, address: str | None) -> _Client:
        """The client, which asks for the head's version; a head that starts behind a proxy answers with 502 or 503 at first."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return _Client(address)
            except HTTPError as error:
                if error.response is None or error.response.status_code < 500:
                    raise
                if time.monotonic() > until:
                    raise MachineError(
                        f"{self.address} has been out of order for {PATIENCE:.0f} s ({_line(error)}); look after its head, "
                        "then run the same command again"
                    ) from error
                time.sleep(min(5.0, LOOK * 2))

    def names(self) -> list[str]:
        """All submissions the cluster knows."""
        return [job.submission_id for job in self._ask(self.client.list_jobs) if job.submission_id]

    def alive(self, name: str) -> str | None:
        """The attempt under a name that has not ended, on whatever date."""
        ours = re.compile(re.escape(name) + r"-\d{4}-\d\d-\d\d-a\d+")
        for job in self._ask(self.client.list_jobs):
            if job.submission_id and ours.fullmatch(job.submission_id) and not job.status.is_terminal():
                return str(job.submission_id)
        return None

    def entrypoint(self, name: str) -> str:
        """The command of a submission."""
        return str(self._ask(lambda: self.client.get_job_info(name)).entrypoint)

    def submit(self, name: str, command: Sequence[str], working_dir: str | None) -> str:
        """Starts the command under the name.

        Raises:
            UserError: the name is taken.
        """
        environment = {"working_dir": working_dir} if working_dir else {}
        lost = False

        def once() -> str:
            nonlocal lost
            try:
                return str(self.client.submit_job(entrypoint=shlex.join(command), submission_id=name, runtime_env=environment))
            except (RayError, OSError, RuntimeError) as error:
                if "already exists" not in str(error):
                    lost = True  # also where the head took it and the reply went astray
                    raise
                if not lost:
                    raise UserError(f"{name} was submitted by somebody else this moment; run the command again") from error
                return name

        return self._ask(once)

    def follow(self, name: str) -> int:
        """Prints the submission's log as it grows, until it ends; returns its exit status, 143 if it was stopped."""
        shown, due = 0, 0.0
        while True:
            try:
                info = self._ask(lambda: self.client.get_job_info(name))  # first: the log read after it is whole
                if (over := info.status.is_terminal()) or time.monotonic() >= due:
                    log = self._ask(lambda: self.client.get_job_logs(name))
                    due = time.monotonic() + (LOG_LOOK if len(log) < SHORT else LONG_LOG_LOOK)
                    say(log[shown:], end="")
                    shown = max(shown, len(log))
            except _Forgotten:
                say(f"{self.address} knows nothing of {name} any more: its head was replaced")
                return MACHINES
            if over:
                return _status(info)
            time.sleep(LOOK)

    def _ask(self, question: Callable[[], T]) -> T:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return question()
            except (RayError, OSError, RuntimeError) as error:  # requests' own errors are OSErrors
                if refusal := refused(error, self.address, self.mode) if isinstance(error, RayError) else None:
                    raise refusal from error
                said = re.search(r"status code (4\d\d)", str(error))
                if said is not None and said[1] == "404":
                    raise _Forgotten(
                        f"{self.address} knows nothing of this job any more, its head was replaced; run the same command again"
                    ) from error
                if said is not None:
                    raise UserError(f"{self.address} refuses it ({_line(error)}); mend the command or the settings") from error
                if time.monotonic() > until:
                    raise MachineError(
                        f"{self.address} has not answered for {PATIENCE:.0f} s ({_line(error)}); what the job committed is "
                        "kept, and the same command follows it or takes it up"
                    ) from error
                time.sleep(min(5.0, LOOK * 2))


class _Forgotten(MachineError):
    """The cluster answers, and does not know the submission."""


class _Client(JobSubmissionClient):
    """Ray's, whose requests would wait for ever for a head that is gone."""

    def _do_request(self, *arguments: Any, **named: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": ANSWER, **named})


def _next(config: Submit, names: Iterable[str]) -> str:
    """The name of the next attempt: one above the largest there is."""
    date = config.date or datetime.now(UTC).date().isoformat()
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise UserError(f"--date {date} is no date; write it as {datetime.now(UTC).date().isoformat()}")
    ours = re.compile(re.escape(f"{config.name}-{date}-a") + r"(\d+)")
    numbers = [int(found[1]) for name in names if (found := ours.fullmatch(name))]
    return f"{config.name}-{date}-a{max(numbers, default=0) + 1}"


def _status(info: Any) -> int:
    """The exit status that a shell would give."""
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return TERMINATED
    code = info.driver_exit_code
    if code is None:  # it never started, or the head lost sight of it
        say(f"error: {_line(info.message or 'the cluster does not say why')}")
        return MACHINES
    return int(code) if code > 0 else 128 - int(code)


def _machines(status: int) -> bool:
    """Whether a status is of faults that another attempt may not meet: 1, or a death by a signal that nobody here sends."""
    return status == MACHINES or (status > 128 and status not in (INTERRUPTED, TERMINATED))


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
