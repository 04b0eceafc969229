"""A job's exit status tells the truth, in one line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from geobatch.errors import MachineError, UserError
from geobatch.pipeline.entry import guarded


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, 0), (MachineError("the disk\nis gone"), 1), (UserError("no such bucket; name one"), 2), (KeyboardInterrupt(), 130)],
)
def test_status_and_line(raised: BaseException | None, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: object) -> None:
        if raised is not None:
            raise raised

    assert guarded(main, dict) == status
    said = capsys.readouterr().err
    assert said.count("\n") == (raised is not None) and "Traceback" not in said


def test_settings_that_refuse_each_other_end_in_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def parse() -> object:
        raise UserError("side is 0; give at least 1")

    assert guarded(print, parse) == 2
    assert capsys.readouterr().err == "error: side is 0; give at least 1\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda _: 1 / 0, dict)


@pytest.mark.parametrize(("chosen", "status"), [(3, 3), (4, 4), (0, 0), (None, 0), (True, 0), ({"placed": 7}, 0)])
def test_a_job_may_choose_its_status(chosen: object, status: int) -> None:
    assert guarded(lambda _: chosen, dict) == status


def test_tyros_end_is_left_alone() -> None:
    def parse() -> object:
        raise SystemExit(2)

    with pytest.raises(SystemExit) as ended:
        guarded(print, parse)
    assert ended.value.code == 2


@pytest.mark.parametrize("own", [True, False])
def test_who_is_terminated_leaves_in_order_and_says_so(own: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """By the handler of this process, and by the one that Ray puts in its place."""
    if own:  # in a process of its own, for its last second ends whoever asked
        source = TERMINATED.replace("HANG", "time.sleep(0.2)")
        ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout) == (143, "in order\n")
        assert ran.stderr == "error: terminated; the same command goes on from here\n"
        return
    before = signal.getsignal(signal.SIGTERM)

    def main(_: object) -> None:
        raise SystemExit(signal.SIGTERM)

    assert guarded(main, dict) == 143
    assert capfd.readouterr().err == "error: terminated; the same command goes on from here\n"
    assert signal.getsignal(signal.SIGTERM) is before


TERMINATED = """
import os, signal, sys, time
from geobatch.pipeline.entry import guarded

def main(_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except Exception:
        print("swallowed")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
        HANG
        print("in order", flush=True)

sys.exit(guarded(main, dict))
"""


def test_who_hangs_while_leaving_is_gone_before_the_kill() -> None:
    began = time.monotonic()
    source = TERMINATED.replace("HANG", "time.sleep(60)")
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (143, "") and 2 < time.monotonic() - began < 10
    assert "terminated; the same command" in ran.stderr
