"""When a run must end, wherever and whenever clocks jump."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.plan import plan
from geobatch.errors import UserError
from geobatch.pipeline.deadline import Deadline, Ended, Hurried, moment, said
from geobatch.store import Object, Store, StoreConfig
from tests.archive.reading import put
from tests.archives import make

#: With jumps of an hour north and south, of half an hour, at midnight, without any, and one that left out a day.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
)

NOWS = st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))
CLOCKS = st.tuples(st.integers(0, 23), st.integers(0, 59))


def shown(at: datetime, zone: str) -> str:
    return at.astimezone(ZoneInfo(zone)).strftime("%H:%M")


def first_minute(now: datetime, zone: str, wanted: str) -> Iterator[datetime]:
    """The slow reference: every minute from now on at which clocks show the time."""
    at = now.replace(second=0) + timedelta(minutes=1)
    for _ in range(60 * 52):
        if shown(at, zone) == wanted:
            yield at
        at += timedelta(minutes=1)


@settings(max_examples=50, deadline=None)
@given(NOWS, CLOCKS, st.sampled_from(ZONES))
def test_the_next_such_time_comes_and_comes_first(now: datetime, clock: tuple[int, int], zone: str) -> None:
    wanted = f"{clock[0]:02d}:{clock[1]:02d}"
    at = moment(wanted, zone, now)
    assert now < at <= now + timedelta(hours=49)
    assert at.utcoffset() == at.astimezone(ZoneInfo(zone)).utcoffset()
    if shown(at, zone) == wanted:
        assert at == next(first_minute(now, zone, wanted))
    else:  # a jump left it out: clocks showed less a second before, and show more now
        before = at - timedelta(seconds=1)
        assert before.astimezone(ZoneInfo(zone)).utcoffset() != at.utcoffset()
        assert shown(before, zone) < wanted < shown(at, zone) or shown(before, zone) > shown(at, zone)
        following = next(first_minute(now, zone, wanted), None)
        assert following is None or following > at


@pytest.mark.parametrize(
    ("zone", "now", "wanted", "meant"),
    [
        ("Europe/Berlin", "2026-03-29T00:30+01:00", "02:30", "2026-03-29T03:00+02:00"),  # left out: the jump
        ("Europe/Berlin", "2026-03-29T03:00+02:00", "02:30", "2026-03-30T02:30+02:00"),  # the jump is over
        ("Europe/Berlin", "2026-10-25T00:30+02:00", "02:30", "2026-10-25T02:30+02:00"),  # the first of two
        ("Europe/Berlin", "2026-10-25T02:45+02:00", "02:30", "2026-10-25T02:30+01:00"),  # the second
        ("Europe/Berlin", "2026-10-25T02:30+01:00", "02:30", "2026-10-26T02:30+01:00"),
        ("America/New_York", "2026-03-08T00:00-05:00", "2:15", "2026-03-08T03:00-04:00"),
        ("Australia/Lord_Howe", "2026-10-04T01:00+10:30", "02:10", "2026-10-04T02:30+11:00"),  # half an hour
        ("Pacific/Apia", "2011-12-29T12:00-10:00", "06:00", "2011-12-31T06:00+14:00"),  # a day that never was
        ("UTC", "2026-11-21T23:59:59+00:00", "00:00", "2026-11-22T00:00+00:00"),
        ("UTC", "2026-11-21T06:30:00+00:00", "06:30:00", "2026-11-22T06:30+00:00"),  # now is not next
        ("UTC", "2026-11-21T06:30:00+00:00", "06:30:05", "2026-11-21T06:30:05+00:00"),
    ],
)
def test_clocks_that_jump(zone: str, now: str, wanted: str, meant: str) -> None:
    assert moment(wanted, zone, datetime.fromisoformat(now)) == datetime.fromisoformat(meant)


@settings(max_examples=60, deadline=None)
@given(NOWS, st.integers(1, 10**8), st.sampled_from(ZONES))
def test_a_moment_with_its_offset_is_that_moment(now: datetime, later: int, zone: str) -> None:
    at = (now + timedelta(seconds=later)).astimezone(ZoneInfo(zone))
    assert moment(at.isoformat(), "Asia/Kathmandu", now) == at
    with pytest.raises(UserError, match="is past"):
        moment(now.astimezone(ZoneInfo(zone)).isoformat(), zone, now + timedelta(seconds=later))


@settings(max_examples=60, deadline=None)
@given(st.dates(date(2006, 1, 1), date(2035, 1, 1)), CLOCKS, st.sampled_from(ZONES))
def test_a_date_without_an_offset_is_the_zones(day: date, clock: tuple[int, int], zone: str) -> None:
    written = f"{day.isoformat()}T{clock[0]:02d}:{clock[1]:02d}"
    now = datetime(2005, 6, 1, tzinfo=UTC)
    if zone == "Pacific/Apia" and day == date(2011, 12, 30):
        return
    at = moment(written, zone, now)
    local = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    naive = datetime.fromisoformat(written)
    exists = naive.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == naive
    assert local == naive if exists else naive < local <= naive + timedelta(hours=1)


def test_without_a_zone_it_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        now = datetime(2026, 3, 8, 4, 0, tzinfo=UTC)
        assert moment("02:30", None, now) == moment("02:30", "America/New_York", now)
        assert moment("2026-11-01T01:30", None, now) == datetime.fromisoformat("2026-11-01T01:30-04:00")
        assert said(moment("09:00", None, now)) == "2026-03-08 09:00-04:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "zone", "why"),
    [
        ("tomorrow", None, "is no time; give HH:MM"),
        ("25:00", None, "is no time of a day"),
        ("12:61", "UTC", "is no time of a day"),
        ("", None, "is no time"),
        ("2026-13-01", "UTC", "is no time"),
        ("9999-12-31T23:59", "America/New_York", "outside of what calendars know"),
        ("2020-01-01T00:00", "UTC", "is past, it is"),
        ("06:30", "Europe/Nowhere", "no zone that this machine knows"),
        ("06:30", "../etc/passwd", "no zone"),
        ("06:30", "Europe", "no zone"),
    ],
)
def test_what_is_no_deadline_is_one_line(text: str, zone: str | None, why: str) -> None:
    with pytest.raises(UserError, match=why) as raised:
        moment(text, zone)
    assert "\n" not in str(raised.value)


def test_it_has_enough_from_that_moment_on() -> None:
    clock = [0.0]
    at = datetime(2026, 11, 22, 6, 30, tzinfo=UTC)
    deadline = Deadline(at, lambda: clock[0])
    clock[0] = at.timestamp() - 0.001
    assert deadline.enough() is None
    clock[0] += 0.001
    assert deadline.enough() == "deadline: 2026-11-22 06:30+00:00 has come"


def after(times: int) -> Callable[[], str | None]:
    """Enough once it was asked so often."""
    left = iter(range(times))
    return lambda: None if next(left, None) is not None else "deadline: it has come"


@pytest.mark.parametrize(("times", "asked"), [(0, 0), (1, 0), (2, 1000), (3, 2000)])
def test_a_deadline_ends_a_manifest_between_a_thousand_rows_and_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, asked: int
) -> None:
    """Each row is a request of its own: ten million of them take three hours."""
    heads, head = list[str](), Store.head

    def counted(store: Store, uri: str) -> Object | None:
        heads.append(uri)
        return head(store, uri)

    put(tmp_path, "a.jpg", b"a")
    uri = put(tmp_path, "m.csv", "\n".join(["uri", "a.jpg", *(f"gone/{number}.jpg" for number in range(2500))]).encode())
    monkeypatch.setattr(Store, "head", counted)
    with pytest.raises(Ended, match="deadline: it has come"):
        list(plan(Hurried(StoreConfig(), after(times)), ArchiveConfig(uri=uri)))
    assert len([each for each in heads if each != uri]) == asked


def test_a_thousand_objects_are_asked_for_at_once_whoever_asks(tmp_path: Path) -> None:
    found = Hurried(StoreConfig(), after(1)).head_many(str(tmp_path / f"{number}") for number in range(1500))
    assert [next(found) for _ in range(1000)] == [None] * 1000
    with pytest.raises(Ended):
        next(found)


@pytest.mark.parametrize("ending", ["zip", "parquet"])
def test_a_deadline_ends_a_page_of_containers_before_the_next_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    members = make.images(["a.jpg", "b.jpg"])
    data = make.zipped(members) if ending == "zip" else make.parquet([each for _, each in members], style="binary")
    for number in range(5):
        put(tmp_path, f"{number}.{ending}", data)
    opened, seekable = list[str](), Store.seekable

    def counted(store: Store, uri: str, size: int, *, if_match: str | None = None) -> object:
        opened.append(uri[-len(ending) - 2 :])
        return seekable(store, uri, size, if_match=if_match)

    monkeypatch.setattr(Store, "seekable", counted)
    with pytest.raises(Ended):  # asked once before the page
        list(plan(Hurried(StoreConfig(), after(3)), ArchiveConfig(uri=str(tmp_path))))
    assert opened == [f"0.{ending}", f"1.{ending}"]
