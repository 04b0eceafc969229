"""What `cluster.yaml`'s workers run from their first boot on, by a clock 500 times as fast: they do not outlive their head."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FAST = 500
SCRIPT: str = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]["gpu_l4"]["node_config"]["UserData"]

#: Stand-ins for a machine's: a unit runs in the foreground, a raylet is a file, and the end of the machine another.
MACHINE = {
    "systemd-run": 'test "$1" = --unit=geobatch-alone && shift && exec "$@"',
    "pgrep": 'test "$*" = "-x raylet" && test -e raylet && echo 77',
    "shutdown": 'echo "$*" > ended',
    "sleep": f'exec /usr/bin/sleep "$(echo "$1" | awk \'{{ print $1 / {FAST} }}\')"',
    "timeout": f'seconds=$(echo "$1" | awk \'{{ print $1 / {FAST} }}\'); shift; exec /usr/bin/timeout "$seconds" "$@"',
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder in which the script may run, its tools in bin."""
    (tmp_path / "bin").mkdir()
    for name, body in MACHINE.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    (tmp_path / "user-data").write_text(SCRIPT)
    return tmp_path


@pytest.fixture
def watch(machine: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The script, as it boots."""
    path = {"PATH": f"{machine}/bin:/usr/bin:/bin"}
    with subprocess.Popen(["/bin/sh", "user-data"], cwd=machine, env=path, start_new_session=True) as running:
        yield running
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def test_it_ends_itself_once_no_raylet_ran_for_a_quarter_of_an_hour_and_not_before(
    machine: Path, watch: subprocess.Popen[bytes]
) -> None:
    (machine / "raylet").touch()
    time.sleep(3000 / FAST)
    assert watch.poll() is None, "twenty minutes of work"
    (machine / "raylet").unlink()
    time.sleep(100 / FAST)
    (machine / "raylet").touch()
    time.sleep(1200 / FAST)
    assert watch.poll() is None, "a raylet that came back in time"
    (machine / "raylet").unlink()
    gone = time.monotonic()
    assert watch.wait(30) == 0 and time.monotonic() - gone > 800 / FAST
    assert (machine / "ended").read_text() == "-h now\n"


def test_a_node_that_never_joins_has_time_to_pull_its_image(machine: Path, watch: subprocess.Popen[bytes]) -> None:
    time.sleep((1800 + 600) / FAST)
    assert watch.poll() is None
    assert watch.wait(30) == 0 and (machine / "ended").exists()


def test_it_is_a_script_that_a_shell_and_systemd_leave_as_it_is() -> None:
    assert SCRIPT.startswith("#!/bin/sh\n") and "$" not in SCRIPT
    subprocess.run(["bash", "-n"], input=SCRIPT.encode(), check=True)
