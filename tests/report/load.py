"""Says how large a page is and how long a browser takes to open it: `python -m tests.report.load [IMAGES | PAGE.html]`.

Without an argument a page of 100,000 made images. Seconds are from the request until the page has drawn itself, in the browser
of the tests, which is running by then; the second is of drawing the map anew, as each move of it does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from geobatch.report.page import document
from tests.report.browser import Browser
from tests.report.made import page

IMAGES = 100_000


def load(path: Path) -> tuple[float, float]:
    """Seconds until a page has drawn itself, and seconds to draw its map anew."""
    with Browser() as browser:
        browser.run("1")
        opened = browser.open(path)
        anew = browser.run("(() => { const from = performance.now(); paint(); return performance.now() - from; })()")
        said = browser.console()
        if said:
            raise RuntimeError(f"the page complained: {said[0]}")
        return opened, anew / 1000


def told(path: Path, images: int | None = None, made: float | None = None) -> str:
    """One line on a page's size and seconds."""
    opened, anew = load(path)
    what = path.name if images is None else f"{images:,} images"
    parts = [
        f"{path.stat().st_size / 1e6:.1f} MB",
        f"drawn {opened:.1f} s after it was asked for",
        f"anew in {1000 * anew:.0f} ms",
    ]
    if made is not None:
        parts.insert(1, f"made in {made:.1f} s")
    return f"{what}: {', '.join(parts)}"


def main(arguments: list[str]) -> str:
    """The line for a page on disk, or for one of so many made images."""
    if arguments and not arguments[0].isdigit():
        return told(Path(arguments[0]))
    count = int(arguments[0]) if arguments else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        path, one = Path(folder) / "page.html", page(count)
        started = time.perf_counter()
        path.write_bytes(document(one))
        return told(path, count, time.perf_counter() - started)


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
