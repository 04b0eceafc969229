"""What others have published on the benchmarks that this can judge, as data, to be printed beside one's own figures.

Every row is a paper's own claim, in per cent within 1/25/200/750/2500 km, or R@k for retrieval; none was measured here, and
each is marked so wherever it is shown. Where a benchmark has a known number of images, a truth of another number is another
benchmark, and a line says so: images that could not be had are to be counted as wrong, which naming a benchmark does. Where the
number is not known here, nobody can tell a part from the whole: a line says that, and nothing is ranked.

Dates are those of the papers (a year, or a year and month where the arXiv number tells).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Benchmarks of places.
PlaceBenchmark = Literal["im2gps", "im2gps3k", "yfcc4k", "osv5m"]

#: Images, or queries, of the benchmarks whose number is known.
IMAGES: dict[str, int] = {"im2gps": 237, "im2gps3k": 2997, "yfcc4k": 4536}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of somebody's table."""

    system: str
    """Who says so."""
    figures: tuple[float, ...]
    """Per cent, in the order of the benchmark's columns (`COLUMNS`)."""
    source: str
    """The paper."""
    date: str
    """Of the paper."""
    note: str = ""
    """What else is to be known of it."""


#: What the figures of a benchmark's rows are.
COLUMNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("im2gps", "im2gps3k", "yfcc4k", "osv5m"), ("1km", "25km", "200km", "750km", "2500km")),
    "geotext": ("t2i R@1", "t2i R@5", "t2i R@10", "i2t R@1", "i2t R@5", "i2t R@10"),
    "cvgtext": ("t2i R@1",),
}

_GEOTOKEN = ("GeoToken, arXiv 2511.01082", "2025-11")
_NGCG = ("arXiv 2604.10721", "2026-04")


def _row(system: str, figures: tuple[float, ...], source: str, date: str, note: str = "") -> Published:
    return Published(system=system, figures=figures, source=source, date=date, note=note)


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "im2gps": (),
    "im2gps3k": (
        _row("GeoCLIP", (14.1, 34.5, 50.7, 69.7, 83.8), "GeoCLIP, NeurIPS 2023", "2023"),
        _row("PIGEOTTO", (11.3, 36.7, 53.8, 72.4, 85.3), "PIGEON, CVPR 2024", "2024"),
        _row("G3 + judge", (17.2, 44.4, 59.1, 74.6, 86.8), "G3, NeurIPS 2024", "2024", "hosted language model"),
        _row("GeoLocSFT", (8.8, 32.7, 47.2, 65.8, 82.3), "GeoLocSFT, arXiv 2506.01277", "2025-06"),
        _row("GeoToken", (16.8, 39.6, 53.8, 70.8, 85.0), *_GEOTOKEN),
        _row("GeoToken + judge", (19.0, 46.0, 60.1, 76.6, 88.8), *_GEOTOKEN),
        _row("GeoRanker", (18.8, 45.1, 61.5, 76.3, 89.3), "GeoRanker", "2025"),
        _row("Pinpoint", (20.5, 47.4, 63.5, 79.0, 90.2), "Pinpoint", "2026"),
        _row("GeoRouter", (20.8, 50.5, 65.7, 80.4, 90.7), "GeoRouter", "2026", "a router over systems"),
    ),
    "yfcc4k": (
        _row("GeoCLIP", (9.6, 19.3, 32.6, 55.0, 74.7), "GeoCLIP, NeurIPS 2023", "2023"),
        _row("PIGEOTTO", (10.4, 23.7, 40.6, 62.2, 77.7), "PIGEON, CVPR 2024", "2024"),
        _row("G3 + judge", (22.9, 37.2, 50.3, 66.9, 79.9), "G3, NeurIPS 2024", "2024", "hosted language model"),
        _row("GeoToken", (24.3, 35.3, 46.6, 64.2, 78.6), *_GEOTOKEN),
        _row("GeoToken + judge", (25.4, 38.5, 51.4, 68.0, 81.0), *_GEOTOKEN),
        _row("GeoRanker", (32.9, 43.5, 54.3, 69.8, 82.5), "GeoRanker", "2025"),
        _row("Pinpoint", (33.0, 44.4, 57.5, 71.8, 84.5), "Pinpoint", "2026"),
        _row("GeoRouter", (33.0, 46.0, 57.5, 72.0, 83.0), "GeoRouter", "2026", "a router over systems"),
    ),
    "osv5m": (_row("GeoLocSFT", (2.4, 3.5, 15.0, 47.2, 69.6), "GeoLocSFT, arXiv 2506.01277", "2025-06"),),
    "geotext": (
        _row("best before", (13.6, 24.6, 31.2, 26.3, 53.7, 66.9), f"as cited by {_NGCG[0]}", _NGCG[1], "full gallery"),
        _row("NGCG", (25.8, 41.0, 49.4, 34.4, 63.3, 75.1), *_NGCG, "full gallery"),
    ),
    "cvgtext": (
        _row("CrossText2Loc", (46.25,), f"as cited by {_NGCG[0]}", _NGCG[1], "New York, satellite, the nearest 100 tiles"),
        _row("CrossText2Loc", (59.08,), f"as cited by {_NGCG[0]}", _NGCG[1], "New York, map, the nearest 100 tiles"),
    ),
}


def lines(benchmark: str) -> list[str]:
    """The rows of a benchmark for a terminal, each marked as published; none where nobody's are known."""
    rows = PUBLISHED.get(benchmark, ())
    if not rows:
        return []
    wide = max(9, *(len(column) + 2 for column in COLUMNS[benchmark]))
    out = [f"{'published, %':22s}" + "".join(f"{column:>{wide}s}" for column in COLUMNS[benchmark])]
    for row in rows:
        cells = "".join(f"{figure:>{wide}g}" for figure in row.figures)
        out.append(f"{row.system:22s}{cells}  {row.source}, {row.date}")
        if row.note:
            out.append(f"{'':22s}  {row.note}")
    return out


def size_note(benchmark: str, images: int) -> str | None:
    """What to know of a truth that may have another number of images than the benchmark, a line; None where it has as many."""
    known = IMAGES.get(benchmark)
    if known == images:
        return None
    if known is None:
        return (
            f"{benchmark}: the size of its test set is not known here; figures of {images:,} images compare with published "
            "ones only if they are all of it, and are not ranked"
        )
    return f"{benchmark} has {known:,} images and this truth {images:,}: its figures do not compare with published ones"
