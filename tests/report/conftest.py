"""One browser for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.report.browser import Browser, required


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser, afresh for each module; skipped where the system lacks its libraries."""
    with Browser() as opened:
        try:
            opened.run("1")
        except RuntimeError as error:
            if required():
                raise
            pytest.skip(f"{error}: libraries of the system that Chromium needs are not here")
        yield opened
