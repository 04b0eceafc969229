"""Places written down in every way people have, for whoever reads them back, and the time a reader takes as a text grows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

Write = Callable[[float, float], str]


def _sides(latitude: float, longitude: float) -> tuple[str, str]:
    return "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"


def _parts(degrees: float) -> tuple[int, int, float]:
    """Degrees, minutes and seconds to 1/100, none of them 60."""
    hundredths = round(abs(degrees) * 360_000)
    return hundredths // 360_000, hundredths // 6_000 % 60, hundredths % 6_000 / 100


def _dms(pattern: str) -> Write:
    """`pattern` is filled with d, m, s and the side h."""

    def write(latitude: float, longitude: float) -> str:
        both = []
        for degrees, side in zip((latitude, longitude), _sides(latitude, longitude), strict=True):
            whole, minutes, seconds = _parts(degrees)
            word = {"N": "North", "S": "south", "E": "EAST", "W": "West"}[side]
            both.append(pattern.format(d=whole, m=minutes, s=f"{seconds:.2f}", h=side, word=word))
        return ", ".join(both)

    return write


def _after(latitude: float, longitude: float) -> str:
    one, other = _sides(latitude, longitude)
    return f"{abs(latitude):.5f}° {one}, {abs(longitude):.5f}° {other}"


def _before(latitude: float, longitude: float) -> str:
    one, other = _sides(latitude, longitude)
    return f"{one} {abs(latitude):.5f} {other} {abs(longitude):.5f}"


def _compact(latitude: float, longitude: float) -> str:
    one, other = _sides(latitude, longitude)
    return f"{abs(latitude):.5f}{one}{abs(longitude):.5f}{other}"


def _minutes(latitude: float, longitude: float) -> str:
    both = []
    for degrees, side in zip((latitude, longitude), _sides(latitude, longitude), strict=True):
        whole, minutes, seconds = _parts(degrees)
        both.append(f"{side} {whole:03d}° {minutes + seconds / 60:07.4f}'")
    return " ".join(both)


#: Every one states its two numbers to 0.00002° or better.
WRITTEN: dict[str, Write] = {
    "pair": lambda lat, lon: f"{lat:.5f}, {lon:.5f}",
    "tight": lambda lat, lon: f"{lat:.5f},{lon:.5f}",
    "bracket": lambda lat, lon: f"[{lat:.5f}; {lon:.5f}]",
    "signs": lambda lat, lon: f"({lat:+.5f}, {lon:+.5f})",
    "labels": lambda lat, lon: f"lat: {lat:.5f}, lon: {lon:.5f}",
    "labels, longitude first": lambda lat, lon: f"Longitude = {lon:.5f} and Latitude = {lat:.5f}",
    "heading": lambda lat, lon: f"(lat, lng): ({lat:.5f}, {lon:.5f})",
    "heading, longitude first": lambda lat, lon: f"lon/lat {lon:.5f} {lat:.5f}",
    "bold": lambda lat, lon: f"**Latitude:** {lat:.5f}\n**Longitude:** {lon:.5f}",
    "labels behind": lambda lat, lon: f"{lon:.5f} longitude, {lat:.5f} latitude",
    "prose": lambda lat, lon: f"a latitude of about {lat:.5f} degrees and a longitude of roughly {lon:.5f} degrees",
    "typographic minus": lambda lat, lon: f"{lat:.5f}, {lon:.5f}".replace("-", "−"),
    "degree signs": lambda lat, lon: f"{lat:.5f}°, {lon:.5f}°",
    "decimal comma": lambda lat, lon: f"{lat:.5f}; {lon:.5f}".replace(".", ","),
    "labelled decimal comma": lambda lat, lon: f"lat {lat:.5f} lng {lon:.5f}".replace(".", ","),
    "ISO 6709": lambda lat, lon: f"{lat:+.5f}{lon:+.5f}/",
    "LaTeX": lambda lat, lon: _after(lat, lon).replace("° ", r"^\circ \text{").replace(",", "},") + "}",
    "hemispheres": _after,
    "longitude first by hemispheres": lambda lat, lon: ", ".join(reversed(_after(lat, lon).split(", "))),
    "hemispheres, lower case": lambda lat, lon: _after(lat, lon).lower(),
    "hemispheres, decimal comma": lambda lat, lon: "; ".join(_after(lat, lon).split(", ")).replace(".", ","),
    "hemispheres before": _before,
    "hemispheres before, tight": lambda lat, lon: _before(lat, lon).replace(" ", ""),
    "compact": _compact,
    "primes": _dms("{d}°{m}′{s}″{h}"),
    "quotes": _dms("{d}° {m}' {s}\" {h}"),
    "ordinal sign": _dms("{d}º{m:02d}'{s}''{h}"),
    "hemisphere, then parts": _dms("{h} {d}° {m}' {s}\""),
    "blanks": _dms("{d} {m} {s} {h}"),
    "colons": _dms("{d}:{m:02d}:{s} {h}"),
    "words": _dms("{d} degrees {m} minutes {s} seconds {word}"),
    "short words": _dms("{d} deg {m} min {s} sec {word}"),
    "words with and": _dms("{d} degrees, {m} minutes and {s} seconds {word}"),
    "degrees and minutes": _minutes,
}

#: Prose full of numbers that are no coordinates.
PROSE = [
    "",
    "The road is 3.50 m wide, built in 1950, 1960 or later; ",
    "Within 25 km, 2 lanes (see [1, 2]) of the E40 and N7, at 21 °C: ",
    "On 2024-05-06 at 12:30:45, 3.25 °C, wind 2.55 m/s. ",
    "Call +33 1 23 45 67 89. Some 3 km W of town: ",
    "It's Route 66, mile 12.5, 40 % uphill, 5' tall. ",
    "1. Signs are in French.\n2. Plates are 520 x 110 mm.\n\n",
    "南の島のようです。 ",
]


def growth(work: Callable[[str], object], piece: str, short: int = 2_500, times: int = 8) -> float:
    """How many times this thread's time grows as a text of repeated pieces becomes `times` as long; the least of three."""

    def cost(length: int) -> float:
        text = (piece * (length // len(piece) + 1))[:length]
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            work(text)
            best = min(best, time.thread_time() - start)
        return best

    # Collecting garbage costs what all else in this process weighs, which says nothing of the text.
    gc.disable()
    try:
        short_cost, long_cost = cost(short), cost(short * times)
    finally:
        gc.enable()
    # Below 2 ms the clock and the caches say more than the text.
    return long_cost / max(short_cost, 2e-3)
