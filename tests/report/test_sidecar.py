"""XMP sidecars: the standard's form of a coordinate, names that stay in their folder, and what is another program's."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.report.sidecar import Sidecars, coordinate, sidecar

EXIF = "{http://ns.adobe.com/exif/1.0/}"

#: XMP Specification Part 2, 3.3: DDD,MM.mmk, as ExifTool reads it.
FORM = re.compile(r"(\d{1,3}),(\d{1,2}\.\d{1,10})([NSEW])")


def degrees(text: str) -> float:
    found = FORM.fullmatch(text)
    assert found is not None and float(found[2]) < 60
    return (int(found[1]) + float(found[2]) / 60) * (-1 if found[3] in "SW" else 1)


def row(name: str, **more: object) -> dict[str, object]:
    plain = {"latitude": 48.85, "longitude": 2.35, "exif_latitude": None, "method": "geotoken", "radius_90_km": None}
    return {"image_id": name, "uri": name.partition("#")[0], **plain, **more}


@given(st.floats(-180, 180))
def test_a_coordinate_comes_back_to_two_millimetres(value: float) -> None:
    assert degrees(coordinate(value, "E", "W")) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0,0.000000N"), (-90.0, "90,0.000000S"), (12.9999999999, "13,0.000000N"), (-0.25, "0,15.000000S")],
)
def test_the_rims_of_a_coordinate(value: float, text: str) -> None:
    assert coordinate(value, "N", "S") == text


def test_the_file_is_what_photo_tools_read() -> None:
    data = sidecar(row("a.jpg", method='"<&>"', radius_90_km=1.25))
    assert data.startswith(b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>') and data.rstrip().endswith(
        b'<?xpacket end="w"?>'
    )
    root = ElementTree.fromstring(data.decode())
    assert root.tag == "{adobe:ns:meta/}xmpmeta"
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    told = {name.removeprefix(EXIF): value for name, value in description.attrib.items() if name.startswith(EXIF)}
    assert degrees(told["GPSLatitude"]) == pytest.approx(48.85) and degrees(told["GPSLongitude"]) == pytest.approx(2.35)
    assert told["GPSHPositioningError"] == "1250/1" and told["GPSVersionID"] == "2.3.0.0"
    assert told["GPSProcessingMethod"] == 'geobatch "<&>"' and told["GPSMapDatum"] == "WGS-84"


def test_anothers_sidecar_stays(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    theirs = tmp_path / "a.jpg.xmp"
    rows = [row(f"file://{image}")]
    foreign = sidecar(row("x")).replace(b'x:xmptk="geobatch"', b'x:xmptk="XMP Core 4.4.0-Exiv2"')
    for there in (b"", b"<x/>", foreign, b"geobatch"):
        theirs.write_bytes(there)
        writer = Sidecars(None)
        writer.add(rows)
        assert theirs.read_bytes() == there and writer.counts == {"kept": 1}
    writer = Sidecars(None, overwrite=True)
    writer.add(rows)
    ours = theirs.read_bytes()
    assert writer.counts == {"written": 1} and ours != foreign
    # Ours is replaced without being told.
    writer = Sidecars(None)
    writer.add([row(f"file://{image}", latitude=-1.0)])
    assert writer.counts == {"written": 1} and b"1,0.000000S" in theirs.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg.xmp"]


def test_who_gets_none(tmp_path: Path) -> None:
    writer = Sidecars(tmp_path)
    writer.add([row("s3://b/a.jpg", latitude=None), row("s3://b/c.jpg", exif_latitude=3.0)])
    assert writer.counts == {"unplaced": 1, "own": 1} and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("s3://b/in/x/1.jpg", "x/1.jpg.xmp"),
        ("s3://b/in/a.tar#m/1.jpg", "a.tar/m/1.jpg.xmp"),
        ("s3://b/in/a.tar#../../../etc/passwd", "a.tar/%2E%2E/%2E%2E/%2E%2E/etc/passwd.xmp"),
        ("s3://b/in/a.tar#/etc/passwd", "a.tar/etc/passwd.xmp"),
        ("s3://elsewhere/q/1.jpg", "elsewhere/q/1.jpg.xmp"),
        ("s3://b/in2/1.jpg", "b/in2/1.jpg.xmp"),
        ("file:///photos/q/1.jpg", "photos/q/1.jpg.xmp"),
        ("s3://b/in/é ☃:?.jpg", "é %E2%98%83%3A%3F.jpg.xmp"),
    ],
)
def test_where_a_sidecar_lies(tmp_path: Path, name: str, path: str) -> None:
    assert Sidecars(tmp_path, "s3://b/in").path(row(name)).relative_to(tmp_path).as_posix() == path


def test_members_of_an_archive_of_one_file_lie_below_its_name(tmp_path: Path) -> None:
    one = Sidecars(tmp_path, "s3://b/in/a.tar").path(row("s3://b/in/a.tar#m/1.jpg"))
    assert one.relative_to(tmp_path).as_posix() == "a.tar/m/1.jpg.xmp"


@pytest.mark.parametrize("root", ["s3://b/list.csv", "s3://another/archive", ""])
def test_images_of_one_name_have_sidecars_of_their_own(tmp_path: Path, root: str) -> None:
    """A manifest's images lie anywhere, and so do those of an output that two archives filled."""
    writer = Sidecars(tmp_path, root)
    writer.add([row("s3://b/x/1.jpg", latitude=1.0), row("s3://b/y/1.jpg", latitude=2.0), row("s3://c/y/1.jpg", latitude=3.0)])
    written = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.xmp")}
    assert set(written) == {"b/x/1.jpg.xmp", "b/y/1.jpg.xmp", "c/y/1.jpg.xmp"} and writer.counts == {"written": 3}
    assert all(f'"{number},0.000000N"'.encode() in written[name] for number, name in enumerate(sorted(written), 1))


