"""What really happened, below the errors that Ray wraps around it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from geobatch.errors import UserError


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and all that caused it, outermost first: Ray's `cause` where there is one, else Python's."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = getattr(following, "cause", None) or following.__cause__


def users_fault(error: BaseException) -> UserError | None:
    """The UserError that a worker raised, wherever Ray hid it.

    Raised in a task it is among the causes, with advice of Ray's own appended to its message; raised while an actor was made,
    only its text is left, in the last line of a traceback in the message of another error.
    """
    for cause in causes_of(error):
        if found := re.search(r"^geobatch\.errors\.UserError: (.+)$", str(cause), re.M):
            return UserError(found[1])
        if type(cause) is UserError:
            return UserError(str(cause).splitlines()[0])
    return None


def in_a_line(error: BaseException) -> str:
    """The most telling line of an error: the last one, which in a traceback names the exception."""
    for cause in reversed(list(causes_of(error))):
        lines = [line.strip() for line in str(cause).splitlines() if line.strip() and not set(line.strip()) <= {"^", "~"}]
        if lines:
            return lines[-1][:400] if "Traceback" in str(cause) or ", in " in str(cause) else lines[0][:400]
    return type(error).__name__
