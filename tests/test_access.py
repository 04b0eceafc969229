"""Tokens and refusals without a cluster; with one: tests/river/test_submit.py."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from geobatch.access import ADVICE, admitted, answers, refused, settle_mode, submission, submitted_with
from geobatch.errors import MachineError, UserError
from geobatch.pipeline.entry import TERMINATED, Terminated


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token, an environment that says nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    return tmp_path


def test_the_mode_is_always_said(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nothing_set / ".ray").mkdir()
    (nothing_set / ".ray/auth_token").write_text("t")
    assert settle_mode(joins=False) == "disabled" == os.environ["RAY_AUTH_MODE"]
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert settle_mode(joins=True) == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert settle_mode(joins=True) == "disabled"  # the environment knows better
    monkeypatch.delenv("RAY_AUTH_MODE")
    (nothing_set / ".ray/auth_token").unlink()
    assert settle_mode(joins=True) == "disabled"
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/token")
    assert settle_mode(joins=True) == "token"


def test_a_refusal_says_what_to_do() -> None:
    class AuthenticationError(Exception):
        """As Ray calls its own."""

    said = refused(AuthenticationError("long\nwords"), "10.0.0.1:6379", "token")
    assert said is not None and ADVICE in str(said) and "\n" not in str(said)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        said = refused(ConnectionError("no"), f"127.0.0.1:{port}", "disabled")
        assert said is not None and "not to this token (RAY_AUTH_MODE is disabled)" in str(said)
        assert answers(f"http://127.0.0.1:{port}/x") and answers("auto")
    said = refused(SystemExit(15), f"127.0.0.1:{port}", "token")
    assert said is not None and "nothing answers at" in str(said)
    assert refused(SystemExit(1), "x:1", "token") is refused(ValueError("a bug"), "x:1", "token") is None
    said = refused(ConnectionError("Could not find any running Ray instance"), "auto", "token")
    assert said is not None and "no Ray cluster runs here" in str(said)


class RayletDied(Exception):
    """As Ray's own, which come of many classes."""

    __module__ = "ray.exceptions"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("The current node timed out during startup.\nThis could happen because some of the Ray processes failed."),
        Exception("The current node timed out during startup. This could happen because the raylet failed to startup."),
        OSError(28, "No space left on device"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        RuntimeError("Failed to start GCS"),
        ConnectionError("ray client connection timeout"),
        SystemExit(1),
        RayletDied(""),
    ],
)
def test_a_start_of_ones_own_that_fails_is_one_line_on_what_to_do(error: BaseException) -> None:
    with pytest.raises(MachineError, match="Ray did not start on this machine") as found, admitted(None):
        raise error
    assert "\n" not in str(found.value) and str(found.value).endswith("then run the same command again")
    assert type(error).__name__ in str(found.value) and found.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("num_cpus"), KeyError("a bug"), MachineError("said already"), UserError("so")),
        *(Terminated(TERMINATED), SystemExit(15), KeyboardInterrupt()),
    ],
)
def test_a_fault_of_the_program_one_that_is_said_already_and_an_end_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as found, admitted(None):
        raise error
    assert found.value is error


def test_the_handler_that_stood_there_is_put_back_whatever_happens() -> None:
    def ours(*_: object) -> None:
        raise AssertionError("nobody terminates this")

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with admitted(None):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(UserError, match="nothing answers"), admitted("127.0.0.1:9"):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise ConnectionError("Failed to connect")
        assert signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(ZeroDivisionError), admitted("127.0.0.1:9"):
            raise ZeroDivisionError
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_driver_knows_what_it_was_submitted_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission() == ""
    for said, name in (('{"metadata": {"job_submission_id": "night-a1"}}', "night-a1"), ("{", ""), ('{"metadata": null}', "")):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", said)
        assert submission() == name and not submitted_with()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"env_vars": {"DO_NOT_TRACK": "1", "A": "b"}}}')
    assert submitted_with() == {"DO_NOT_TRACK", "A"}
