"""How a process joins a Ray cluster, or starts one of its own: quiet, and calling nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geobatch.access import admitted, submitted_with
from geobatch.errors import UserError

#: Nothing calls home: Ray, Hugging Face, vLLM, and whoever honours the common word for it.
SILENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def joins(address: str | None) -> bool:
    """Whether `address` or RAY_ADDRESS names a cluster, and none is to be started."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local"


def start(address: str | None, *, cpus: int, processes: int, **local: Any) -> None:
    """Joins the cluster at `address` or RAY_ADDRESS, else starts a private one; nothing where Ray runs already.

    Args:
        address: "auto" or HOST:PORT; None and "local" mean a private one unless RAY_ADDRESS is set.
        cpus: logical CPUs of a private one.
        processes: worker processes that a private one may start at once.
        local: further arguments of `ray.init` for a private one.

    Raises:
        UserError: the address is a URL, or see `admitted`.
        MachineError: see `admitted`.
    """
    import ray

    os.environ.update(SILENCE)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # The C++ side of each driver complains once a pool about arguments in the object store, on the user's terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        return
    if address and address != "local":
        _joinable(address)
        # Ray refuses to start a driver that says again what its submission says.
        quiet = {name: value for name, value in SILENCE.items() if name not in submitted_with()}
        with admitted(address):
            ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": quiet})
        return
    # More processes than cores start at once here on purpose; Ray would warn of it on the terminal.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(processes))
    with admitted(None), _hushed():
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            **local,
        )


def _joinable(address: str) -> None:
    """Refuses a URL: a driver is one of the cluster's processes, and Ray's client (ray://) is none."""
    if "://" in address:
        raise UserError(
            f"a job cannot join {address}; on a machine of the cluster give --address auto, or HOST:6379 of its head, and from "
            "elsewhere submit the job: python jobs/submit.py --address http://HOST:8265 -- python jobs/…"
        )


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what Ray's C++ side writes to standard error while it starts: that it read its log level. Errors are raised."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
