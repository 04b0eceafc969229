"""Names: what is an image, what the globs choose, and ids that no two images share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.archive.config import ArchiveConfig
from geobatch.archive.names import MemberIds, Names, container, escaped, named_like_an_image
from geobatch.errors import UserError

#: Few letters, so that names meet, and all that ids treat specially.
MEMBERS = st.lists(st.text("a~2#%3", min_size=1, max_size=4), max_size=30)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.jpg", True), ("a.JPEG", True), ("a/b.c.Png", True), (".jpg", True), ("../x.heic", True), ("x.jp2", True),
        ("a.json", False), ("jpg", False), ("a.jpg.txt", False), ("a.jpg/", False), ("a/._b.jpg", False), ("", False),
        ("__MACOSX/a.jpg", False), ("a.jpg ", False),
    ],
)  # fmt: skip
def test_images_go_by_their_ending(name: str, image: bool) -> None:
    assert named_like_an_image(name) is image
    assert Names(ArchiveConfig(uri="x")).takes(name) is image


def test_containers_go_by_their_ending() -> None:
    kinds = {name: container(name) for name in ("a.tar", "A.TAR.GZ", "x.tgz", "b.zip", "c.parquet", "d.gz", "tar", "e.tar.xz")}
    assert kinds == {
        "a.tar": "tar", "A.TAR.GZ": "tar", "x.tgz": "tar", "b.zip": "zip", "c.parquet": "parquet",
        "d.gz": None, "tar": None, "e.tar.xz": None,
    }  # fmt: skip


def test_globs() -> None:
    names = Names(ArchiveConfig(uri="x", include=("*.raw", "2019/*"), exclude=("*thumb*", "2019/bad/*")))
    taken = ["a.raw", "b/c.raw", "2019/x", "2019/d/e.txt"]
    passed = ["a.jpg", "a_thumb.raw", "2019/bad/x.raw", "b/2019/x", "A.RAW"]
    assert [name for name in taken + passed if names.takes(name)] == taken
    assert all(map(names.opens, ["any.tar", "2019/x.zip"])) and not names.opens("2019/bad/x.tar")


def test_globs_of_containers_choose_containers_and_leave_their_members_to_their_endings() -> None:
    names = Names(ArchiveConfig(uri="x", include=("2019/*.tar",)))
    assert names.opens("2019/a.tar") and not names.opens("2020/a.tar") and not names.opens("2019/a.zip")
    assert names.takes_member("x.jpg") and not names.takes_member("x.txt") and not names.takes("loose.jpg")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10, unique=True))
def test_escaping_can_be_undone_and_leaves_no_hash(texts: list[str]) -> None:
    assert all("#" not in escaped(text) for text in texts)
    assert len({escaped(text) for text in texts}) == len(texts)
    for text in texts:
        assert escaped(text).replace("%23", "#").replace("%25", "%") == text


@given(MEMBERS)
def test_no_two_members_share_an_id(names: list[str]) -> None:
    ids = MemberIds("s3://b/x#1.tar")
    given_ids = [ids.give(name) for name in names]
    assert len(set(given_ids)) == len(names)
    assert all(each.startswith("s3://b/x%231.tar#") and each.count("#") == 1 for each in given_ids)
    # The k-th of a name ends in ~k, whatever other names there are.
    for position, (name, given_id) in enumerate(zip(names, given_ids, strict=True)):
        count = names[: position + 1].count(name)
        assert given_id == MemberIds("s3://b/x#1.tar").give(name) + (f"~{count}" if count > 1 else "")


@given(MEMBERS, st.data())
def test_ids_do_not_depend_on_what_was_read_before(names: list[str], data: st.DataObject) -> None:
    ids = MemberIds("u")
    whole = [ids.give(name) for name in names]
    before = data.draw(st.sets(st.sampled_from(range(len(names))))) if names else set()
    rest = MemberIds("u", {whole[index] for index in before})
    assert [rest.give(names[index]) for index in range(len(names)) if index not in before] == [
        whole[index] for index in range(len(names)) if index not in before
    ]


def test_sizes_that_make_no_unit_of_work_are_refused() -> None:
    for rows in (0, 50_001):
        with pytest.raises(UserError, match="--shard-rows"):
            ArchiveConfig(uri="x", shard_rows=rows)
    with pytest.raises(UserError, match="--max-bytes"):
        ArchiveConfig(uri="x", max_bytes=0)
