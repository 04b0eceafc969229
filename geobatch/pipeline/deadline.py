"""When a run must end: a moment in ISO 8601, or the next time that clocks somewhere show HH:MM.

    --deadline 06:30 --timezone Europe/Berlin      the next half past six in Berlin, whatever the machine's clock is set to
    --deadline 2026-11-22T06:30+01:00              that moment
    --deadline 2026-11-22T06:30                    that moment in --timezone, or as this machine's clock counts

Clocks jump twice a year. A time that a jump leaves out (02:30 on the last Sunday of March) is taken for the moment of the
jump, the first that is not before it; of a time that comes twice the next one counts, and for a date the first. So a run told
to end at 02:30 each night ends each night once.

At the deadline the run reads and begins nothing more; what it has begun is finished (`drain`). It is over some minutes later,
so a deadline lies that much before the moment when the machines must be free. One that comes while the archive is still listed
ends the listing at its next page, before the next thousand rows of a manifest are asked for or the next container is opened
(`Hurried`), and nothing is begun.

Whoever submits a command that may run twice makes its HH:MM a moment first (`dated`), or the second would mean tomorrow's.
"""

from __future__ import annotations

import io
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from datetime import time as clock_time
from zoneinfo import ZoneInfo

from geobatch.errors import GeobatchError, UserError
from geobatch.pipeline.watch import Onlooker
from geobatch.store import Object, RangeFile, Store, StoreConfig, Stream

_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")

_FORMS = "give HH:MM, or a moment like 2026-11-22T06:30+01:00"

#: A jump of clocks is shorter; what is longer moves the date line (Samoa left out a whole day).
_LONGEST_JUMP = timedelta(hours=12)

#: Objects of which the store is asked, one by one, between two questions whether it is enough.
_ASKED = 1000


class Deadline(Onlooker):
    """Has enough once the moment has come.

    Args:
        at: the moment.
        clock: seconds since 1970; for tests.
    """

    def __init__(self, at: datetime, clock: Callable[[], float] = time.time) -> None:
        self.at, self.clock = at, clock

    def enough(self) -> str | None:
        """See `Watch`."""
        return f"deadline: {said(self.at)} has come" if self.clock() >= self.at.timestamp() else None


class Ended(Exception):
    """A listing is not to go on; says why."""


class Hurried(Store):
    """A store whose listings end once a run has enough.

    What lists is what a planner asks for: pages, the objects that a manifest names, containers that are opened. Each raises
    `Ended` once there is enough.

    Args:
        config: how it is reached.
        enough: see `geobatch.pipeline.watch.Watch`; asked before each page, each thousand objects, each container.
    """

    def __init__(self, config: StoreConfig, enough: Callable[[], str | None]) -> None:
        super().__init__(config)
        self.enough = enough

    def objects(self, prefix: str, after: str | None = None) -> Iterator[list[Object]]:
        """See `Store`."""
        for page in super().objects(prefix, after):
            self._go_on()
            yield page

    def head_many(self, uris: Iterable[str]) -> Iterator[Object | GeobatchError | None]:
        """See `Store`."""

        def asked() -> Iterator[str]:
            for number, uri in enumerate(uris):
                if number % _ASKED == 0:
                    self._go_on()
                yield uri

        return super().head_many(asked())

    def seekable(self, uri: str, size: int, *, if_match: str | None = None) -> io.BufferedReader[RangeFile]:
        """See `Store`."""
        self._go_on()
        return super().seekable(uri, size, if_match=if_match)

    def stream(self, uri: str, start: int = 0, *, if_match: str | None = None) -> io.BufferedReader[Stream]:
        """See `Store`."""
        self._go_on()
        return super().stream(uri, start, if_match=if_match)

    def _go_on(self) -> None:
        if (reason := self.enough()) is not None:
            raise Ended(reason)


def moment(text: str, where: str | None = None, now: datetime | None = None) -> datetime:
    """The moment that a user means, in the zone that they mean it in.

    Args:
        text: ISO 8601, or HH:MM or HH:MM:SS, of which the next is meant.
        where: name of a zone as IANA has them; None: this machine's.
        now: with a zone; None: now.

    Raises:
        UserError: it is neither, or past already; there is no such zone.
    """
    zone = _zone(where) if where else None
    now = now or datetime.now(UTC)
    if _CLOCK.fullmatch(text):
        return _in(_next(_clock(text), zone, now), zone)
    try:
        named = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--deadline {text!r} is no time; {_FORMS}") from None
    if named.tzinfo is None:
        try:
            found = min(_moments(named, zone))
        except OverflowError:
            raise UserError(f"--deadline {text!r} is outside of what calendars know; {_FORMS}") from None
        at = _in(found, zone)
    else:
        at = named
    if at <= now:
        raise UserError(
            f"--deadline {text} is past, it is {said(_in(now, zone))}; give a later one, or HH:MM for the next such time"
        )
    return at


