"""A store of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.store import Store
from tests.conftest import S3Server


@pytest.fixture(params=["s3", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, str]:
    """A store and an empty prefix in it."""
    if request.param == "disk":
        return Store(), f"file://{tmp_path}"
    server: S3Server = request.getfixturevalue("s3")
    return Store(server.config()), f"s3://{server.bucket()}/pre fix"
