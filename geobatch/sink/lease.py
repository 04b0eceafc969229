"""Who may work at an output: two runs at once would do everything twice and publish two tables.

    OUTPUT/lease/N.json    who holds it, since when, renewed every `RENEWAL` seconds; N rises, the largest counts

Nothing is asked of the store but what commits need too. A claim is a put-if-absent of the next number; its holder alone
writes that object again, to renew it and at last to say that it is released. Who comes to a lease that is held looks:

- the holder ran on this machine and its process is gone: the lease is taken over at once;
- it was last renewed longer ago than clocks may differ (`SKEW`, what S3 itself tolerates in a signature): at once, too;
- else it is watched. If it changes, its holder lives, and the newcomer is told who that is. If it does not change within
  `TTL` seconds of the newcomer's own clock, the holder is dead. No two clocks are compared for this.

A holder that was only asleep finds the larger number at its next renewal and stops. What it commits until then harms nothing:
commits are put-if-absent as well. So the lease saves work and money; that no row is lost or doubled does not depend on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

from geobatch.errors import GeobatchError, MachineError, UserError
from geobatch.progress import say
from geobatch.sink.publish import now
from geobatch.store import NotFound, Store, join

#: Seconds between two renewals, and without one until a holder counts as dead.
RENEWAL, TTL = 10.0, 60.0

#: Seconds by which the clocks of two machines may differ.
SKEW = 15 * 60.0

_LOOK = 1.0


class Lease:
    """A claim to one output, renewed by a thread until it is left.

    Args:
        store: reaches the output.
        output: folder or `s3://bucket/prefix`.
        who: what the next one is told beside machine and process, such as a submission's name.
        renewal, ttl: seconds, see above.

    Raises:
        UserError: on entering, if another run holds it.
    """

    def __init__(self, store: Store, output: str, who: str = "", renewal: float = RENEWAL, ttl: float = TTL) -> None:
        self.store, self.output, self.who, self.renewal, self.ttl = store, output, who, renewal, ttl
        self._number = 0
        self._lost: str | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Takes it, waiting up to `ttl` seconds for a silent holder."""
        while True:
            number, theirs = self._newest()
            if theirs is not None and not theirs.get("released"):
                self._wait_out(number, theirs)
            if self.store.put_if_absent(self._at(number + 1), self._record()):
                break
        self._number = number + 1
        self.store.delete(self._at(old) for old in range(max(1, number - 1), number + 1))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives it back; if the store does not answer, it runs out by itself."""
        self._left.set()
        self._thread.join()
        if self._lost is None:
            with contextlib.suppress(GeobatchError):
                self.store.put(self._at(self._number), self._record(released=True))

    @property
    def uri(self) -> str:
        """Where the claim stands while it is held."""
        return self._at(self._number)

    def check(self) -> None:
        """To be called wherever a run could still stop.

        Raises:
            MachineError: another run has taken the output over.
        """
        if self._lost is not None:
            raise MachineError(self._lost)

    def _at(self, number: int) -> str:
        return join(self.output, "lease", f"{number}.json")

    def _record(self, released: bool = False) -> bytes:
        about = {**_this_process(), "who": self.who, "renewed": now(), "at": time.time(), "beat": time.monotonic_ns()}
        return json.dumps({**about, "released": released}).encode()

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        """Number (0: none) and record of the lease that counts; no record where it is just being deleted."""
        names = [item.uri.rsplit("/", 1)[-1] for page in self.store.objects(join(self.output, "lease")) for item in page]
        number = max((int(found[1]) for name in names if (found := re.fullmatch(r"(\d+)\.json", name))), default=0)
        return number, self._read(number) if number else None

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.store.get(self._at(number)))
        except NotFound:
            return None
        except ValueError:
            raise UserError(f"{self._at(number)} is no lease; delete it if nothing works at {self.output}") from None
        return found

    def _wait_out(self, number: int, theirs: dict[str, Any]) -> None:
        """Returns once the holder is known to be dead or to have gone.

        Raises:
            UserError: it lives.
        """
        if _gone(theirs) or time.time() - float(theirs.get("at", 0)) > self.ttl + SKEW:
            return
        until, told = time.monotonic() + self.ttl, False
        while time.monotonic() < until:
            if not told and time.monotonic() > until - self.ttl + 2 * self.renewal:
                say(f"{self.output} is held by {_named(theirs)}, which is silent; it is given {self.ttl:.0f} s")
                told = True
            time.sleep(min(_LOOK, self.renewal / 2))
            seen = self._read(number)
            if seen is None or seen.get("released"):
                return
            if seen != theirs:
                raise UserError(
                    f"{self.output} is being worked on by {_named(seen)}; wait for that run to end, or stop it first"
                )

    def _keep(self) -> None:
        """The thread: renews until the lease is left or lost.

        A store that fails is asked again at the next turn. Nothing is said of it here: while it fails no slice can be committed
        either, and that error ends the run; once it answers, a lease that was taken over meanwhile is found out.
        """
        while not self._left.wait(self.renewal):
            with contextlib.suppress(GeobatchError):
                number, theirs = self._newest()
                if number > self._number:
                    by = "another run" if theirs is None else _named(theirs)
                    self._lost = f"{self.output} was taken over by {by} while this run was silent; what is committed is kept"
                    return
                self.store.put(self._at(self._number), self._record())


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "space": _space(), "pid": pid, "born": _born(pid)}


def _boot() -> str:
    """What tells one start of a machine's kernel from the next; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str | None:
    """The kernel's name of the process numbers that this process sees: two containers of one machine count their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _born(pid: int) -> str:
    """When a process began, in the kernel's ticks, so that a number used again is not taken for it; "" if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(theirs: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine that is no more; False where that cannot be known."""
    ours = _this_process()
    if not ours["boot"] or not ours["born"] or any(theirs.get(name) != ours[name] for name in ("host", "boot", "space")):
        return False
    return _born(int(theirs.get("pid", 0))) != theirs.get("born")


def _named(record: dict[str, Any]) -> str:
    who = f" ({record['who']})" if record.get("who") else ""
    return f"process {record.get('pid')} on {record.get('host')}{who}, last heard of at {record.get('renewed')}"
