"""The README's figures of a large page are printed by a command."""

from __future__ import annotations

import re
from pathlib import Path

from geobatch.report.page import document
from tests.report.hands import needs_browser
from tests.report.load import main
from tests.report.made import page

LINE = r"{}: \d+\.\d MB, {}drawn \d+\.\d s after it was asked for, anew in \d+ ms"


@needs_browser
def test_size_and_seconds_are_printed(tmp_path: Path) -> None:
    assert re.fullmatch(LINE.format("500 images", r"made in \d+\.\d s, "), main(["500"]))
    (tmp_path / "one.html").write_bytes(document(page(20)))
    assert re.fullmatch(LINE.format("one.html", ""), main([str(tmp_path / "one.html")]))
