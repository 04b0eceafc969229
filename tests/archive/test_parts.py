"""Parts of tars: which names are some, in what order they come, and what is refused."""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from pathlib import Path
from string import ascii_lowercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import Names
from geobatch.archive.parts import Parts, from_first, ordered, successors
from geobatch.archive.plan import plan
from geobatch.errors import UserError
from geobatch.store import Object, Store
from tests.archive.reading import fates, put, rows, shards
from tests.archives import make
from tests.conftest import S3Server
from tests.sink.nights import night, rows_of

STORE = Store()
MEMBERS = [(f"{n:02}.jpg", bytes([n]) * 30_000) for n in range(12)]
WHOLE = make.tar(MEMBERS)
NAMES = [name for name, _ in MEMBERS]


def laid(folder: Path, *names: str) -> None:
    """The tar in as many parts as there are names, in their order."""
    step = -(-len(WHOLE) // max(1, len(names)))
    for number, name in enumerate(names):
        put(folder, name, WHOLE[number * step : (number + 1) * step])


SEQUENCES = [
    ["x.tar.00", "x.tar.01", "x.tar.02"],
    ["x.tar.aa", "x.tar.ab"],
    ["x.tar.part1", "x.tar.part2"],
    ["x.TAR.001", "x.TAR.002"],
    ["x.tar-part-0", "x.tar-part-1"],
    ["x.tar00", "x.tar01"],
    [f"x.tar.{n}" for n in range(12)],
    [f"deep/er/x.tar.{n}" for n in range(1, 12)],
    [f"mp-16-images{n:02}" for n in range(19)],
    ["xaa", "xab", "xac"],
    ["dataaa", "dataab"],
    ["only.tar.00"],
]


@pytest.mark.parametrize("names", SEQUENCES, ids=lambda names: names[0])
def test_sequences_are_read_as_one_tar_in_their_order(tmp_path: Path, names: list[str]) -> None:
    laid(tmp_path, *names)
    config = ArchiveConfig(uri=str(tmp_path))
    pieces = list(plan(STORE, config))
    assert [piece[1:4] for piece in pieces] == [(len(names), 0, 0)]
    found = rows(STORE, config)
    assert list(fates(found)) == NAMES
    assert [row["bytes"] for row in found.values()] == [data for _, data in MEMBERS]
    assert {row["uri"].removeprefix(f"file://{tmp_path}/") for row in found.values()} <= set(names)


@pytest.mark.parametrize("names", SEQUENCES, ids=lambda names: names[0])
def test_the_first_part_names_the_archive(tmp_path: Path, names: list[str]) -> None:
    laid(tmp_path, *names)
    assert list(fates(rows(STORE, ArchiveConfig(uri=str(tmp_path / names[0]))))) == NAMES


def test_the_same_in_a_bucket(s3: S3Server) -> None:
    store, uri = Store(s3.config()), f"s3://{s3.bucket()}/MP16-Pro"
    for number in range(3):
        store.put(f"{uri}/mp-16-images{number:02}", WHOLE[number * 150_001 : (number + 1) * 150_001])
    store.put(f"{uri}/metadata/MP16_Pro_places365.csv", b"IMG_ID,LAT,LON\n")
    for named in (uri, f"{uri}/mp-16-images00"):
        assert list(fates(rows(store, ArchiveConfig(uri=named)))) == NAMES


@pytest.mark.parametrize(
    ("arguments", "parts"), [(["-d"], 120), ([], 30), ([], 660), (["-a", "3", "-d"], 120), (["-d", "-a", "1"], 9)]
)
def test_as_split_names_them(tmp_path: Path, arguments: list[str], parts: int) -> None:
    """coreutils widens the number when it runs out of it: 89 is followed by 9000, yz by zaaa."""
    for stem in ("x.tar.", "mp-16-images")[: 1 if parts > 500 else 2]:
        folder = tmp_path / stem
        folder.mkdir()
        subprocess.run(["split", "-b", str(len(WHOLE) // parts), *arguments, "-", str(folder / stem)], input=WHOLE, check=True)
        names = sorted(path.name for path in folder.iterdir())
        assert len(names) >= parts
        if stem == "mp-16-images" and arguments == ["-d", "-a", "1"]:
            continue  # one digit is not enough to tell a part
        [piece] = plan(STORE, ArchiveConfig(uri=str(folder)))
        first = [row["uri"].rpartition("/")[2] for row in piece.table.to_pylist() if row["shard"] == 0]
        assert (piece.listed, piece.skipped) == (len(names), 0) and first == names[: len(first)]
        found = rows(STORE, ArchiveConfig(uri=str(folder), shard_rows=700))
        assert list(fates(found)) == NAMES


def test_what_lies_between_and_beside_the_parts(tmp_path: Path) -> None:
    """Checksums, other tars, images, a second sequence, and one in a folder with the same beginning."""
    laid(tmp_path, "x.tar.00", "x.tar.01", "x.tar.02")
    laid(tmp_path, "mp-16-images00", "mp-16-images01")
    laid(tmp_path, "x.tar/x.tar.1", "x.tar/x.tar.2")
    for name in ("x.tar.00.md5", "x.tar.01.jpg", "mp-16-images00.sha256", "mp-16-images01.sha256", "mp-16-images.csv", "y00"):
        put(tmp_path, name, b"x")
    put(tmp_path, "z.tar", make.tar(make.images(["z.jpg"])))
    pieces = list(plan(STORE, ArchiveConfig(uri=str(tmp_path))))
    assert [piece[1:4] for piece in pieces] == [(14, 5, 0)]
    ends = Counter(key.rpartition("/")[2].partition("#")[2] or "loose" for key in rows(STORE, ArchiveConfig(uri=str(tmp_path))))
    assert ends == {**dict.fromkeys(NAMES, 3), "loose": 1, "z.jpg": 1}


@pytest.mark.parametrize(
    "parts", [["aa", "ab", "ac"], ["aaa", "aab", "aac"], ["00", "01", "02"], ["part1", "part2"]], ids=lambda each: each[0]
)
def test_companions_with_letters_are_no_parts(tmp_path: Path, parts: list[str]) -> None:
    laid(tmp_path, *(f"x.tar.{part}" for part in parts))
    others = ["md", "json", "idx", "txt", "sha"]
    beside = [name for name in others if len(name) != len(parts[0])]  # as long as the parts' letters, it is a gap among them
    for name in beside:
        put(tmp_path, f"x.tar.{name}", b"x" * 600)
    [piece] = plan(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert (piece.listed, piece.skipped) == (len(parts) + len(beside), len(beside))
    assert list(fates(rows(STORE, ArchiveConfig(uri=str(tmp_path))))) == NAMES


def test_widened_letters_are_parts_and_a_gap_among_them_is_one() -> None:
    def number(at: int) -> str:  # as split counts: 25 · 26 of two letters, then za + two
        return ascii_lowercase[at // 26] + ascii_lowercase[at % 26] if at < 650 else f"zaa{ascii_lowercase[at - 650]}"

    found = [(number(at), Object(f"s3://b/{at}", at, "")) for at in range(653)]
    extra = [(name, Object(f"s3://b/{name}", 0, "")) for name in ("txt", "json", "zip", "zsync")]
    assert [part.size for part in ordered([*extra, *found], ".")] == list(range(653))
    for missing in (3, 649, 650, 651):
        with pytest.raises(UserError, match="are missing"):
            ordered([*extra, *found[:missing], *found[missing + 1 :]], ".")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x.tar.00", "x.tar.02"], r"between .*x.tar.00 and .*x.tar.02 are missing; fetch them"),
        (["x.tar.01", "x.tar.02", "x.tar.04"], r"between .*x.tar.02 and .*x.tar.04"),
        (["x.tar.part2", "x.tar.part3"], r"x.tar.part2 is no first part of a tar; fetch those before it"),
        (["mp-16-images00", "mp-16-images01", "mp-16-images03"], r"between .*images01 and .*images03 are missing"),
    ],
)
def test_what_is_not_whole_is_one_rejection_and_a_line(tmp_path: Path, names: list[str], said: str) -> None:
    laid(tmp_path, *names)
    put(tmp_path, "a.jpg", b"a")
    config = ArchiveConfig(uri=str(tmp_path))
    [piece] = plan(STORE, config)
    [line] = piece.notes
    assert re.search(said, line) and "--exclude" in line and "\n" not in line
    assert fates(rows(STORE, config)) == {names[0]: "broken_archive", "a.jpg": None}
    assert piece.listed == len(names) + 1


@pytest.mark.parametrize("names", [["x.tar.00", "x.tar.02"], ["mp-16-images00", "mp-16-images01", "mp-16-images03"]])
def test_one_that_is_not_whole_waits_for_its_parts(
    tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "archive", tmp_path / "out"
    folder.mkdir()
    stem, every = names[0][:-1], [f"{names[0][:-1]}{n}" for n in range(int(names[-1][-1]) + 1)]
    laid(folder, *every)
    [missing] = {*every} - {*names}
    data = (folder / missing).read_bytes()
    (folder / missing).unlink()
    put(folder, "a.jpg", b"a")
    done, seen = night(folder, out)
    assert done is not None and done["reasons"] == {"broken_archive": 1} and len(seen) == 1
    assert night(folder, out) == (None, []) and capsys.readouterr().out.count("are missing; fetch them") == 2
    put(folder, missing, data)
    done, seen = night(folder, out)
    assert done is not None and (done["rejected"], len(seen)) == (0, 12)
    rejected = [name for name, row in rows_of(out).items() if row["reason"]]
    assert not rejected and len(rows_of(out)) == 13 and night(folder, out) == (None, [])
    (folder / missing).unlink()  # what the table has of the parts that are there stays
    done, seen = night(folder, out)
    assert done is not None and (done["vanished"], done["read"]) == (1, 0) and len(rows_of(out)) == 13
    put(folder, f"{stem}0", (folder / f"{stem}0").read_bytes()[:-1] + b"x")
    done, _ = night(folder, out)
    assert done is not None and done["reasons"] == {"broken_archive": 1}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x.tar", "x.tar.00", "x.tar.01"], r"x.tar and its parts from .*x.tar.00 on are the same images twice; .*--exclude"),
        (["mp-16-images.tar", "mp-16-images00", "mp-16-images01"], r"mp-16-images.tar and its parts"),
    ],
)
def test_what_is_there_twice_is_refused_before_anything_starts(tmp_path: Path, names: list[str], said: str) -> None:
    laid(tmp_path, *(name for name in names if not name.endswith(".tar")))
    laid(tmp_path, *(name for name in names if name.endswith(".tar")))
    with pytest.raises(UserError, match=said) as refused:
        list(plan(STORE, ArchiveConfig(uri=str(tmp_path))))
    assert "\n" not in str(refused.value)


def test_a_later_part_is_no_archive(tmp_path: Path) -> None:
    laid(tmp_path, "x.tar.00", "x.tar.01", "x.tar.02", "x.tar.03")
    with pytest.raises(UserError, match=r"x.tar.02 is no first part"):
        list(plan(STORE, ArchiveConfig(uri=str(tmp_path / "x.tar.02"))))


def test_the_globs_choose_among_sequences(tmp_path: Path) -> None:
    laid(tmp_path, "x.tar.00", "x.tar.01")
    laid(tmp_path, "mp-16-images00", "mp-16-images01")
    put(tmp_path, "a.jpg", b"a")
    put(tmp_path, "mp-16-images.tar", make.tar(make.images(["joined.jpg"])))
    for settings, count in (
        ({"exclude": ("mp-16-images.tar",)}, 25),
        ({"exclude": ("mp-16-images[0-9]*",)}, 14),
        ({"exclude": ("mp-16-images.tar", "x.tar.*")}, 13),
        ({"include": ("x.tar",)}, 12),
        ({"include": ("x.tar", "0[0-3].jpg")}, 4),
        ({"include": ("*0",), "exclude": ("*.tar", "x.*")}, 1),  # an image, because it is named as one
    ):
        assert len(rows(STORE, ArchiveConfig(uri=str(tmp_path), **settings))) == count


def test_numbers_that_count_something_else_make_no_sequence(tmp_path: Path) -> None:
    """Days, rotated copies from 2020 on, signatures; and extensionless images in their hundred thousands."""
    for name in (
        "b.tar.20240101",
        "b.tar.20240102",
        "c.tar.sig",
        "c.tar.xz",
        "c.tar.asc",
        "c.tar.sha",
        "photo0000",
        "photo0001",
    ):
        put(tmp_path, name, WHOLE if name.startswith("b") else b"x" * 600)
    put(tmp_path, "a.jpg", b"a")
    [piece] = plan(STORE, ArchiveConfig(uri=str(tmp_path)))
    assert (len(piece.table), piece.skipped) == (1, 8)


def test_a_million_other_names_are_hardly_asked_for() -> None:
    class Asked(Store):
        count = 0

        def get(self, *_: object, **__: object) -> bytes:
            self.count += 1
            return b"\xff" * 512

    store = Asked()
    parts = Parts(store, Names(ArchiveConfig(uri="s3://b")), "s3://b/")
    listed = [Object(f"s3://b/{n:06}", 9000, "e") for n in range(20_000)]
    hashes = sorted(f"{random.Random(n).getrandbits(64):016x}" for n in range(20_000))
    listed += [Object(f"s3://b/h{name}", 9000, "e") for name in hashes]
    loose, whole = parts.sort(listed)
    last, none = parts.rest()
    assert [*loose, *last] == listed and not whole and not none
    assert store.count <= 3


@given(st.text(digits, min_size=1, max_size=5))
def test_a_number_is_followed_by_the_next(number: str) -> None:
    after = successors(number)
    assert int(after[0]) == int(number) + 1 and len(after[0]) >= len(number)
    assert all(each > number or len(each) > len(number) for each in after)


@given(st.text(ascii_lowercase, min_size=2, max_size=4).filter(lambda text: text.strip("z")))
def test_letters_are_followed_by_the_next_in_the_alphabet(number: str) -> None:
    def value(text: str) -> int:
        return sum((ord(letter) - 97) * 26**place for place, letter in enumerate(reversed(text)))

    assert value(successors(number)[0]) == value(number) + 1 and len(successors(number)[0]) == len(number)


@given(st.permutations(range(25)), st.sampled_from(["{:02}", "{}", "{:03}"]))
def test_order_does_not_depend_on_the_listing(order: list[int], form: str) -> None:
    found = [(form.format(n), Object(f"s3://b/{n}", n, "")) for n in order]
    assert [part.size for part in ordered(found, ".")] == list(range(25))


def test_one_object_that_begins_no_sequence(tmp_path: Path) -> None:
    for name in ("photo00", "x.jpg", "c.tar.sig"):
        put(tmp_path, name, b"x" * 1000)
        found = STORE.head(str(tmp_path / name))
        assert found is not None and from_first(STORE, found) is None


def test_a_sequence_is_known_only_if_each_of_its_parts_is(tmp_path: Path) -> None:
    laid(tmp_path, "x.tar.0", "x.tar.1", "x.tar.2")
    config = ArchiveConfig(uri=str(tmp_path))
    before = {(row["uri"], row["etag"]) for shard in shards(STORE, config) for row in shard.to_pylist()}

    def known(pairs: list[tuple[str, str]]) -> list[bool]:
        return [pair in before for pair in pairs]

    assert [(len(piece.table), *piece[1:4]) for piece in plan(STORE, config, known)] == [(0, 3, 0, 3)]
    put(tmp_path, "x.tar.3", b"\0" * 10240)
    assert len(shards(STORE, config, known)) == 4