def dated(command: Sequence[str], now: datetime | None = None) -> tuple[list[str], datetime | None]:
    """The command with its --deadline as the moment that is meant now, and that moment; None: it has none.

    Raises:
        UserError: there is no such time of a day, or no such zone.
    """
    words = list(command)
    number, before, text, where = _deadline(words)
    clock = _CLOCK.fullmatch(text)
    try:
        at = moment(text, where, now if clock else datetime(1970, 1, 1, tzinfo=UTC))
    except UserError:
        if clock:
            raise
        return words, None  # the job's to refuse, if it is one of geobatch's
    words[number] = before + at.isoformat()
    return words, at


def _deadline(words: Sequence[str]) -> tuple[int, str, str, str | None]:
    """The place of a command's deadline, what stands before it there, itself ("" where there is none), and its zone."""
    found: dict[str, tuple[int, str, str]] = {}
    for number, word in enumerate(words):
        flag, given, value = word.partition("=")
        if flag in ("--deadline", "--timezone") and (given or number + 1 < len(words)):
            found[flag] = (number, f"{flag}=", value) if given else (number + 1, "", words[number + 1])
    return (*found.get("--deadline", (0, "", "")), found["--timezone"][2] if "--timezone" in found else None)


def same_but_for_the_clock(running: str, typed: Sequence[str]) -> bool:
    """Whether a running command is the typed one, but that its HH:MM was made a moment when it was submitted."""
    number, _, text, _ = _deadline(typed)
    try:
        words = shlex.split(running)
    except ValueError:
        return False
    words[number : number + 1] = typed[number : number + 1] if _CLOCK.fullmatch(text) else words[number : number + 1]
    return words == list(typed)


def said(at: datetime) -> str:
    """A moment for people, with its offset."""
    return at.isoformat(sep=" ", timespec="seconds" if at.second else "minutes")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UserError(
            f"--timezone {name!r} is no zone that this machine knows; give a name like Europe/Berlin or UTC (a machine without "
            "time zones gets them by `pip install tzdata`)"
        ) from None


def _clock(text: str) -> clock_time:
    try:
        hour, minute, second = (int(part) for part in (text + ":0").split(":")[:3])
        return clock_time(hour, minute, second)
    except ValueError:
        raise UserError(f"--deadline {text!r} is no time of a day; {_FORMS}") from None


def _in(at: datetime, zone: ZoneInfo | None) -> datetime:
    """With the offset that counts at that moment; times that come twice equal nothing in Python while they name their zone."""
    local = at.astimezone(zone)
    return local.replace(tzinfo=timezone(local.utcoffset() or timedelta(0)), fold=0)


def _next(wanted: clock_time, zone: ZoneInfo | None, now: datetime) -> datetime:
    today = now.astimezone(zone).date()
    days = (today + timedelta(days=day) for day in range(-1, 4))  # a day that the date line takes away among them
    return min(at for day in days for at in _moments(datetime.combine(day, wanted), zone) if at > now)


def _moments(shown: datetime, zone: ZoneInfo | None) -> Iterator[datetime]:
    """The moments, in UTC, at which clocks show this, once or twice; or the jump that leaves it out."""
    early, late = sorted(_utc(shown.replace(fold=fold), zone) for fold in (0, 1))
    there = [at for at in dict.fromkeys((early, late)) if at.astimezone(zone).replace(tzinfo=None, fold=0) == shown]
    if there:
        yield from there
    elif late - early < _LONGEST_JUMP:
        yield _jump(early, late, zone)


def _utc(shown: datetime, zone: ZoneInfo | None) -> datetime:
    """Without a zone `datetime` asks the machine."""
    return (shown if zone is None else shown.replace(tzinfo=zone)).astimezone(UTC)


def _jump(before: datetime, after: datetime, zone: ZoneInfo | None) -> datetime:
    """The second at which the offset changes between two moments."""
    first, last = int(before.timestamp()), int(after.timestamp())
    offset = before.astimezone(zone).utcoffset()
    while last - first > 1:
        middle = (first + last) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == offset:
            first = middle
        else:
            last = middle
    return datetime.fromtimestamp(last, UTC)
