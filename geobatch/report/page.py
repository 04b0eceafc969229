"""One HTML file that is the whole report: base map, rows, pictures, script, and no address of anything else.

    images    who they are and where they were taken, one row an image       ┐
    runs      what each run says of the same images, row by row              ├─ `Page` ─▶ `document` ─▶ bytes
    pictures  small JPEGs of a sample                                        ┘

A policy in its head allows its own script and style by their hashes, pictures by data URI, and nothing else: no other script
runs, and no request is made, whatever a row holds. Rows travel as `pack.packed` and become text nodes.

100,000 images of 60 bytes' name take 6.6 MB, made in 0.9 s of one core, drawn 2 s after Chromium begins on two busy cores, and
anew in 22 ms; pictures come on top. Browsers of 2023 and later (they must undo gzip and know `:has`).

Not covered: more than some 300,000 images (a browser's memory; show a sample), streets under the places.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.errors import REASONS
from geobatch.geo.s2 import cell_ids, parse_cell_tokens
from geobatch.report.coast import outlines
from geobatch.report.pack import degrees, packed
from geobatch.report.tally import CURVE_KM
from geobatch.schema import RADII_KM, probability_column

_SCRIPTS = ("data.js", "earth.js", "colours.js", "marks.js", "map.js", "images.js", "figures.js", "page.js")

#: Words of a page for why an image is in the sample; in the order of `choice.REASONS`.
_SAMPLES = ("", "worst", "best", "random ones")

_STATUS = {"placed": 1, "rejected": 2}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run says of the page's images.

    Fields:
        name: as it is called on the page.
        places: as many rows as the page has images, in their order: `status` (null: the run has no such image), `stage`,
            `reason`, `detail`, `latitude`, `longitude`, `error_km`; and of the probabilities, `radius_90_km`, `area`,
            `chosen_by`, `text` what there is.
        totals: exact figures of the whole run (`tally.Tally.figures`).
        choices: rows of the table of figures: name, shares by radius (number, or value, low and high), median_km, mean_km,
            images.
        findings: `{"title", "sentence"}` each.
        account: `{"tiles": [[name, text]], "pairs": [[name, text]], "seconds": [[stage, seconds]]}`, or None.
        facts: names and values to be listed at the end.
        lacking: images that the run does not hold and `choices` count as wrong; `totals` know nothing of them.
    """

    name: str
    places: pa.Table
    totals: Mapping[str, Any]
    choices: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Mapping[str, str]] = ()
    account: Mapping[str, Any] | None = None
    facts: Sequence[tuple[str, str]] = ()
    lacking: int = 0


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything a page says.

    Fields:
        title, note: its head.
        images: `image_id`, `uri`, `latitude` and `longitude` of the truth (null: not known), `country` (null), `why` (uint8,
            see `choice.REASONS`).
        runs: one, or several to be compared; the first is what the others are compared with.
        pictures: JPEGs by row.
        details: by row, `{"candidates": [[latitude, longitude], …], "neighbours": …}` of the first run.
        sample: a sentence on which images are shown and which have pictures.
        density: of the gallery, `(rows, columns)` uint8 from 90° N and 180° W; None: not known.
        facts: names and values to be listed at the end.
        warnings: sentences that stand on top.
    """

    title: str
    note: str
    images: pa.Table
    runs: Sequence[Run]
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    details: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    sample: str = ""
    density: NDArray[np.uint8] | None = None
    facts: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()


def document(page: Page) -> bytes:
    """The page as UTF-8.

    Raises:
        ValueError: no run, or one with another number of rows than there are images.
    """
    if not page.runs or {len(run.places) for run in page.runs} != {len(page.images)}:
        raise ValueError("a page needs a run at least, and each with as many rows as there are images")
    script = "\n".join(["'use strict';", *map(_file, _SCRIPTS)])
    style = _file("page.css")
    earth = outlines()
    boxes = [_box("data", _rows(page)), f'<script type="application/json" id="pictures">{_pictures(page.pictures)}</script>']
    if earth is not None:
        boxes.append(_box("coast", packed({}, earth._asdict())))
    # What stands between the tags is what is hashed, line ends included.
    parts = {
        "TITLE": html.escape(page.title),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": "\n".join(boxes),
        "HASH": _hash(f"\n{script}\n"),
        "STYLEHASH": _hash(f"\n{style}\n"),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: parts[found[1]], _file("page.html")).encode("utf-8", "replace")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8").strip()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _box(name: str, text: str) -> str:
    return f'<script type="text/plain" id="{name}">{text}</script>'


def _pictures(pictures: Mapping[int, bytes]) -> str:
    """JSON of base64: neither can end a script element."""
    return json.dumps({str(row): base64.b64encode(picture).decode() for row, picture in pictures.items()})


def _rows(page: Page) -> str:
    images = page.images
    ids, uris = images["image_id"].to_pylist(), images["uri"].to_pylist()
    countries, country = _numbered(images["country"], "")
    latitude, longitude = (_floats(images, axis) for axis in ("latitude", "longitude"))
    values: dict[str, Any] = {
        "title": page.title,
        "note": page.note,
        "sample": page.sample,
        "facts": [list(pair) for pair in page.facts],
        "warnings": list(page.warnings),
        "ids": ids,
        # The script takes the part of a name before its first # for the object's URI.
        "uris": {row: uri for row, (image_id, uri) in enumerate(zip(ids, uris, strict=True)) if uri != _object(image_id)},
        "countries": countries,
        "radii": list(RADII_KM),
        "curve": CURVE_KM.round(4).tolist(),
        "samples": list(_SAMPLES),
        "details": {str(row): detail for row, detail in page.details.items()},
        "gallery": None if page.density is None else {"rows": page.density.shape[0], "columns": page.density.shape[1]},
    }
    arrays: dict[str, Any] = {
        "tlat": degrees(latitude),
        "tlon": degrees(longitude),
        "tcell": _cells_at(latitude, longitude),
        "country": country.astype(np.uint16),
        "why": images["why"].to_numpy().astype(np.uint8),
    }
    if page.density is not None:
        arrays["density"] = np.asarray(page.density, np.uint8).ravel()
    values["reasons"] = [
        "",
        *sorted({each for run in page.runs for each in pc.unique(run.places["reason"]).to_pylist() if each}),
    ]
    values["runs"] = [_run(run, number, values["reasons"], arrays) for number, run in enumerate(page.runs)]
    return packed(_finite(values), arrays)


def _run(run: Run, number: int, reasons: list[str], arrays: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a run; its columns go into `arrays`."""
    places = run.places
    latitude, longitude = (_floats(places, axis) for axis in ("latitude", "longitude"))
    numbers = {reason: at for at, reason in enumerate(reasons)}
    columns: dict[str, Any] = {
        "lat": degrees(latitude),
        "lon": degrees(longitude),
        "error": _floats(places, "error_km").astype(np.float32),
        "status": np.array([_STATUS.get(each, 0) for each in places["status"].to_pylist()], np.uint8),
        "reason": np.array([numbers.get(each, 0) for each in places["reason"].to_pylist()], np.uint8),
        "cell": _cells_at(latitude, longitude),
    }
    for km in RADII_KM:
        sure = _floats(places, probability_column(km))
        if np.isfinite(sure).any():
            share = np.round(np.clip(np.nan_to_num(sure), 0, 1) * 254)
            columns[f"p{km}"] = np.where(np.isfinite(sure), share, 255).astype(np.uint8)
    if np.isfinite(radius := _floats(places, "radius_90_km")).any():
        columns["radius"] = radius.astype(np.float32)
    if "area" in places.column_names and places["area"].null_count < len(places):
        columns["area"] = _cells_named(places["area"].to_pylist())
    selectors, by = _numbered(places["chosen_by"] if "chosen_by" in places.column_names else None, "")
    if by.any():
        columns["by"] = by.astype(np.uint8)
    arrays |= {f"r{number}_{name}": column for name, column in columns.items()}
    totals = dict(run.totals)
    totals["reasons"] = [{**one, "advice": REASONS.get(one["reason"], "")} for one in totals.get("reasons", [])]
    return {
        "name": run.name,
        "totals": totals,
        "choices": [dict(one) for one in run.choices],
        "findings": [dict(one) for one in run.findings],
        "account": None if run.account is None else dict(run.account),
        "facts": [list(pair) for pair in run.facts] + _absent(places),
        "lacking": run.lacking,
        "selectors": selectors,
        "said": _texts(places, "detail"),
        "stages": _texts(places, "stage"),
        "texts": _texts(places, "text"),
    }


