"""A store of each kind, and one behind a proxy that fails on demand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from geobatch.store import Store
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy


@pytest.fixture(params=["s3", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, str]:
    """A store and an empty prefix in it."""
    if request.param == "disk":
        return Store(), f"file://{tmp_path}"
    server: S3Server = request.getfixturevalue("s3")
    return Store(server.config()), f"s3://{server.bucket()}/pre fix"


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    """A proxy in front of the session's S3 server."""
    made = FaultyProxy(s3.endpoint)
    yield made
    made.close()
