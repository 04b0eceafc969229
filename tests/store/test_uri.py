"""URIs are taken apart and put together without changing a key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.store import join, split
from geobatch.store.uri import Place

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(KEYS)
def test_any_key_survives(key: str) -> None:
    assert split(f"s3://bucket/{key}") == Place("bucket", key)
    assert split(f"s3://bucket/{key}").uri == f"s3://bucket/{key}"


def test_local_paths_become_absolute() -> None:
    assert split("photos/x.jpg").uri == f"file://{Path.cwd()}/photos/x.jpg"
    assert split("file:///a/100%/x#1.jpg") == Place(None, "/a/100%/x#1.jpg")
    assert split("/a/./b/").key == "/a/b"


@pytest.mark.parametrize(
    ("base", "parts", "whole"),
    [
        ("s3://b", ("x",), "s3://b/x"),
        ("s3://b/", ("x/", "y"), "s3://b/x/y"),
        ("s3://b/p q/", ("r#s",), "s3://b/p q/r#s"),
        ("/", ("x",), "file:///x"),
        ("file:///a/", ("/b/", "c.jpg"), "file:///a/b/c.jpg"),
        ("s3://b/a", (), "s3://b/a"),
    ],
)
def test_parts_are_joined_by_one_slash(base: str, parts: tuple[str, ...], whole: str) -> None:
    assert join(base, *parts) == whole


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "s3://", "s3:///x", "file://host/x", "", "/a\0b"])
def test_what_names_no_place_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UserError) as refused:
        split(uri)
    assert "\n" not in str(refused.value)
