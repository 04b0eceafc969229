"""The README's picture is made by a command: a PNG of a page, small, and of the page it was given."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from geobatch.report.page import document
from tests.report.hands import needs_browser
from tests.report.made import page
from tests.report.shoot import MOST_BYTES, shoot


def looked_at(picture: bytes) -> None:
    assert len(picture) < MOST_BYTES
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (1320, 880) and len(image.convert("RGB").getcolors(1 << 16)) > 100


@needs_browser
def test_a_picture_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(document(page(40)))
    looked_at(shoot(tmp_path / "page.html"))
    # What the page complains of is no picture.
    with pytest.raises(RuntimeError, match=r"the page complained: .*one word too many"):
        shoot(tmp_path / "page.html", script="console.error('one word too many')")


@pytest.mark.torture
@needs_browser
def test_pictures_in_both_themes(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(document(page(300)))
    data = {dark: shoot(tmp_path / "page.html", dark=dark) for dark in (True, False)}
    for picture in data.values():
        looked_at(picture)
    assert data[True] != data[False]
