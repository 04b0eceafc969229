"""The README's picture is made by a command: a PNG of a page, small, and of the page it was given."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from geobatch.report.page import document
from tests.report.browser import missing
from tests.report.made import page
from tests.report.shoot import MOST_BYTES, shoot


@pytest.mark.torture
@pytest.mark.skipif(missing(), reason="PySide6-WebEngine is not installed: pages are not opened")
def test_a_picture_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(document(page(300)))
    data = {dark: shoot(tmp_path / "page.html", dark=dark) for dark in (True, False)}
    for picture in data.values():
        assert len(picture) < MOST_BYTES
        with Image.open(io.BytesIO(picture)) as image:
            assert image.size == (1320, 880) and len(image.convert("RGB").getcolors(1 << 16)) > 100
    assert data[True] != data[False]
