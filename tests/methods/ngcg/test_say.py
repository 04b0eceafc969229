"""Texts in the river: what passes, what is rejected, and that pictures' columns are there for what follows."""

from __future__ import annotations

import hashlib

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import REASONS
from geobatch.methods.ngcg.say import Say
from geobatch.schema import FATE, IMAGE, PICTURE, SAID


def images(values: list[bytes | None], dead: tuple[int, ...] = ()) -> pa.Table:
    """Rows of IMAGE with these bytes; those in `dead` were not read."""
    rows = [
        {
            "image_id": f"s3://b/x.csv#{at}",
            "uri": "s3://b/x.csv",
            "bytes": None if at in dead else value,
            **({"stage": "read", "reason": "unreadable", "detail": ""} if at in dead else {}),
        }
        for at, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=IMAGE)


def test_texts_pass_as_they_are_and_others_are_rejections() -> None:
    values: list[bytes | None] = [
        b" a river bends \n",
        b"",
        b" \t\n",
        b"\xff\xfe",
        None,
        "dünn 川".encode(),
        b"unread",
        b"\xed\xa0\x80",
    ]
    said = Say()(images(values, dead=(6,)))
    assert said["text"].to_pylist() == [" a river bends \n", None, None, None, None, "dünn 川", None, None]
    assert said["reason"].to_pylist() == [None, "empty", "empty", "not_a_text", "empty", None, "unreadable", "not_a_text"]
    assert said["stage"].to_pylist() == [None, *["say"] * 4, None, "read", "say"]
    assert (
        said["sha256"].to_pylist()[0] == hashlib.sha256(values[0] or b"").hexdigest() and said["sha256"].to_pylist()[6] is None
    )
    assert set(said["reason"].to_pylist()) - {None} <= set(REASONS)


def test_what_follows_finds_the_columns_of_a_picture_without_one() -> None:
    said = Say()(images([b"x"]))
    kept = [field for field in PICTURE if not field.name.startswith("picture")]
    assert {(field.name, field.type) for field in said.schema} == {
        (field.name, field.type) for field in (*kept, SAID[0], *FATE)
    }
    for name in ("width", "height", "exif_latitude", "exif_longitude", "exif_time"):
        assert said[name].null_count == 1


@given(
    st.lists(
        st.binary(max_size=8) | st.text(max_size=5).map(lambda text: text.encode("utf-8", "replace")), min_size=1, max_size=9
    )
)
def test_a_row_has_a_text_or_a_reason(values: list[bytes]) -> None:
    for value, row in zip(values, Say()(images(list(values))).to_pylist(), strict=True):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            assert (row["text"], row["reason"]) == (None, "not_a_text")
        else:
            assert (row["text"], row["reason"]) == ((text, None) if text.strip() else (None, "empty"))