def test_a_second_image_never_takes_a_sidecar_from_the_first(tmp_path: Path) -> None:
    rows = [row("s3://b/in/a.jpg", latitude=1.0), row("s3://b/in/a.png", latitude=2.0)]
    for _ in range(2):  # of an earlier page they are replaced as ever
        writer = Sidecars(tmp_path, "s3://b/in", "stem")
        for one in rows:
            writer.add([one])
        assert writer.counts == {"written": 1, "shared": 1}
        assert b'"1,0.000000N"' in (tmp_path / "a.xmp").read_bytes()
    both = Sidecars(tmp_path, "s3://b/in")
    both.add(rows)
    assert both.counts == {"written": 2}


def test_both_ways_of_naming(tmp_path: Path) -> None:
    assert Sidecars(tmp_path, "s3://b", "stem").path(row("s3://b/a.b.jpg")).name == "a.b.xmp"
    assert Sidecars(None, naming="stem").path(row("/photos/a.jpg")) == Path("/photos/a.xmp")
    assert Sidecars(None).path(row("/photos/a.jpg")) == Path("/photos/a.jpg.xmp")
    for remote in ("s3://b/a.jpg", "/photos/a.tar#1.jpg"):
        with pytest.raises(UserError, match="give a folder with --write-xmp"):
            Sidecars(None).path(row(remote))


@given(st.text(st.characters(codec="utf-8"), max_size=300), st.text(st.characters(codec="utf-8"), max_size=300))
def test_names_stay_inside_and_apart(one: str, other: str) -> None:
    folder = Path("/somewhere/safe")
    paths = []
    for member in (one, other):
        path = Sidecars(folder, "s3://b/in").path(row(f"s3://b/in/a.tar#{member}", uri="s3://b/in/a.tar"))
        assert Path(os.path.normpath(path)).is_relative_to(folder) and path.suffix == ".xmp"
        assert all(len(part.encode()) < 256 and part not in ("", ".", "..") for part in path.parts[1:])
        paths.append(path)
    if [part for part in one.split("/") if part] != [part for part in other.split("/") if part]:
        assert paths[0] != paths[1]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Sidecars(tmp_path / "file").add([row("s3://b/a.jpg")])
