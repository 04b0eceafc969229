"""How a job ends: its exit status tells the truth, and what is wrong is one line.

0    done
1    workers, disks or networks kept failing; the same command goes on from here
2    an argument, an output folder or a missing price that the user must put right
3    more images were rejected than --max-rejected allows, or the canary stopped the run; what is committed is kept
4    ended in order before all was done (--deadline, --max-cost); the next run goes on with the rest
130  interrupted; the same command goes on from here
143  terminated; the same command goes on from here

A job that ends with 3 or 4, or in order with 2, returns that number from its `main`; every other end is an exception. Some ends
are not this module's: a traceback, which is a bug, ends with 1 like any of Python's, and a process that was killed shows 137
(SIGKILL, mostly for want of memory) or 139 (SIGSEGV).

Whoever terminates waits little: `ray job stop` three seconds between SIGTERM and SIGKILL, Kubernetes thirty. What is committed
is durable already, so all there is to do is to leave in order: the lease is given back, actors are let go. After `GRACE`
seconds the process ends all the same. Ray puts a handler of its own in the place of any other when a driver joins a cluster;
`geobatch.access` puts this one back, and the end that Ray's makes (status 15) is known here as well.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from geobatch.errors import GeobatchError, UserError

Config = TypeVar("Config")

#: Seconds that leaving in order may take after SIGTERM.
GRACE = 2.5

#: Exit statuses, by what they mean.
DONE, MACHINES, USER, REJECTED, ENDED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143

_ON = "; the same command goes on from here"


class Terminated(SystemExit):
    """SIGTERM. No error of Python's own hierarchy below `Exception`, so that nothing retries it."""


def guarded(main: Callable[[Config], object], parse: Callable[[], Config]) -> int:
    """Runs `main(parse())` and returns the exit status, which `main` may choose; settings that refuse each other end in one
    line too.
    """
    with _ending_in_order():
        try:
            chosen = main(parse())
        except UserError as error:
            return _end(USER, str(error))
        except GeobatchError as error:
            return _end(MACHINES, str(error))
        except KeyboardInterrupt:
            return _end(INTERRUPTED, f"interrupted{_ON}")
        except SystemExit as ended:
            if isinstance(ended, Terminated):
                return TERMINATED
            if ended.code != signal.SIGTERM:  # tyro's
                raise
            return _end(TERMINATED, f"terminated{_ON}")
    return chosen if isinstance(chosen, int) and not isinstance(chosen, bool) else DONE


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM raises `Terminated` here, once, and ends the process if leaving takes long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever stops a job tells all its processes, some twice
        last = threading.Timer(GRACE, os._exit, (TERMINATED,))  # the interpreter's own end waits for threads and for Ray
        last.daemon = True
        last.start()
        os.write(2, f"error: terminated{_ON}\n".encode())
        raise Terminated(TERMINATED)

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, before)


def _end(status: int, text: str) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    sys.stderr.flush()
    return status
