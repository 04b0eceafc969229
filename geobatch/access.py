"""Who may work on a Ray cluster, said explicitly: the token's mode, and in one line what a refusal means.

Ray decides by RAY_AUTH_MODE whether a cluster asks for a token, and where it is unset by whether a token lies around, which
differs from machine to machine. So it is always set here. A private cluster, one process tree on loopback without a dashboard,
has none. A cluster that is joined is asked as the environment says; where that says nothing, with the token that is there, if
one is.

Ray 2.60 answers a wrong token as it answers a cluster that is not there: a ConnectionError after 20 s. A TCP connection tells
the two apart.

Joining also replaces the process's handler of SIGTERM by one of Ray's; the one that stood there is put back.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geobatch.errors import GeobatchError, MachineError, UserError

MODE = "RAY_AUTH_MODE"
_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

#: What to do about a token, for whoever is refused.
ADVICE = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token, which lies in "
    "~/.ray/auth_token on its head"
)


def settle_mode(joins: bool) -> str:
    """Sets RAY_AUTH_MODE where it is unset; returns it. `joins`: a cluster of somebody else, in place of a private one."""
    there = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    there = there or (Path.home() / ".ray" / "auth_token").is_file()
    mode = os.environ.setdefault(MODE, "token" if joins and there else "disabled")
    import ray

    if not ray.is_initialized():  # it read the environment when it was imported, and a token when one was first asked for
        inner: Any = importlib.import_module("ray._raylet")
        if (inner.get_authentication_mode() == inner.AuthenticationMode.TOKEN) != (mode.lower() == "token"):
            inner.Config.initialize("")
        inner.AuthenticationTokenLoader.instance().reset_cache()
    return mode


@contextmanager
def admitted(address: str | None) -> Iterator[None]:
    """Around `ray.init`: None for a private cluster, else the address of the one that is joined.

    Raises:
        UserError: the token is refused or missing, or nobody answers at the address.
        MachineError: Ray did not start, for any other reason that is no fault of the call itself.
    """
    mode = settle_mode(address is not None)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    except (Exception, SystemExit) as error:
        if address is not None and (refusal := refused(error, address, mode)) is not None:
            raise refusal from error
        if (failure := failed(error, address)) is not None:
            raise failure from error
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def refused(error: BaseException, address: str, mode: str) -> UserError | None:
    """What an error of Ray's means for the user who wanted to reach `address`; None: nothing known.

    SystemExit 15 is how Ray's own client gives up on a cluster that is not there.
    """
    if type(error).__name__ == "AuthenticationError":
        return UserError(f"the Ray cluster at {address} refuses this token (RAY_AUTH_MODE is {mode}); {ADVICE}")
    if not isinstance(error, ConnectionError | SystemExit | TimeoutError):
        return None
    if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
        return None
    if address != "auto" and not answers(address):
        return UserError(f"nothing answers at {address}; check --address, and that the cluster is up")
    if address == "auto" and "Could not find any running Ray" in str(error):
        return UserError("no Ray cluster runs here; leave --address out, or give the cluster's address")
    return UserError(f"the Ray cluster at {address} answers, but not to this token (RAY_AUTH_MODE is {mode}); {ADVICE}")


def failed(error: BaseException, address: str | None) -> MachineError | None:
    """What an error of Ray's start means that nobody's token or address is to blame for; None: it is a fault of the program.

    Ray raises what it has at hand: a TimeoutError after 30 s without its processes, an OSError where the disk or the number of
    processes is at its limit, a plain Exception or RuntimeError for what its C++ side says, a RayError, or it exits.
    """
    exits = type(error) is SystemExit and error.code != signal.SIGTERM  # that one, and what is made of it, is the user's end
    theirs = exits or isinstance(error, OSError | RuntimeError) or type(error) is Exception
    if isinstance(error, GeobatchError) or not (theirs or type(error).__module__.startswith("ray.")):
        return None
    said = " ".join(str(error).split())[:200] or "it does not say why"
    at = "on this machine" if address is None else f"at {address}"
    return MachineError(
        f"Ray did not start {at} ({type(error).__name__}: {said}); see that the machine has memory, disk and processes to "
        "spare, then run the same command again"
    )


def submission() -> str:
    """Name under which the driver that this process is was submitted to its cluster; empty: it was not.

    Ray says so in no variable of its own, but in the configuration that it hands to the driver (2.60, `job_supervisor`).
    """
    try:
        return str(json.loads(os.environ[_CONFIG])["metadata"]["job_submission_id"])
    except (KeyError, TypeError, ValueError):
        return ""


def submitted_with() -> frozenset[str]:
    """Names of the environment variables that this driver's submission sets for all of its processes."""
    try:
        return frozenset(json.loads(os.environ[_CONFIG])["runtime_env"]["env_vars"])
    except (KeyError, TypeError, ValueError):
        return frozenset()


def answers(address: str, seconds: float = 5.0) -> bool:
    """Whether a TCP connection to `host:port` or a URL comes about; True where the address names no port."""
    host, _, port = address.rpartition("://")[2].split("/")[0].rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), seconds).close()
    except OSError:
        return False
    return True
