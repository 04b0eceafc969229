"""What is particular to a disk: links, half-written files, names that are no text, bad permissions."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.errors import MachineError, UserError
from geobatch.store import Changed, Denied, Store, StoreConfig, Unreadable, disk, stream
from geobatch.store.uri import Place
from tests.store.test_stream import MIB, Drip

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(NAMES, NAMES), max_size=12))
def test_a_walk_is_sorted_like_a_listing_of_s3(tmp_path_factory: pytest.TempPathFactory, names: set[tuple[str, str]]) -> None:
    folder = tmp_path_factory.mktemp("walk")
    for first, second in names:
        if {first, second} & {".", ".."} or len(f"{first}{second}".encode()) > 200:
            continue
        below = folder / f"{first}d"
        below.mkdir(exist_ok=True)
        (below / second).write_bytes(b"x")
        (folder / f"{first}f").write_bytes(b"x")
    found = [each.uri for page in Store().objects(str(folder)) for each in page]
    assert found == sorted(found, key=str.encode)
    assert set(found) == {f"file://{path}" for path in folder.rglob("*") if path.is_file()}


def test_pages_of_a_large_folder_are_cut_from_sorted_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PAGE", 7)
    for number in range(50):
        (tmp_path / f"{number * 7919 % 50:02}").touch()
    pages = list(Store().objects(str(tmp_path)))
    assert [len(page) for page in pages] == [7] * 7 + [1]
    assert [each.uri[-2:] for page in pages for each in page] == [f"{number:02}" for number in range(50)]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "x")
    found = [each.uri[len(f"file://{tmp_path}/") :] for page in Store().objects(str(tmp_path)) for each in page]
    assert found == ["again/x", "file", "real/x"]


def test_one_entry_that_leads_nowhere_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "gone/x", "later/x", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "ring").symlink_to("ring2")
    (tmp_path / "ring2").symlink_to("ring/x")
    (tmp_path / "through").symlink_to("a/x")
    (tmp_path / "long").symlink_to("x" * 300)
    assert Store().head(str(tmp_path / "loop")) is None and Store().head(str(tmp_path / ("x" * 300))) is None
    monkeypatch.setattr(disk, "_PAGE", 1)
    pages = Store().objects(str(tmp_path))
    found = [next(pages)[0].uri]
    shutil.rmtree(tmp_path / "gone")  # while it is walked
    found += [each.uri for page in pages for each in page]
    assert [uri.removeprefix(f"file://{tmp_path}/") for uri in found] == ["a", "later/x", "z"]


@pytest.mark.parametrize(
    ("code", "link", "kind"),
    [
        (errno.EACCES, True, None),
        (errno.EACCES, False, Denied),
        (errno.EIO, True, Unreadable),
        (errno.ESTALE, False, Unreadable),
    ],
)
def test_an_entry_that_cannot_be_looked_at_is_raised_unless_it_is_a_link_to_where_nobody_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, link: bool, kind: type[Exception] | None
) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "odd").symlink_to("a") if link else (tmp_path / "odd").mkdir()
    real = Path.stat

    def asked(self: Path, **flags: bool) -> os.stat_result:
        if self.name == "odd":
            raise OSError(code, os.strerror(code))
        return real(self, **flags)

    monkeypatch.setattr(Path, "stat", asked)
    if kind is None:
        assert [each.uri for page in Store().objects(str(tmp_path)) for each in page] == [f"file://{tmp_path}/a"]
    else:
        with pytest.raises(kind, match=r"/odd.*; c"):
            list(Store().objects(str(tmp_path)))


def test_a_killed_writer_leaves_nothing_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / f"{disk.UNFINISHED}abc").write_bytes(b"half")
    Store().put(str(tmp_path / "x"), b"whole")
    assert [len(page) for page in Store().objects(str(tmp_path))] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{disk.UNFINISHED}abc", "x"]


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    with pytest.raises(UserError, match=r"caf.*e9\.jpg.*rename it"):
        list(Store().objects(str(tmp_path)))


def test_a_file_that_grows_while_it_is_read_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 100)
    read = disk._Open.read

    def written_meanwhile(self: disk._Open, size: int) -> bytes:
        data = read(self, size)
        with path.open("ab") as file:
            file.write(b"b")
        return data

    monkeypatch.setattr(disk._Open, "read", written_meanwhile)
    with pytest.raises(Changed):
        Store().get(str(path))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_broken_disk_is_the_machine_s_fault_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", full)
    store = Store()
    for write in (store.put, store.put_if_absent):
        with pytest.raises(MachineError, match="then run again"):
            write(str(tmp_path / "a"), b"x")
    with pytest.raises(MachineError, match="then run again"):
        store.require_conditional_writes(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for write in (Store().put, Store().put_if_absent):
        with pytest.raises(Denied, match="choose another output"):
            write(str(tmp_path / "file" / "below"), b"x")
    assert not Store().exists(str(tmp_path))


@pytest.mark.parametrize("slow", [4, 40])
def test_a_disk_that_is_slow_for_a_while_is_opened_again_and_one_that_stays_slow_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """The first mebibytes take 105 s each, so that 16 of them take more than --store.request-timeout."""
    path, clock = tmp_path / "x.tar", Drip(0, lambda number: 105.0 if number < slow else 0.1)
    path.write_bytes(bytes(8 * MIB))
    read, opened, times = disk._Open.read, disk._Open.__init__, list[int]()

    def slowly(self: disk._Open, size: int) -> bytes:
        clock.now += clock.takes(self._file.tell() // MIB)
        return read(self, size)

    def counted(self: disk._Open, place: Place, start: int, if_match: str | None) -> None:
        times.append(start // MIB)
        opened(self, place, start, if_match)

    monkeypatch.setattr(disk._Open, "read", slowly)
    monkeypatch.setattr(disk._Open, "__init__", counted)
    monkeypatch.setattr(stream, "time", clock)
    with Store(StoreConfig(attempts=3, backoff=0.0)).stream(str(path)) as file:
        if slow == 4:
            assert b"".join(iter(lambda: file.read(MIB), b"")) == bytes(8 * MIB)
        else:
            with pytest.raises(Unreadable, match=r"failed 3 times, at last with TimeoutError: 2097152 bytes came in 120 s"):
                list(iter(lambda: file.read(MIB), b""))
    assert times == [0, 2, 4]


def test_what_the_system_says_of_a_disk_is_final(tmp_path: Path) -> None:
    assert isinstance(disk.judge(TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "file:///x"), Unreadable)
    assert disk.judge(TimeoutError("16 bytes came in 120 s"), "file:///x") is None
