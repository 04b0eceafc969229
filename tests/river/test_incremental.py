"""A standing table, night after night, by the job itself: unchanged, changed, and a million objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from geobatch.sink import latest, read
from geobatch.store import Store
from tests.archives import endless
from tests.archives.endless import Endless
from tests.river.conftest import Tiny
from tests.river.job import run_job, said
from tests.sink.million import extend

OBJECTS, MILLION = 20_000, 1_000_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endless]:
    """An archive of any size."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    with endless.endless() as made:
        yield made


def arguments(server: Endless, output: Path, tiny: Tiny) -> list[str]:
    return [
        *("--archive", server.archive, "--output", str(output), "--model", str(tiny.model)),
        *("--store.endpoint", server.endpoint, "--store.region", "us-east-1", "--workers", "1"),
    ]


def pictures(tiny: Tiny, count: int) -> list[bytes]:
    """Some of the tiny world's loose images, none twice, then one that is none."""
    found = [path.read_bytes() for path in sorted((tiny.archive / "loose").glob("*.jpg"))[: count - 1]]
    assert len(set(found)) == count - 1
    return [*found, b"no image"]


def by_number(output: Path) -> dict[int, dict[str, object]]:
    rows = read(str(output), deleted="mark").to_pylist()
    found = {int(str(row["image_id"])[-12:-4]): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.timeout(600)
def test_night_after_night(server: Endless, tiny: Tiny, tmp_path: Path) -> None:
    given, bodies = arguments(server, tmp_path / "out", tiny), pictures(tiny, 10)
    server.holds(10, tuple(bodies))
    first = run_job(*given)
    assert first.status == 0, first.output
    assert server.asked()["get"] >= 10
    extend(tmp_path / "out", 10, OBJECTS)
    server.holds(OBJECTS, tuple(bodies))
    again = said(*given)
    assert again.status == 0 and f"table 2 at {tmp_path}/out holds all of it, {OBJECTS:,} rows" in again.output, again.output
    _only_listed(server, OBJECTS)
    print(f"an unchanged archive of {OBJECTS:,}: {again.seconds:.1f} s")
    _changed(server, given, bodies, tmp_path / "out")
    _emptied(server, given)


def _only_listed(server: Endless, objects: int) -> None:
    """Nothing of the archive was read; beside the listing, a page or two tell that it may be and is one of images."""
    asked = server.asked()
    assert set(asked) == {"list"} and objects // 1000 <= asked["list"] <= objects // 1000 + 2


def _changed(server: Endless, given: list[str], bodies: list[bytes], output: Path) -> None:
    """Three objects become copies of others, one gets bytes of its own, two are gone; a rejection is tried again."""
    before = by_number(output)
    more = [bodies[0], bodies[1], bodies[0], bodies[8] + b"\0"]
    server.holds(OBJECTS, (*bodies, *more), without=(4, 15_000))
    ended = run_job(*given, "--retry-rejected", "not_an_image")
    assert ended.status == 0, ended.output
    assert server.asked()["get"] < 12 and "2 objects of the table are gone" in ended.output
    after, table = by_number(output), latest(Store(), str(output))
    assert table is not None and len(after) == OBJECTS == table.record["rows"]
    assert {number for number, row in after.items() if row["deleted"]} == {4, 15_000}
    assert {number for number, row in after.items() if row["run"] == "000002"} == {9, 10, 11, 12, 13}
    assert after[9]["reason"] == "not_an_image" and after[9]["reused_from"] is None
    for copy, of in ((10, 0), (11, 1), (12, 0)):
        assert after[copy]["reused_from"] == before[of]["image_id"] and after[copy]["etag"] != before[copy]["etag"]
        for column in ("latitude", "longitude", "score", "candidates", "neighbours", "sha256", "width", "s2_token", "geometry"):
            assert after[copy][column] == before[of][column], column
        assert after[copy]["sha256"] == hashlib.sha256(bodies[of]).hexdigest()
    assert after[13]["reused_from"] is None and after[13]["status"] == "placed"
    done = json.loads((output / "runs/000002/done.json").read_text())
    assert (done["read"], done["reused"], done["vanished"], done["known"]) == (5, 3, 2, OBJECTS - 2 - 5)
    for number in (0, 4, 100, OBJECTS - 1):
        assert {**after[number], "deleted": None} == before[number]


def _emptied(server: Endless, given: list[str]) -> None:
    server.holds(0)
    refused = said(*given)
    assert refused.status == 2 and "--archive-emptied" in refused.output.splitlines()[-1], refused.output
    emptied = said(*given, "--archive-emptied")
    assert emptied.status == 0 and "objects of the table are gone" in emptied.output, emptied.output


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_an_unchanged_night_over_a_million_objects(server: Endless, tiny: Tiny, tmp_path: Path) -> None:
    given, bodies = arguments(server, tmp_path / "out", tiny), tuple(pictures(tiny, 4))
    server.holds(4, bodies)
    assert run_job(*given).status == 0
    small = run_job(*given, weigh=True)
    extend(tmp_path / "out", 4, MILLION)
    server.holds(MILLION, bodies)
    ended = run_job(*given, weigh=True, limit=3600)
    assert ended.status == 0 and f"{MILLION:,} rows" in ended.output, ended.output
    _only_listed(server, MILLION)
    more = (ended.peak_bytes - small.peak_bytes) / 2**20
    print(f"an unchanged night over {MILLION:,} objects: {ended.seconds:.0f} s, {ended.peak_bytes / 2**20:.0f} MiB, which is "
          f"{more:.0f} MiB more than over 4; requests to the archive: {server.asked()}")  # fmt: skip
    assert more < 300
