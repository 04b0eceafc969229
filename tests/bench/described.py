"""Recipe: the embedded world as a data set of described tiles, as GeoText-1652 is one of buildings.

Training: places, each seen several times by a camera that was moved and turned, each sight with two texts of the place; the
texts of one place describe all its sights, so that a sight of a text's own place is no negative. All sights but the last
are shaded relief, the last is the Blue Marble: as a drone's and a satellite's picture of one building, the two renderings
meet in the texts, never in a pair. Held out: other places (another seed), one tile, two texts and one Blue Marble crop each.

Held-out places are as near to training places as two draws on land are (half of them within about 60 km of one): what is asked
is a new spot and new words, not a new continent.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geobatch.benchmark.deposit import write_tar
from geobatch.benchmark.landscape import Landscape
from geobatch.benchmark.wording import tell
from geobatch.benchmark.world import World
from geobatch.engine.geocode import Geocoder

TILES, TEXTS, HELD = "tiles", "texts.jsonl", "held"
KM_PER_DEGREE = 111.195

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is laid down."""

    places: int = 5000
    sights: int = 4
    held: int = 2500
    moved_km: float = 60.0
    turned: float = 10.0
    per_tar: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Held:
    """N places that no training saw.

    Attributes:
        latitude, longitude: (N,) degrees.
        texts: two of each.
        tiles, photographs: (N, 48, 48, 3), of shaded relief and of the Blue Marble.
    """

    latitude: Floats
    longitude: Floats
    texts: list[list[str]]
    tiles: Pictures
    photographs: Pictures


def landscape() -> Landscape:
    """The maps, with the cities of 100,000 people and more."""
    return Landscape(towns=Geocoder.load(people=100_000))


def lay(folder: Path, size: Size | None = None) -> Path:
    """Writes `tiles/NNNN.tar`, `texts.jsonl` and the held-out places to `folder`, and returns it; what is there stays."""
    size = size or Size()
    mark = folder / "size.json"
    if mark.is_file():
        return folder
    maps, relief = landscape(), World(map="relief")
    latitude, longitude = relief.scatter(size.places, seed=2 * size.seed + 100)
    said = tell(maps, latitude, longitude, size.seed, 2 * size.sights)
    files = _sights([relief] * (size.sights - 1) + [World()], latitude, longitude, size)
    with _fresh(folder / TEXTS).open("w", encoding="utf-8") as out:
        for at in range(0, len(files), size.per_tar):
            tar = f"{at // size.per_tar:04d}.tar"
            members = []
            for row in range(at, min(at + size.per_tar, len(files))):
                sight, place = divmod(row, size.places)
                members.append((f"{place:05d}-{sight}.png", files[row]))
                for text in said[place][2 * sight : 2 * sight + 2]:
                    told = {"image_id": f"{tar}#{members[-1][0]}", "text": text, "group": f"{place:05d}"}
                    out.write(json.dumps(told, ensure_ascii=False) + "\n")
            write_tar(folder / TILES / tar, members)
    _write_held(folder / HELD, maps, relief, size)
    mark.write_text(json.dumps(asdict(size)))
    return folder


def held(folder: Path) -> Held:
    """The held-out places of a folder that `lay` wrote."""
    arrays = np.load(folder / HELD / "arrays.npz")
    texts = json.loads((folder / HELD / "texts.json").read_text("utf-8"))
    return Held(arrays["latitude"], arrays["longitude"], texts, arrays["tiles"], arrays["photographs"])


def every_text(folder: Path) -> list[str]:
    """The texts that are trained on."""
    return [json.loads(line)["text"] for line in (folder / TEXTS).read_text("utf-8").splitlines()]


def _sights(renderings: list[World], latitude: Floats, longitude: Floats, size: Size) -> list[bytes]:
    """PNG files of each place's first sight, then of each one's second, …; the first is neither moved nor turned."""
    rng = np.random.default_rng([size.seed, 0x51])
    files = []
    for sight, rendering in enumerate(renderings):
        far = (sight > 0) * size.moved_km * np.sqrt(rng.uniform(0, 1, size.places))
        towards = rng.uniform(0, 2 * np.pi, size.places)
        lat = latitude + far * np.cos(towards) / KM_PER_DEGREE
        lon = longitude + far * np.sin(towards) / KM_PER_DEGREE / np.cos(np.radians(latitude))
        turns = (sight > 0) * rng.uniform(-size.turned, size.turned, size.places)
        files += [_png(picture) for picture in rendering.cut(lat, lon, turns)]
    return files


def _write_held(folder: Path, maps: Landscape, relief: World, size: Size) -> None:
    latitude, longitude = relief.scatter(size.held, seed=2 * size.seed + 101)
    texts = tell(maps, latitude, longitude, size.seed + 1, 2)
    np.savez(_fresh(folder / "arrays.npz"), latitude=latitude, longitude=longitude, tiles=relief.cut(latitude, longitude),
             photographs=World().cut(latitude, longitude))  # fmt: skip
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf-8")


def _fresh(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _png(picture: Pictures) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
