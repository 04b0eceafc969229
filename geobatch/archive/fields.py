"""Which of a row's fields is its text, and which its name, its place and its group.

Titles are compared in lower case, with `_` for blanks and hyphens; of several that fit, the first of the lists below wins.
A value is never guessed: a latitude that is no number, or beyond a pole, is none.

A text may be a list of texts, as the test split of GeoText-1652 has three of each picture: each is a text of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from geobatch.archive.scan import encoded, printable
from geobatch.errors import Rejection

#: Titles of the column of texts, where it is looked for.
TEXTS = ("text", "texts", "caption", "captions", "description", "query", "sentence")
_NAMES = ("image_id", "id", "name", "image", "file_name", "filename", "file")
_LATITUDES = ("latitude", "lat")
_LONGITUDES = ("longitude", "lon", "lng", "long")
_GROUPS = ("group", "building")

Content = bytes | Rejection


class Fields(NamedTuple):
    """Titles, as the file writes them; None where it has none."""

    text: str
    name: str | None
    latitude: str | None
    longitude: str | None
    group: str | None


class Row(NamedTuple):
    """One row of a file of texts.

    Attributes:
        name: what the row is called; None where it has no name.
        texts: at least one; what is no text is the rejection that it will be.
        latitude, longitude: degrees, None where the row has no place.
        group: None where the row has none.
        ends: whether this is no row but the file's early end.
    """

    name: str | None
    texts: tuple[Content, ...]
    latitude: float | None = None
    longitude: float | None = None
    group: str | None = None
    ends: bool = False


def fields(titles: Sequence[str], column: str, *, sole: bool = False) -> Fields | None:
    """The fields of rows with these titles.

    Args:
        titles: of all columns.
        column: title of the one that holds texts, or "auto": the first of `TEXTS`.
        sole: whether "auto" takes a column that is the only one, unless it is of URIs.

    Returns:
        None where there is no such column.
    """
    plain = {_plain(title): title for title in reversed(titles)}
    if column != "auto":
        text = column if column in titles else plain.get(_plain(column))
    else:
        text = next((plain[name] for name in TEXTS if name in plain), None)
        if text is None and sole and len(titles) == 1 and "uri" not in plain:
            text = titles[0]
    if text is None:
        return None
    others = {name: title for name, title in plain.items() if title != text}

    def first(names: tuple[str, ...]) -> str | None:
        return next((others[name] for name in names if name in others), None)

    return Fields(text, first(_NAMES), first(_LATITUDES), first(_LONGITUDES), first(_GROUPS))


def missing(titles: Sequence[str], column: str) -> str:
    """In words, that rows with these titles have no such column."""
    said = ", ".join(" ".join(printable(title).split())[:40] for title in titles[:12]) + (", …" if len(titles) > 12 else "")
    wanted = f"{column!r}" if column != "auto" else f"of texts ({', '.join(TEXTS)})"
    return f"no column {wanted}, only {said or 'none at all'}"


def row(cells: Mapping[str, Any], found: Fields) -> Row:
    """The row of these cells by title."""
    text = cells.get(found.text)
    name, group = (None if key is None else _name(cells.get(key)) for key in (found.name, found.group))
    latitude, longitude = (
        None if key is None else _degrees(cells.get(key), most)
        for key, most in ((found.latitude, 90.0), (found.longitude, 180.0))
    )
    if latitude is None or longitude is None:
        latitude = longitude = None
    return Row(name, contents(text), latitude, longitude, group)


def contents(text: Any) -> tuple[Content, ...]:
    """The texts that a cell holds."""
    if not isinstance(text, list | tuple):
        return (_content(text),)
    return tuple(_content(each) for each in text) or (Rejection("empty", "a list of no texts"),)


def _content(text: Any) -> Content:
    if isinstance(text, str):
        text = encoded(text)
    if isinstance(text, bytes):
        return text or Rejection("empty", "the row has no text")
    if text is None:
        return Rejection("empty", "the row has no text")
    return Rejection("not_a_text", f"{type(text).__name__} where a text belongs: {printable(str(text)[:100])}")


def _plain(title: str) -> str:
    return re.sub(r"[\s-]+", "_", title.strip().lower())


def _name(cell: Any) -> str | None:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "backslashreplace")
    if cell is None or isinstance(cell, list | dict):
        return None
    return printable(str(cell)).strip() or None


def _degrees(cell: Any, most: float) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and abs(value) <= most else None
