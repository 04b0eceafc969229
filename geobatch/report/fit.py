"""A page that a mailbox takes: fewer images and fewer pictures, by the rule that chose them, until the file is small enough.

Images and pictures give way in proportion; what a page of a single image has (base map, findings, figures) stays. The choice
is nested, so that a smaller page is the one that would have been made of so many images to begin with. A page that is small
enough is made once; of a larger one each further try takes what making it does, a second for 100,000 images, and two are
mostly enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geobatch.errors import UserError
from geobatch.report.choice import CONFIDENCE, Chosen, pictured, shown
from geobatch.report.page import Page, document

Rows = NDArray[np.intp]

#: Of the room that is left: compression is not quite in proportion.
_CAUTION = 0.96


def fitted(page: Page, most_bytes: int, sample: Callable[[Page], str]) -> tuple[Page, bytes]:
    """The page, or as much of it as fits, and its bytes.

    Args:
        page: as it would be without a limit.
        most_bytes: of the document.
        sample: `Page.sample` of a page.

    Raises:
        UserError: what does not give way is too much already.
    """
    whole = page
    page, data = _told(whole, sample)
    if len(data) <= most_bytes:
        return page, data
    smallest = _told(lessened(whole, 0.0), sample)
    least, share = len(smallest[1]), 1.0
    if least > most_bytes:
        raise UserError(
            f"the page has {least / 1e6:,.1f} MB beside its images, more than {most_bytes / 1e6:,.1f}; give fewer tables to "
            "--compare, or no --evaluation"
        )
    while len(data) > most_bytes:
        if len(page.images) == 1:
            return smallest
        share *= _CAUTION * (most_bytes - least) / max(len(data) - least, 1)
        page, data = _told(lessened(whole, share), sample)
    return page, data


def _told(page: Page, sample: Callable[[Page], str]) -> tuple[Page, bytes]:
    """A page with its own sentence, and its bytes."""
    page = replace(page, sample=sample(page))
    return page, document(page)


def lessened(page: Page, share: float) -> Page:
    """A share of a page's images, one at least, and of its pictures."""
    sample = np.array(sorted({*page.pictures, *page.details}), np.intp)
    images, pictures = max(1, int(share * len(page.images))), int(share * sample.size)
    few = _rows(page, np.arange(len(page.images)), shown(images, min(pictures, images // 2)))
    places = {int(row): at for at, row in enumerate(few.tolist())}
    seen = set(_rows(page, sample, pictured(pictures)).tolist()) if pictures else set()
    return replace(
        page,
        images=page.images.take(pa.array(few)),
        runs=[replace(run, places=run.places.take(pa.array(few))) for run in page.runs],
        pictures={places[row]: one for row, one in page.pictures.items() if row in seen and row in places},
        details={places[row]: one for row, one in page.details.items() if row in seen and row in places},
    )


def _rows(page: Page, rows: Rows, chosen: Chosen) -> Rows:
    """Rows of the page among `rows` that are worth keeping."""
    places = page.runs[0].places
    columns = {name: places[name] for name in ("status", "error_km", CONFIDENCE) if name in places.column_names}
    table = pa.table({**columns, "image_id": page.images["image_id"], "row": np.arange(len(places))})
    chosen.add(table.take(pa.array(rows)))
    return chosen.table()["row"].to_numpy().astype(np.intp)
