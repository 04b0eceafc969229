"""The locked versions can be had together from PyPI alone: no build of anything that lies elsewhere has found its way in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = ROOT / ".lock" / "requirements.txt"


def dockers() -> str:
    """The versions that the image is built with, by the line of the Dockerfile that makes them."""
    command = re.search(r"^RUN (\{ grep .*\}) > /tmp/locked\.txt", (ROOT / "jobs/cluster/Dockerfile").read_text(), re.MULTILINE)
    assert command is not None
    return subprocess.run(["bash", "-c", command.group(1)], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.torture
@pytest.mark.parametrize(("extras", "with_gpu"), [("cpu,test", False), ("gpu,geoclip,int8", True)])
def test_pip_finds_all_of_it(tmp_path: Path, extras: str, with_gpu: bool) -> None:
    """As a fresh machine and the image's build do; downloads what has no metadata of its own. The image brings Ray itself."""
    constraints = tmp_path / "locked.txt"
    constraints.write_text(dockers() + "ray==2.60.0\n" if with_gpu else LOCK.read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
    asked = [f".[{extras}]", "--constraint", str(constraints), "--ignore-installed", "--report", str(tmp_path / "report.json")]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", *asked],
        cwd=ROOT, env={**environment, "PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = {each["metadata"]["name"].lower() for each in json.loads((tmp_path / "report.json").read_text())["install"]}
    assert {"torch", "ray", "transformers", "vllm" if with_gpu else "pytest"} <= found
