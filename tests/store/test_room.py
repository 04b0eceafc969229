"""What must go when a disk would fill, and what must stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geobatch.errors import UserError
from geobatch.store import Store
from geobatch.store.fetch import Remote
from geobatch.store.room import make_room
from tests.conftest import S3Server
from tests.store.test_fetch import HERE

SIZE = 10_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Room for three folders and their records."""
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("GEOBATCH_CACHE_BYTES", str(3 * SIZE + 5_000))
    return tmp_path / "folders"


def versions(s3: S3Server, count: int) -> list[Remote]:
    store, bucket = Store(s3.config()), s3.bucket()
    for number in range(count):
        store.put(f"s3://{bucket}/{number}/weights", bytes([number]) * SIZE)
    found = [Remote.of(store, f"s3://{bucket}/{number}") for number in range(count)]
    return [each for each in found if each is not None]


def elsewhere(one: Remote, stays: float = 0.0) -> subprocess.Popen[str]:
    """Asks for it in another process, which then lives on; returns once the folder is there."""
    made = subprocess.Popen(
        [sys.executable, "-c", HERE, one.uri, one.digest, str(one.store.endpoint), str(stays)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert [made.stdout.readline() for _ in range(2)][1].strip().endswith(one.digest)
    return made


def test_the_one_asked_for_longest_ago_goes_and_one_in_use_stays(s3: S3Server, cache: Path) -> None:
    every = versions(s3, 4)
    holder = elsewhere(every[0], stays=60)
    for one in every[1:3]:
        elsewhere(one).communicate()
    os.utime(cache / f"{every[0].digest}.json", (1, 1))
    os.utime(cache / f"{every[1].digest}.json", (3, 3))
    os.utime(cache / f"{every[2].digest}.json", (2, 2))
    (cache / ".geobatch-half").mkdir()
    (cache / ".geobatch-half/weights").write_bytes(b"x" * 10)
    elsewhere(every[3]).communicate()
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {every[0].digest, every[1].digest, every[3].digest}
    assert not (cache / f"{every[2].digest}.json").exists()
    with pytest.raises(UserError, match=r"needs 0\.0 GB and .* free its disk, or name a larger one"):
        make_room(cache / "new", 3 * SIZE)
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {every[0].digest}
    holder.kill()
    holder.communicate()
    make_room(cache / "new", 3 * SIZE)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_bound_that_is_no_number_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    monkeypatch.setenv("GEOBATCH_CACHE_BYTES", "much")
    with pytest.raises(UserError, match="no number of bytes"):
        make_room(cache / "new", 1)