def _absent(places: pa.Table) -> list[list[str]]:
    """The fact that a run lacks images of the page."""
    lacks = places["status"].null_count
    return [["not in this table", f"{lacks:,} of the images on this page"]] if lacks else []


def _object(image_id: str) -> str:
    return image_id.split("#", 1)[0].replace("%23", "#").replace("%25", "%")


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return pc.cast(table[name], pa.float64()).to_numpy().astype(np.float64)


def _numbered(column: pa.ChunkedArray | None, first: str) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct values after `first`, which stands for null, and the number of each row."""
    if column is None:
        return [first], np.zeros(0, np.int64)
    coded = column.combine_chunks().dictionary_encode() if len(column) else pa.array([], pa.string()).dictionary_encode()
    numbers = pc.fill_null(pc.add(coded.indices, 1), 0)
    return [first, *coded.dictionary.to_pylist()], numbers.to_numpy(zero_copy_only=False).astype(np.int64)


def _texts(table: pa.Table, name: str) -> dict[str, str]:
    """By row, where there is one."""
    if name not in table.column_names:
        return {}
    column = table[name].to_pylist()
    return {str(row): text for row, text in enumerate(column) if text}


def _cells_at(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Cells of level 20, the table's; 0 without a place."""
    cells = np.zeros(latitude.size, np.uint64)
    there = np.isfinite(latitude) & np.isfinite(longitude)
    if there.any():
        cells[there] = cell_ids(latitude[there], longitude[there], 20)
    return cells


def _cells_named(tokens: list[str | None]) -> NDArray[np.uint64]:
    cells = np.zeros(len(tokens), np.uint64)
    named = [row for row, token in enumerate(tokens) if token]
    if named:
        cells[named] = parse_cell_tokens([str(tokens[row]) for row in named])
    return cells


def _finite(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
