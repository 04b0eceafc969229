"""Makes a picture of a page for the README: `python -m tests.report.shoot PAGE.html OUT.png`.

The page in the browser of the tests, dark, with the image farthest from its truth chosen.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.report.browser import Browser

#: Of a picture in a README, which is fetched by everyone who looks at it.
MOST_BYTES = 300_000


def shoot(page: Path, *, dark: bool = True, script: str = "(step(1), 1)") -> bytes:
    """A PNG of the top of a page, 1320 × 880, after a script of the page ran."""
    with Browser(1320, 880) as browser, tempfile.TemporaryDirectory() as folder:
        browser.open(page)
        browser.run(f"(theme({str(dark).lower()}), 1)")
        browser.run(script)
        browser.picture(Path(folder) / "page.png")
        said = browser.console()
        if said:
            raise RuntimeError(f"the page complained: {said[0]}")
        with Image.open(Path(folder) / "page.png") as whole:
            file = io.BytesIO()
            # Dots of a rare class keep their colour: a median cut gives it to their neighbours.
            whole.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(file, "PNG", optimize=True)
            return file.getvalue()


if __name__ == "__main__":
    data = shoot(Path(sys.argv[1]))
    if len(data) > MOST_BYTES:
        sys.exit(f"error: the picture has {len(data):,} bytes; choose a view with less on it")
    Path(sys.argv[2]).write_bytes(data)
    sys.stdout.write(f"{sys.argv[2]}: {len(data):,} bytes\n")
