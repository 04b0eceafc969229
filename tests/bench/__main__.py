"""Runs every benchmark and prints its ratios: `python -m tests.bench [NAME …]`.

Each `bench_*.py` has `run() -> list[dict]` with name, rival, ratio (ours over the rival's, above 1 is better) and measured.
What is printed goes to `.bench/results.json` as well, beside the machine it was measured on.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from geobatch.actors import cores

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    """Runs the named benchmarks, or all; returns the exit status."""
    names = sorted(path.stem for path in HERE.glob("bench_*.py"))
    unknown = [name for name in wanted if f"bench_{name}" not in names]
    if unknown:
        sys.stderr.write(
            f"error: no benchmark {unknown[0]!r}; there are {', '.join(n.removeprefix('bench_') for n in names)}\n"
        )
        return 2
    rows = []
    for name in names:
        if wanted and name.removeprefix("bench_") not in wanted:
            continue
        started = time.monotonic()
        for row in importlib.import_module(f"tests.bench.{name}").run():
            rows.append(row)
            print(f"{row['ratio']:8.2f} x  {row['name']}, against {row['rival']}: {row['measured']}", flush=True)
        print(f"            ({name} took {time.monotonic() - started:.0f} s)", flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": cores(), "torch": torch.__version__,
               "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
               "load": round(os.getloadavg()[0], 1)}  # fmt: skip
    folder = Path(".bench")
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"machine": machine, "results": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
