"""The places that are answered with, and their features: made once a machine, then read from disk.

Encoding GeoCLIP's 100,000 places is 1.9 TFLOP, half a minute of one core; the original spends it on every picture.
Here the first actor that needs them writes `CACHE/geoclip/KEY.npy` (205 MB) and all actors of the machine map that file into
memory, so that they share one copy. KEY hashes the encoder's files, the coordinates and a number raised by hand with the code:
other weights or places make another file. The file appears by a rename, when it is whole; a lock that dies with its holder
keeps a second actor from doing the same work.

Files of weights that are no longer used stay until somebody removes them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from geobatch.engine.gps import LocationEncoder
from geobatch.errors import UserError
from geobatch.geo import point
from geobatch.methods.geoclip.weights import digest
from geobatch.store.disk import home

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

#: Raised by hand when the encoder's arithmetic changes what it says of a place.
_VERSION = 1

_HEADERS = {"latitude": ("latitude", "lat"), "longitude": ("longitude", "lon", "lng")}


@dataclass(frozen=True)
class Places:
    """G places and what pictures are compared with.

    Fields:
        latitude, longitude: (G,) degrees.
        features: (G, D) unit vectors.
    """

    latitude: Floats
    longitude: Floats
    features: Vectors

    def __len__(self) -> int:
        return len(self.latitude)

    @cached_property
    def points(self) -> Floats:
        """(G, 3) unit vectors in space."""
        return point.unit_vectors(self.latitude, self.longitude)


def coordinates(source: Path) -> tuple[Floats, Floats]:
    """Latitudes and longitudes (G,), degrees: the columns of a CSV file with a header, or a gallery's places.

    Raises:
        UserError: there are none, or one of them is not on Earth.
    """
    if source.is_dir():
        from geobatch.engine import gallery  # faiss, which GeoCLIP's own places do not need

        found = gallery.load(source)
        latitude, longitude = found.latitude, found.longitude
    else:
        latitude, longitude = _columns(source)
    wrong = np.flatnonzero(~point.valid(latitude, longitude))
    if len(wrong) or not len(latitude):
        what = f"row {int(wrong[0]) + 1} of {source} is not on Earth" if len(wrong) else f"{source} holds no place"
        raise UserError(f"{what}; give LAT in -90 to 90 and LON in -180 to 180")
    return latitude, longitude


def _columns(source: Path) -> tuple[Floats, Floats]:
    try:
        table = csv.read_csv(source)
    except FileNotFoundError as error:
        raise UserError(f"there is no file of places {source}; give a CSV with LAT and LON, or a gallery's folder") from error
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{source} is no CSV ({str(error).splitlines()[0][:160]}); give one with columns LAT and LON"
        ) from error
    lower = {name.lower(): name for name in table.column_names}
    found = []
    for what, names in _HEADERS.items():
        name = next((lower[each] for each in names if each in lower), None)
        if name is None or not (pa.types.is_floating(table[name].type) or pa.types.is_integer(table[name].type)):
            raise UserError(f"{source} has no {what} column of numbers; give a CSV with a header of LAT and LON")
        found.append(table[name].cast(pa.float64()).to_numpy().astype(np.float64))
    return found[0], found[1]


def place(encoder: Path, source: Path, cache: Path | None = None) -> Places:
    """The places of `source` with their features by a location encoder, from the cache or made and kept there.

    Args:
        encoder: GeoCLIP's file, or a folder that `LocationEncoder.save` wrote.
        source: as for `coordinates`.
        cache: where features are kept; default as `home`.

    Raises:
        UserError: encoder or places do not read, or the cache cannot be written.
    """
    latitude, longitude = coordinates(source)
    path = (cache or home()) / "geoclip" / f"{_key(encoder, latitude, longitude)}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _kept(path, len(latitude))
        if kept is None:
            with _alone(path.with_suffix(".lock")):
                kept = _kept(path, len(latitude))
                if kept is None:
                    _make(path, encoder, latitude, longitude)
                    kept = _kept(path, len(latitude))
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror or error}); set GEOBATCH_CACHE to a folder that can "
                        "be, with 300 MB free") from error  # fmt: skip
    assert kept is not None  # it has just been written
    return Places(latitude, longitude, kept)


def _key(encoder: Path, latitude: Floats, longitude: Floats) -> str:
    """Of what decides the features: of an encoder's folder the two files alone, since an image model lies beside them."""
    files = [encoder / LocationEncoder.CONFIG, encoder / LocationEncoder.WEIGHTS] if encoder.is_dir() else [encoder]
    try:
        total = hashlib.sha256(f"{_VERSION} {digest(*files)}".encode())
    except FileNotFoundError as error:
        raise UserError(f"there is no location encoder {encoder}; give GeoCLIP's file, or the folder of an encoder that was "
                        "aligned with one here") from error  # fmt: skip
    total.update(np.stack([latitude, longitude]).tobytes())
    return total.hexdigest()[:20]


def _kept(path: Path, count: int) -> Vectors | None:
    """The features in a file, mapped; None where it is missing or not whole."""
    try:
        found = np.load(path, mmap_mode="c")  # torch asks for memory it may write; pages are shared until somebody does
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return np.asarray(found) if found.ndim == 2 and found.dtype == np.float32 and len(found) == count else None


def _make(path: Path, encoder: Path, latitude: Floats, longitude: Floats) -> None:
    scratch = path.with_suffix(f".{os.getpid()}.part")
    try:
        with scratch.open("wb") as file:
            made = LocationEncoder.load(encoder) if encoder.is_dir() else LocationEncoder.geoclip(encoder)
            np.save(file, made.encode(latitude, longitude))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of the machine at a time; the kernel frees the lock of one that dies."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
