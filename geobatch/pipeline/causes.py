"""What really happened, below the errors that Ray wraps around it, and whether another pass over an archive may cure it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import ray

from geobatch.errors import MachineError, UserError
from geobatch.progress import say

#: Passes in a row that may commit nothing before a run gives up.
BARREN_PASSES = 2

#: The same while they close in on images that kill: a slice that only waited for an actor loses an attempt by its death, too.
NARROWING_PASSES = 6


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and all that caused it, outermost first: Ray's `cause` where there is one, else Python's."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = getattr(following, "cause", None) or following.__cause__


def users_fault(error: BaseException) -> UserError | None:
    """The UserError, of whatever kind, that a worker raised, wherever Ray hid it.

    Raised in a task it is among the causes, below a twin that Ray makes of it with advice appended to its message; raised while
    an actor was made, only its text is left, in the last line of a traceback in the message of another error.
    """
    said = re.compile(rf"^(?:{'|'.join(_names(UserError))}): (.+)$", re.M)
    for cause in causes_of(error):
        if found := said.search(str(cause)):
            return UserError(found[1])
        if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayError):
            return UserError(str(cause).splitlines()[0])
    return None


def _names(kind: type[UserError]) -> Iterator[str]:
    """What tracebacks call errors of this kind."""
    yield re.escape(f"{kind.__module__}.{kind.__qualname__}")
    for narrower in kind.__subclasses__():
        yield from _names(narrower)


def in_a_line(error: BaseException) -> str:
    """The most telling line of an error: the last one, which in a traceback names the exception."""
    for cause in reversed(list(causes_of(error))):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip() and not set(line.strip()) <= {"^", "~"}]
        if lines:
            return lines[-1][:400] if "Traceback" in str(cause) or ", in " in str(cause) else lines[0][:400]
    return type(error).__name__


class Patience:
    """Counts the passes in a row that commit nothing.

    Args:
        output: where they should, for the message.

    Attributes:
        last: whether the pass before went through without an error: what it left, its readers could not read and left out, so
            that the next pass's readers are to say so in rows.
    """

    def __init__(self, output: str) -> None:
        self.output, self.last = output, False
        self._barren = self._closer = 0

    def after(self, committed: bool, error: BaseException | None, closer: int) -> None:
        """A pass over all that is left ended; returns if another one is worth its while.

        Args:
            committed: whether it committed anything.
            error: what it ended with, if not by itself.
            closer: deaths so far that closed in on an image (`narrow.Ledger.closer`).

        Raises:
            MachineError: too many passes in a row were in vain.
        """
        limit = NARROWING_PASSES if closer > self._closer else BARREN_PASSES
        self._closer, self.last = closer, error is None
        self._barren = 0 if committed else self._barren + 1
        text = in_a_line(error) if error is not None else ""
        if self._barren >= limit:
            why = f"the last error was: {text}; mend it" if text else "and nothing failed; see that all nodes reach it"
            raise MachineError(
                f"{self._barren} passes in a row committed nothing, {why} and run the same command again, what {self.output} "
                "holds is kept"
            ) from error
        say(f"a pass over the archive ended early ({text}); going on with what is left" if text else
            "a pass over the archive left out what could not be read; it is asked for once more")  # fmt: skip
        time.sleep(2.0 * self._barren)
