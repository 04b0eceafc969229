"""XMP sidecars: small files beside photographs, from which photo tools read where they were taken.

    IMG_1.jpg  ──▶  IMG_1.jpg.xmp    as digiKam, darktable and ExifTool have it; or IMG_1.xmp, as Adobe's programs do

A coordinate is the exif namespace's `DDD,MM.mmmmmmN` (XMP Specification Part 2, 3.3, GPSCoordinate): degrees, minutes with six
decimals, which is 2 mm, and the side of the Earth. GPSHPositioningError is the radius in metres that holds the truth with
probability 0.9, where the method says one; GPSProcessingMethod tells that a model placed it and not a receiver.

A sidecar that someone else wrote, or changed since, is never overwritten unless told: ours are known by their first element's
`x:xmptk`, which every program that rewrites one sets to its own. A photograph that has coordinates of its own gets no sidecar,
since a sidecar wins over the file in most tools.

An image below the archive's root has its sidecar below the folder as it lies below the root; any other, as of a manifest, by
its bucket and whole key, since two of them may have one name. Where two images still come to one path (a.jpg and a.png under
"stem"), the first has it and the second is counted: 90 bytes of memory a sidecar.

Not covered: writing into photographs, sidecars in buckets, merging with what a foreign sidecar says.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from geobatch.errors import UserError
from geobatch.store import split
from geobatch.store.uri import Place

Naming = Literal["full", "stem"]

#: By this the first element of a sidecar says that it is ours, and unchanged.
TOOLKIT = "geobatch"
_OURS = re.compile(rb"""<x:xmpmeta\b[^>]*\bx:xmptk=["']geobatch["']""")

#: What a file system or a shell may mind is written %XX, so that two images never share a sidecar.
_UNSAFE = re.compile(r"[^\w .,()+=@&-]|^\.{1,2}$|^$|^[. ]|[. ]$")

#: Bytes of a name; most file systems take 255.
_LONGEST = 200

_TEXT = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{toolkit}">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"{attributes}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def coordinate(degrees: float, positive: str, negative: str) -> str:
    """Degrees as XMP writes them.

    >>> coordinate(48.858222, "N", "S"), coordinate(-0.5, "E", "W"), coordinate(59.99999999999, "N", "S")
    ('48,51.493320N', '0,30.000000W', '60,0.000000N')
    """
    millionths = round(abs(degrees) * 60_000_000)
    whole, minutes = divmod(millionths, 60_000_000)
    return f"{whole},{minutes // 1_000_000}.{minutes % 1_000_000:06d}{positive if degrees >= 0 else negative}"


def _safe(part: str) -> str:
    """A part of an image's name as a file's; a long one ends in a hash of the whole."""
    safe = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")) or "%", part)
    if len(safe.encode("utf-8", "replace")) <= _LONGEST:
        return safe
    kept = safe.encode("utf-8", "replace")[: _LONGEST - 20].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.blake2b(part.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"


def sidecar(row: Mapping[str, Any]) -> bytes:
    """The file for a placed row of the table: `latitude`, `longitude`, `method`, `radius_90_km` or null."""
    values = {
        "GPSVersionID": "2.3.0.0",
        "GPSLatitude": coordinate(row["latitude"], "N", "S"),
        "GPSLongitude": coordinate(row["longitude"], "E", "W"),
        "GPSMapDatum": "WGS-84",
        "GPSProcessingMethod": f"geobatch {row.get('method') or ''}".strip(),
    }
    if row.get("radius_90_km"):
        metres = Fraction(round(row["radius_90_km"] * 1000))
        values["GPSHPositioningError"] = f"{metres.numerator}/{metres.denominator}"
    attributes = "".join(f"\n    exif:{name}={quoteattr(value)}" for name, value in values.items())
    return _TEXT.format(toolkit=TOOLKIT, attributes=attributes).encode()


class Sidecars:
    """Writes sidecars for rows that pass by.

    Args:
        folder: where they go, below it as the images lie below `root`; None: beside the images, which must be local files.
        root: URI that the images' names begin with.
        naming: "full" keeps the image's extension before `.xmp`, "stem" replaces it.
        overwrite: also what others wrote.

    `counts` says what became of the rows: "written", "kept" (someone else's), "own" (the photograph has coordinates),
    "shared" (another image of these rows has that path), "unplaced".
    """

    def __init__(self, folder: Path | None, root: str = "", naming: Naming = "full", *, overwrite: bool = False) -> None:
        self.folder, self.naming, self.overwrite = folder, naming, overwrite
        self._root = split(root).uri.rstrip("/") + "/" if root else ""
        self.counts: Counter[str] = Counter()
        self._taken: set[int] = set()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The next rows: `image_id`, `uri`, `latitude`, `longitude`, `exif_latitude`, `method`, `radius_90_km`.

        Raises:
            UserError: images lie in a bucket or an archive and no folder was given, or a folder cannot be written to.
        """
        for row in rows:
            if row["latitude"] is None:
                self.counts["unplaced"] += 1
            elif row.get("exif_latitude") is not None:
                self.counts["own"] += 1
            else:
                self.counts[self._write(self.path(row), sidecar(row))] += 1

    def path(self, row: Mapping[str, Any]) -> Path:
        """Where a row's sidecar lies; never outside the folder, whatever the image is called.

        Raises:
            UserError: it is to lie beside an image that is no file on this machine.
        """
        image_id, place = row["image_id"], split(row["uri"])
        if self.folder is None:
            if "#" in image_id or place.bucket is not None:
                raise UserError(f"{image_id} is no file on this machine; give a folder with --write-xmp FOLDER")
            *above, name = [*Path(place.key).parts[:-1], Path(place.key).name]
            return Path(*above, self._named(name))
        parts = [*self._inside(place), *filter(None, image_id.partition("#")[2].split("/"))]
        *above, name = [_safe(part) for part in parts]
        return self.folder.joinpath(*above, self._named(name))

    def _inside(self, place: Place) -> list[str]:
        """Parts of the path below the folder of an object's sidecar, or of those of its members."""
        if place.uri + "/" == self._root:  # the archive is this one file
            return [place.key.rpartition("/")[2]]
        if self._root and place.uri.startswith(self._root):
            return place.uri.removeprefix(self._root).split("/")
        return [*filter(None, [place.bucket]), *place.key.removeprefix("/").split("/")]

    def _named(self, name: str) -> str:
        return (PurePosixPath(name).stem if self.naming == "stem" else name) + ".xmp"

    def _write(self, path: Path, data: bytes) -> str:
        """Writes a sidecar, or leaves what is there; says which."""
        digest = hashlib.blake2b(str(path).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        if number in self._taken:
            return "shared"
        try:
            if not self.overwrite and path.exists() and not _OURS.search(path.read_bytes()[:4096]):
                return "kept"
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            partial.write_bytes(data)
            partial.replace(path)
        except OSError as error:
            raise UserError(
                f"the sidecar {path} cannot be written ({error.strerror}); give another folder with --write-xmp"
            ) from error
        self._taken.add(number)
        return "written"
