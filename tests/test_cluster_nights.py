"""The nightly manifest's command, by a real shell: what is tried again, until when, and what KubeRay is told."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.test_cluster import _job, manifest

#: Stands for Python: says the given moment, and of the job tells how it was called and ends as it is told.
PYTHON = """#!/bin/bash
if [ "$1" = -c ]; then echo "$ENDS"; exit; fi
echo "$*" >> "$FOLDER/calls"
exit $(echo $STATUSES | cut -d" " -f$(wc -l < "$FOLDER/calls"))
"""


@pytest.mark.parametrize(
    ("statuses", "ends", "status", "calls"),
    [
        ([0], "2100-01-01T06:00:00+01:00", 0, 1),
        ([2, 0], "2100-01-01T06:00:00+01:00", 2, 1),
        ([3, 0], "2100-01-01T06:00:00+01:00", 3, 1),  # a second run would find nothing new, and 0
        ([4, 0], "2100-01-01T06:00:00+01:00", 0, 1),  # ended in order is no failure
        ([1, 3, 0], "2100-01-01T06:00:00+01:00", 3, 2),
        ([137, 1, 0], "2100-01-01T06:00:00+01:00", 0, 3),
        ([1, 1, 1, 0], "2100-01-01T06:00:00+01:00", 1, 3),
        ([1, 0], "2000-01-01T06:00:00+01:00", 1, 1),  # it is past: the night is over
    ],
)
def test_what_a_night_does_again(statuses: list[int], ends: str, status: int, calls: int, tmp_path: Path) -> None:
    for name, text in (("python", PYTHON), ("sleep", "#!/bin/bash\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    told = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "FOLDER": str(tmp_path),
        "ENDS": ends,
        "STATUSES": " ".join(map(str, statuses)),
    }
    ended = subprocess.run(["bash", "-c", _job(manifest())["entrypoint"]], env=told, timeout=60, check=False)
    said = (tmp_path / "calls").read_text().splitlines()
    assert (ended.returncode, len(said)) == (status, calls)
    assert len(set(said)) == 1 and said[0].endswith(f"--deadline {ends}")


def test_a_deadline_that_comes_during_the_pause_ends_the_night(tmp_path: Path) -> None:
    """The year is 2050, and 2101 after a pause."""
    sleep = '#!/bin/bash\nsed -i s/2050/2101/ "$FOLDER/date"\n'
    date = '#!/bin/bash\n[ "$1" = -d ] && exec /bin/date -d 2100-01-01 +%s\nexec /bin/date -d 2050-01-01 +%s\n'
    for name, text in (("python", PYTHON), ("sleep", sleep), ("date", date)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    told = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FOLDER": str(tmp_path), "ENDS": "2100-01-01", "STATUSES": "1 0"}
    ended = subprocess.run(["bash", "-c", _job(manifest())["entrypoint"]], env=told, timeout=60, check=False)
    assert (ended.returncode, len((tmp_path / "calls").read_text().splitlines())) == (1, 1)


def test_the_night_s_moment_is_the_next_in_its_zone() -> None:
    script = shlex.split(_job(manifest())["entrypoint"])[2]
    found = re.search(r"ends=\$\(python -c (.*?\)\")\)", script)
    assert found is not None
    ended = subprocess.run(
        [sys.executable, "-c", *shlex.split(found[1])], capture_output=True, text=True, timeout=60, check=True
    )
    at, zone = datetime.fromisoformat(ended.stdout.strip()), zoneinfo.ZoneInfo(manifest()["spec"]["timeZone"])
    assert at.astimezone(zone).strftime("%H:%M") == "06:00" and at.tzinfo is not None
    assert timedelta(0) < at - datetime.now(UTC) <= timedelta(hours=25)
