"""Recipe: the truth files of the field's benchmarks in their true layouts, a few rows each, with names as their archives
give them.

- Im2GPS: `meta__im2gps_places365.csv` has the titles LON and LAT over each other's columns; result files are CRLF and end with
  a blank line, a second header and a row of means, which some have without that header.
- Im2GPS3k and YFCC4k: `IMG_ID,AUTHOR,LAT,LON,…`, IMG_ID is the file's name.
- OSV-5M: 31 columns, ids without an ending, images `NN/<id>.jpg` in zips.
- MR40k: nothing is published; any CSV of `image_id, lat, lon`.
- MP16-Pro: `IMG_ID` with slashes, members with underscores, words in quotes.
- CVG-Text: `annotation/<City>/test.json`, a mapping of file names to texts; the places stand in the names.
- GeoText-1652: a list of objects; buildings are the folders of their names, and no place is published (`geotext`).

Their archives in miniature: `tests/archives/published_texts.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.archives.published import IM2GPS_COLUMNS, MP16_COLUMNS, OSV_COLUMNS

Place = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """A benchmark in miniature.

    Attributes:
        data: the bytes of its truth file.
        images: image_id in the archive -> the true place.
        note: what reading it says, if anything.
        file: how it is called.
    """

    data: bytes
    images: dict[str, Place]
    note: str = ""
    file: str = "truth.csv"


def spread(count: int, seed: int) -> list[Place]:
    """Places all over the Earth, to six digits."""
    rng = np.random.default_rng(seed)
    latitude, longitude = rng.uniform(-60, 70, count).round(6), rng.uniform(-180, 180, count).round(6)
    return [(float(a), float(b)) for a, b in zip(latitude, longitude, strict=True)]


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]], end: str = "\n") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows([header, *rows])
    return text.getvalue().encode()


def im2gps() -> Layout:
    """The list whose titles are exchanged."""
    places = spread(20, 1)
    names = [f"{n}_7410c654ba_{n}_19355699@N00.jpg" for n in range(20)]
    header = ("IMG_ID", "AUTHOR", "LON", "LAT", "S3_Label", "Prob_indoor")
    rows = [(name, "19355699@N00", a, b, 1, 0.5) for name, (a, b) in zip(names, places, strict=True)]
    images = {f"s3://b/im2gps.tar#im2gps/{name}": place for name, place in zip(names, places, strict=True)}
    return Layout(_csv(header, rows, "\r\n"), images, "has its latitudes and longitudes exchanged")


def im2gps_results() -> Layout:
    """A file of results, which serves as truth as well."""
    places = spread(12, 2)
    header = ("img_id", "gt_lat", "predicted_lat", "gt_long", "predicted_long", "great_circle_distance")
    rows = [(f"{n}@N00.jpg", a, a / 2, b, b / 2, 1.0) for n, (a, b) in enumerate(places)]
    titles = b"street acc (1km),city acc (25km),region acc (200km),country,continent,mean deviation (km)"
    summary = b"\r\n" + titles + b"\r\n0.1,0.3,0.5,0.6,0.8,1.5\r\n"
    return Layout(
        _csv(header, rows, "\r\n") + summary,
        {f"/data/{n}@N00.jpg": place for n, place in enumerate(places)},
        "ends in another table of 2 lines, from 'street acc (1km)' on",
    )


def im2gps_means() -> Layout:
    """The same whose row of means has lost its header."""
    whole = im2gps_results()
    head, _, means = whole.data.rpartition(b"\r\n\r\n")
    return Layout(
        head + b"\r\n\r\n" + means.partition(b"\r\n")[2],
        whole.images,
        "ends in 1 lines behind a blank one, from '0.1' on",
    )


def im2gps3k() -> Layout:
    """Loose files; CRLF."""
    places = spread(15, 3)
    names = [f"{1000 + n}_{n}_12345678@N00.jpg" for n in range(15)]
    rows = [(name, "12345678@N00", a, b, 1, 7, 200, 0.1, 0.6, 0.3) for name, (a, b) in zip(names, places, strict=True)]
    images = {f"s3://b/im2gps3ktest/{name}": place for name, place in zip(names, places, strict=True)}
    return Layout(_csv(IM2GPS_COLUMNS, rows, "\r\n"), images)


def yfcc4k() -> Layout:
    """As Im2GPS3k, with other names; the header stands again where two lists were joined."""
    places = spread(16, 4)
    names = [f"{10_000_000 + 7919 * n}.jpg" for n in range(16)]
    rows: list[Sequence[object]] = [(name, "u", a, b, 0, 0, 0, 0, 0, 0) for name, (a, b) in zip(names, places, strict=True)]
    images = {f"s3://b/yfcc4k/{name}": place for name, place in zip(names, places, strict=True)}
    return Layout(_csv(IM2GPS_COLUMNS, [*rows[:8], IM2GPS_COLUMNS, *rows[8:]]), images, "repeats its header 1 times")


def osv5m() -> Layout:
    """Members of zips without their ending."""
    places = spread(10, 5)
    ids = [str(10**14 + 977 * n) for n in range(10)]
    rows = [(name, a, b, *[""] * (len(OSV_COLUMNS) - 3)) for name, (a, b) in zip(ids, places, strict=True)]
    images = {f"s3://b/images/test/00.zip#00/{name}.jpg": place for name, place in zip(ids, places, strict=True)}
    return Layout(_csv(OSV_COLUMNS, rows), images)


def mr40k() -> Layout:
    """Any CSV of names and places; semicolons and a byte order mark, as spreadsheets write it."""
    places = spread(10, 6)
    text = "\ufeffimage_id;lat;lon\n" + "".join(f"mly/{n}.jpg;{a};{b}\n" for n, (a, b) in enumerate(places))
    return Layout(text.encode(), {f"s3://b/mr40k/mly/{n}.jpg": place for n, place in enumerate(places)})


def mp16_pro() -> Layout:
    """Slashes here, underscores there."""
    places = spread(10, 7)
    names = [f"{n:02x}/{19 * n:02x}/{3_845_791_320 + n}.jpg" for n in range(10)]
    words = ("", "St. John's, Antigua", "", 'The "Heights"', "", "Nowhere", "nw", "Oceania", 0.25)
    rows = [(name, a, b, *words) for name, (a, b) in zip(names, places, strict=True)]
    images = {
        f"s3://b/MP16-Pro/mp-16-images00#./images/{name.replace('/', '_')}": place
        for name, place in zip(names, places, strict=True)
    }
    return Layout(_csv(MP16_COLUMNS, rows), images)


def cvg_text() -> Layout:
    """A city's tiles, located by their texts."""
    places = [(40.7 + n * 4e-4, -74.01 + n * 5e-4) for n in range(9)]
    names = [f"{a:.7f},{b:.7f}_2019-05_AbC-_{n}_d193_z3.png" for n, (a, b) in enumerate(places)]
    data = json.dumps({name: f"a text, {n}" for n, name in enumerate(names)}, indent=4).encode()
    images = {
        f"s3://b/annotation/NewYork/test.json#{name}": (round(a, 7), round(b, 7))
        for name, (a, b) in zip(names, places, strict=True)
    }
    return Layout(data, images, file="test.json")


def geotext() -> bytes:
    """GeoText-1652's test split, which says no place."""
    return json.dumps(
        [
            {"image_id": f"{n:04}/image-43.jpeg", "image": f"test/query(701)/{n:04}/image-43.jpeg", "caption": ["a", "b", "c"]}
            for n in range(5)
        ]
    ).encode()


LAYOUTS = {
    made.__name__: made for made in (im2gps, im2gps_results, im2gps_means, im2gps3k, yfcc4k, osv5m, mr40k, mp16_pro, cvg_text)
}
