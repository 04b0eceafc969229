"""The published data sets in miniature, each in its true form, filled with crops of the embedded world.

- MP16-Pro: one tar under the names that `split -d` gives (`mp-16-images00`, …), cut without regard to what lies there;
  members `./images/39_19_3845791320.jpg` behind their folders; `metadata/MP16_Pro_places365.csv` with `39/19/3845791320.jpg`
  and twelve columns, of which some are quoted; an index, which is no image.
- OSV-5M: `images/train/NN.zip` and `images/test/NN.zip` of `NN/<id>.jpg`, stored; `train.csv` and `test.csv` with 31
  columns, ids of 15 and 16 digits without an ending.
- Im2GPS3k: loose files whose names are the CSV's IMG_ID, with 12 columns.

Truth is never quite the archive: each CSV has rows whose image could not be had, and MP16-Pro's tar an image without a row.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from geobatch.benchmark.world import World

MP16_COLUMNS = (
    "IMG_ID", "LAT", "LON", "neighbourhood", "city", "county", "state", "region", "country", "country_code", "continent",
    "Prob_indoor",
)  # fmt: skip
OSV_COLUMNS = (
    "id", "latitude", "longitude", "thumb_original_url", "country", "sequence", "captured_at", "lon_bin", "lat_bin", "cell",
    "region", "sub-region", "city", "land_cover", "road_index", "drive_side", "climate", "soil", "dist_sea",
    "quadtree_10_5000", "quadtree_10_25000", "quadtree_10_1000", "quadtree_10_50000", "quadtree_10_12500", "quadtree_10_500",
    "quadtree_10_2500", "unique_region", "unique_sub-region", "unique_city", "unique_country", "creator_username",
    "creator_id",
)  # fmt: skip
IM2GPS_COLUMNS = (
    "IMG_ID", "AUTHOR", "LAT", "LON", "S3_Label", "S16_Label", "S365_Label", "Prob_indoor", "Prob_natural", "Prob_urban",
)  # fmt: skip

Place = tuple[float, float]


@dataclass(frozen=True)
class Miniature:
    """What was laid down.

    Attributes:
        archive: folder of the images.
        truth: the CSV.
        places: true place of each image in the archive, by its name in the CSV.
        strangers: images of the archive that the CSV does not know.
    """

    archive: Path
    truth: Path
    places: dict[str, Place]
    strangers: int = 0


def crops(world: World, count: int, seed: int) -> list[tuple[bytes, Place]]:
    """JPEG files as cameras would have taken them, and where."""
    latitude, longitude = world.scatter(count, seed=seed)
    return [
        (file, (round(float(a), 6), round(float(b), 6)))
        for file, a, b in zip(world.photograph(latitude, longitude, seed=seed), latitude, longitude, strict=True)
    ]


def mp16_pro(folder: Path, pictures: Sequence[tuple[bytes, Place]], parts: int = 7) -> Miniature:
    """MP16-Pro below `folder`; the borders of its parts lie in headers, in images, one byte behind another, and so on."""
    rng = np.random.default_rng(16)
    names, members = {}, [("./", b""), ("./images/", b"")]
    for file, place in pictures:
        pair = rng.integers(0, 256, 2)
        name = f"{pair[0]:02x}/{pair[1]:02x}/{rng.integers(10**7, 10**10)}.jpg"
        names[name] = place
        members.append((f"./images/{name.replace('/', '_')}", file))
    members.insert(len(members) // 2, ("./images/00_00_1.jpg", pictures[0][0]))
    data, headers = _tar(members)
    fair = [len(data) * part // parts for part in range(1, parts)]
    inside = headers[len(headers) // 3]
    borders = sorted({*fair[:-3], inside + 100, inside + 101, headers[-9] + 513, len(data) - 700})
    folder.mkdir(parents=True)
    for number, (start, end) in enumerate(pairwise([0, *borders, len(data)])):
        (folder / f"mp-16-images{number:02}").write_bytes(data[start:end])
    (folder / "metadata").mkdir()
    (folder / "metadata/tar_index.pkl").write_bytes(b"\x80\x04}\x94.")
    truth = folder / "metadata/MP16_Pro_places365.csv"
    lost = {f"ff/fe/{n}.jpg": (float(n), 0.5) for n in range(5)}
    with truth.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(MP16_COLUMNS)
        for name, (latitude, longitude) in [*names.items(), *lost.items()]:
            words = ("", "St. John's, Antigua", "", 'The "Heights"', "", "Nowhere", "nw", "Oceania", 0.25)
            table.writerow([name, repr(latitude), repr(longitude), *words])
    return Miniature(folder, truth, names, strangers=1)


def _tar(members: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    """GNU tar's form, and where each header begins."""
    file, headers = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size, info.mtime, info.uname, info.gname = len(data), 1_700_000_000, "root", "root"
            headers.append(file.tell())
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue(), headers


def osv_5m(folder: Path, split: str, pictures: Sequence[tuple[bytes, Place]], zips: int = 3) -> Miniature:
    """One split ("train" or "test") of OSV-5M below `folder`."""
    rng = np.random.default_rng(len(split))
    names = {str(rng.integers(10**14, 10**16)): place for _, place in pictures}
    images = folder / "images" / split
    images.mkdir(parents=True)
    for number in range(zips):
        with zipfile.ZipFile(images / f"{number:02}.zip", "w", zipfile.ZIP_STORED) as archive:
            for name, (file, _) in list(zip(names, pictures, strict=True))[number::zips]:
                archive.writestr(zipfile.ZipInfo(f"{number:02}/{name}.jpg"), file)
    truth = folder / f"{split}.csv"
    lost = {f"17{n}": (1.0, float(n)) for n in range(5)}
    with truth.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(OSV_COLUMNS)
        for name, (latitude, longitude) in [*names.items(), *lost.items()]:
            area = ("Chatham Islands", "", "Waitangi", 4, 4.66, 1, 15, 3, 0.0069, *[0] * 7, "Chatham Islands_NZ", "", "W", "NZ")
            words = ("", "NZ", "x1", 1_609_459_200_000, 8, 5, "(0, 8)", *area, "roadroid", 111_336_221_091_714.0)
            table.writerow([name, repr(latitude), repr(longitude), *words])
    return Miniature(images, truth, names)


def im2gps3k(folder: Path, pictures: Sequence[tuple[bytes, Place]]) -> Miniature:
    """Im2GPS3k below `folder`: the benchmark that models trained on MP16-Pro are judged by."""
    names = {f"{1000 + n}_{n * 7919 % 65536:x}_{n}_12345678@N00.jpg": place for n, (_, place) in enumerate(pictures)}
    images = folder / "im2gps3ktest"
    images.mkdir(parents=True)
    for name, (file, _) in zip(names, pictures, strict=True):
        (images / name).write_bytes(file)
    truth = folder / "im2gps3k_places365.csv"
    with truth.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\r\n")
        table.writerow(IM2GPS_COLUMNS)
        for name, (latitude, longitude) in names.items():
            table.writerow([name, "12345678@N00", repr(latitude), repr(longitude), 1, 7, 200, 0.1, 0.6, 0.3])
    return Miniature(images, truth, names)
