"""Texts of every form: each comes out once, in order, under its own name, whatever the slices and whatever is broken."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geobatch.archive import scan
from geobatch.archive.config import ArchiveConfig
from geobatch.archive.fields import fields
from geobatch.archive.shard import read_shard
from geobatch.archive.texts import NOTHING, Entry, entries, holds_texts
from geobatch.errors import REASONS, UserError
from geobatch.store import Denied, Store, StoreConfig
from tests.archive.reading import fates, put, rows, shards, slices
from tests.archives import make
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

STORE = Store()
whole = Store.seekable
Pairs = list[tuple[str, str]]


def as_csv(pairs: Pairs, delimiter: str = ",") -> bytes:
    """Names and texts behind a column nobody asked for."""
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter=delimiter)
    table.writerows([("extra", "Image ID", "Caption"), *(("x,;\t", *pair) for pair in pairs)])
    return file.getvalue().encode()


def as_lines(pairs: Pairs) -> bytes:
    """An object a line, with blank lines between."""
    return b"\n\n".join(json.dumps({"text": text, "id": name}).encode() for name, text in pairs) + b"\n"


def as_list(pairs: Pairs) -> bytes:
    """As GeoText-1652's train split."""
    rows = [{"image_id": name, "image": f"train/{name}", "caption": text, "bboxes": [[0.5, None]]} for name, text in pairs]
    return json.dumps(rows, ensure_ascii=len(pairs) % 2 == 0, indent=len(pairs) % 3).encode()


def as_mapping(pairs: Pairs) -> bytes:
    """As CVG-Text; a name given twice stands there twice, as JSON allows."""
    return ("{" + ", ".join(f"{json.dumps(name)}: {json.dumps(text)}" for name, text in pairs) + "}").encode()


def as_parquet(pairs: Pairs, kind: pa.DataType | None = None, row_group: int = 3) -> bytes:
    """Names and texts in small row groups."""
    file = io.BytesIO()
    names, texts = ([each[at] for each in pairs] for at in (0, 1))
    table = pa.table({"image": pa.array([b"\xff"] * len(pairs)), "name": names, "text": pa.array(texts, kind or pa.string())})
    pq.write_table(table, file, row_group_size=row_group)
    return file.getvalue()


FORMS: dict[str, Callable[[Pairs], bytes]] = {
    "x.csv": as_csv,
    "x.tsv": lambda pairs: as_csv(pairs, "\t"),
    "semicolon.csv": lambda pairs: as_csv(pairs, ";"),
    "x.jsonl": as_lines,
    "lines.json": as_lines,
    "list.json": as_list,
    "mapping.json": as_mapping,
    "x.parquet": as_parquet,
    "x.csv.gz": lambda pairs: gzip.compress(as_csv(pairs), mtime=0),
    "list.json.gz": lambda pairs: gzip.compress(as_list(pairs), mtime=0),
}

#: What the csv module writes and reads back as it is, and no name is made longer or shorter of.
plain = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=12)
named = plain.filter(lambda name: name.strip() == name)


def expected(uri: str, pairs: Pairs) -> list[tuple[str, bytes]]:
    """By a dictionary of counts what the ids must be."""
    met: dict[str, int] = {}
    found = []
    for name, text in pairs:
        met[name] = met.get(name, 0) + 1
        escaped = name.replace("%", "%25").replace("#", "%23")
        for mark, escape in (("~", "%7E"), ("@", "%40")):
            head, sign, digits = escaped.rpartition(mark)
            if sign and digits and all(each.isdecimal() for each in digits):
                escaped = f"{head}{escape}{digits}"
        head, _, digits = escaped.partition("=")
        if head == "row" and digits and all(each.isdecimal() for each in digits):
            escaped = f"row%3D{digits}"
        found.append((f"{uri}#{escaped}" + (f"~{met[name]}" if met[name] > 1 else ""), text.encode()))
    return found


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(named | st.sampled_from(["a", "a~2", "a@2", "row=1", "0839/i.jpg", "a#b%"]), plain), min_size=1, max_size=12
    ),
    rows_a_slice=st.integers(1, 13),
    chunk=st.sampled_from([1, 3, 64, 1 << 20]),
)
def test_every_text_once_in_order_by_its_name(tmp_path: Path, name: str, pairs: Pairs, rows_a_slice: int, chunk: int) -> None:
    uri = put(tmp_path, name, FORMS[name](pairs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_CHUNK", chunk)
        found = rows(STORE, ArchiveConfig(uri=uri, texts="auto", shard_rows=rows_a_slice))
    assert [(key, row["bytes"]) for key, row in found.items()] == expected(uri, pairs)
    assert {(row["uri"], row["size"] == len(row["bytes"])) for row in found.values()} == {(uri, True)}
    told = list(entries(STORE, uri))
    blank = [not text.strip() for _, text in pairs]
    assert [(each.name, each.text, each.row) for each in told] == [
        (name, "" if empty else text, at) for at, ((name, text), empty) in enumerate(zip(pairs, blank, strict=True))
    ]
    assert [each.fate is not None for each in told] == blank


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(FORMS)), config=st.sampled_from(["auto", "text", "caption"]))
def test_broken_bytes_are_rejections_and_nothing_else(tmp_path: Path, data: st.DataObject, name: str, config: str) -> None:
    whole = bytearray(FORMS[name]([(f"n{at}", f'te"xt, {at}') for at in range(9)]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    uri = put(tmp_path, name, bytes(whole))
    try:
        found = rows(STORE, ArchiveConfig(uri=uri, texts=config, shard_rows=4))
    except UserError as error:  # a header that names no such column any more is the user's
        assert "no column" in str(error) and "\n" not in str(error)
        return
    for row in found.values():
        assert row["reason"] is None or (row["reason"] in REASONS and "\n" not in row["detail"])
    list(entries(STORE, uri, config))


@given(st.binary(max_size=60), st.sampled_from(["x.csv", "x.jsonl", "x.json", "x.parquet", "x.json.gz"]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_raise(tmp_path: Path, data: bytes, name: str) -> None:
    try:
        rows(STORE, ArchiveConfig(uri=put(tmp_path, name, data), texts="auto"))
    except UserError as error:
        assert "no column" in str(error)


def test_several_texts_of_a_row(tmp_path: Path) -> None:
    pairs = [{"image_id": "0839/image-43.jpeg", "caption": ["one", None, "two"]}, {"image_id": "a", "caption": ["only"]}]
    rest = [{"image_id": "a", "caption": ["x", "y"]}, {"image_id": "b", "caption": []}, {"caption": ["p", "q"]}]
    uri = put(tmp_path, "test.json", json.dumps(pairs + rest).encode())
    for size in (1, 2, 5, 256):
        found = rows(STORE, ArchiveConfig(uri=uri, texts="caption", shard_rows=size))
        assert {key.partition("#")[2]: row["bytes"] or row["reason"] for key, row in found.items()} == {
            "0839/image-43.jpeg@1": b"one",
            "0839/image-43.jpeg@2": "empty",
            "0839/image-43.jpeg@3": b"two",
            "a": b"only",
            "a~2@1": b"x",
            "a~2@2": b"y",
            "b": "empty",
            "row=4@1": b"p",
            "row=4@2": b"q",
        }
    assert [(each.row, each.text) for each in entries(STORE, uri)][:4] == [(0, "one"), (0, ""), (0, "two"), (1, "only")]


def test_lists_and_bytes_in_parquet(tmp_path: Path) -> None:
    for kind, texts in (
        (pa.list_(pa.string()), [["a", "b"], ["c"], None]),
        (pa.large_list(pa.large_string()), [["a", "b"], ["c"], None]),
        (pa.list_(pa.binary()), [[b"a", b"b"], [b"c"], None]),
        (pa.list_(pa.string_view()), [["a", "b"], ["c"], None]),
        (pa.large_list(pa.binary_view()), [[b"a", b"b"], [b"c"], None]),
    ):
        file = io.BytesIO()
        pq.write_table(pa.table({"id": pa.array([7, 8, None]), "text": pa.array(texts, kind)}), file)
        uri = put(tmp_path, "x.parquet", file.getvalue())
        assert fates(rows(STORE, ArchiveConfig(uri=uri, texts="auto"))) == {
            "7@1": None,
            "7@2": None,
            "8": None,
            "row=2": "empty",
        }
    texts = ["same", "same", "other"]
    binary = pa.array(texts, pa.binary())
    for column in (
        pa.array(texts).dictionary_encode(),
        binary.dictionary_encode(),
        pa.array(texts, pa.string_view()),
        pa.array(texts, pa.binary_view()),
    ):
        file = io.BytesIO()
        pq.write_table(pa.table({"text": column, "id": binary.cast(pa.binary_view())}), file)
        found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "y.parquet", file.getvalue()), texts="auto"))
        assert [row["bytes"] for row in found.values()] == [b"same", b"same", b"other"]
        assert [*fates(found)] == ["row=0", "row=1", "row=2"], "bytes are no names"


def test_each_broken_row_costs_itself_alone(tmp_path: Path) -> None:
    lines = [
        b"name,text",
        b"a,one",
        b"b,two,too many",
        b"c",
        b'd,"quoted" badly',
        b"\xff,\xfe",
        b"",
        b"e,",
        b"f,last",
        b'g,"open',
    ]
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.csv", b"\r\n".join(lines)), texts="auto"))
    assert fates(found) == {
        "a": None, "row=1": "not_a_text", "row=2": "not_a_text", "row=3": "not_a_text", "\\xff": None, "e": "empty", "f": None,
        "row=7": "not_a_text",
    }  # fmt: skip
    assert [row["bytes"] for row in found.values() if row["bytes"]] == [b"one", b"\xfe", b"last"]
    lines = [
        b'{"text": "one"}',
        b"nonsense",
        b"[1]",
        b'"a text"',
        b'{"other": 1}',
        b'{"text": 5}',
        b"7",
        b"{" * 5000,
        b'{"text": "z"}',
    ]
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.jsonl", b"\n".join(lines)), texts="text"))
    assert [row["bytes"] or row["reason"] for row in found.values()] == [
        b"one", "not_a_text", "not_a_text", b"a text", "not_a_text", "not_a_text", "not_a_text", "not_a_text", b"z",
    ]  # fmt: skip
    mapping = b'{"a": "x", "b": 5, "c": null, "d": {"caption": "deep"}, "e": ["1", 2], "f": "\\ud800", "g": "\xff"}'
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.json", mapping), texts="auto"))
    assert {key.partition("#")[2]: row["bytes"] or row["reason"] for key, row in found.items()} == {
        "a": b"x", "b": "not_a_text", "c": "empty", "d": b"deep", "e@1": b"1", "e@2": "not_a_text", "f": b"\xed\xa0\x80",
        "g": b"\xff",
    }  # fmt: skip


def test_every_line_that_an_open_quote_swallows_is_a_rejection(tmp_path: Path) -> None:
    at_the_end = b'name,text\na,"open quote\nb,two\nc,three\nd,four'
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.csv", at_the_end), texts="auto"))
    assert fates(found) == {f"row={row}": "not_a_text" for row in range(4)}
    assert {"lines 2 to 5, from a quote" in row["detail"] for row in found.values()} == {True}
    swallowed = b"".join(b"n%d,%s\n" % (row, b"x" * 1000) for row in range(200))
    found = rows(
        STORE, ArchiveConfig(uri=put(tmp_path, "y.csv", b'name,text\na,"one\n,"\nb,"open\n' + swallowed), texts="auto")
    )
    lost, kept = ([row for row in found.values() if (row["bytes"] is None) is none] for none in (True, False))
    assert kept[0]["bytes"] == b"one\n," and len(kept) + len(lost) == 202 and 100 < len(lost) < 140
    assert [row["image_id"].rpartition("#")[2] for row in kept[1:]] == [f"n{row}" for row in range(len(lost) - 1, 200)]


@pytest.mark.parametrize(
    ("data", "before"),
    [
        (b'[{"text": "a"}, {"text": "b"}, {"text": ', 2),
        (b'[{"text": "a"} {"text": "b"}]', 1),
        (b'[{"text": "a"}] x', 1),
        (b'{"a": "x", "b" "y"}', 1),
        (b'{"a": "x", 5: "y"}', 1),
        (b'{"a": "x"', 1),
        (b"nonsense", 0),
    ],
)
def test_json_that_breaks_off_keeps_what_was_before(tmp_path: Path, data: bytes, before: int) -> None:
    found = list(rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.json", data), texts="auto")).values())
    assert [row["reason"] for row in found] == [None] * before + ["broken_archive"]
    assert found[-1]["image_id"].endswith("/x.json")


def test_a_damaged_gzip_stream_keeps_what_was_before(tmp_path: Path) -> None:
    packed = gzip.compress(b"\n".join(b'{"id": %d, "text": "%d"}' % (n, n * n) for n in range(60_000)), mtime=0)
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.jsonl.gz", packed[: len(packed) // 2]), texts="auto"))
    reasons = [row["reason"] for row in found.values()]
    assert reasons[-1] == "broken_archive" and set(reasons[:-1]) == {None}
    assert 20_000 < len(reasons) < 40_000 and list(found)[-2].endswith(f"#{len(reasons) - 2}")


def test_a_parquet_page_that_is_damaged_costs_its_row_group(tmp_path: Path) -> None:
    data = as_parquet([(f"n{at}", f"{at} " * 50) for at in range(12)], row_group=4)
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(2)
    start = column.dictionary_page_offset or column.data_page_offset
    found = rows(STORE, ArchiveConfig(uri=put(tmp_path, "x.parquet", make.damaged(data, start, 20)), texts="auto"))
    names = [key.partition("#")[2] for key in found]
    assert names == ["n0", "n1", "n2", "n3", "row=4", "row=5", "row=6", "row=7", "n8", "n9", "n10", "n11"]
    assert [row["reason"] for row in found.values()] == [None] * 4 + ["broken_archive"] * 4 + [None] * 4


def test_a_line_or_value_longer_than_may_be_ends_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LONGEST", 5000)
    monkeypatch.setattr(scan, "_CHUNK", 1000)
    for name, data in (
        ("x.jsonl", b'{"text": "a"}\n' + b"x" * 50_000),
        ("x.json", b'[{"text": "a"}, "' + b"x" * 50_000),
        ("x.csv", b"text,lat\na,1\n" + b"x" * 50_000),
    ):
        found = rows(STORE, ArchiveConfig(uri=put(tmp_path, name, data), texts="auto"))
        assert [row["bytes"] or row["reason"] for row in found.values()] == [b"a", "broken_archive"]


@pytest.mark.parametrize("name", ["x.csv", "list.json.gz"])
def test_a_long_file_is_never_in_memory_whole(tmp_path: Path, name: str) -> None:
    pairs = [(f"{at:05}.png", f"{at} " * 200) for at in range(20_000)]
    uri = put(tmp_path, name, FORMS[name](pairs))
    weight = sum(len(text) for _, text in pairs)
    del pairs
    tracemalloc.start()
    try:
        [shard] = shards(STORE, config := ArchiveConfig(uri=uri, texts="auto"))
        told = sum(len(piece.table) for piece in read_shard(STORE, shard, config))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told == 20_000 and weight > 20 << 20 and peak < weight / 2


def test_long_texts_are_rejected_and_weigh_nothing(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.csv", as_csv([("a", "x" * 101), ("b", "y" * 100), ("c", "z")]))
    found = rows(STORE, ArchiveConfig(uri=uri, texts="auto", max_bytes=100, shard_bytes=101))
    assert fates(found) == {"a": "too_large", "b": None, "c": None}


def test_blank_header_cells_spaces_and_a_byte_order_mark(tmp_path: Path) -> None:
    uri = put(tmp_path, "x.tsv", b"\xef\xbb\xbf\n\n\tText \tLat\tLon\n0\thello\t1.5\t-2\n1\t\xc3\xa4\t91\t0\n2\tx\tnan\t0\n")
    assert [(each.text, each.latitude, each.longitude) for each in entries(STORE, uri)] == [
        ("hello", 1.5, -2.0), ("ä", None, None), ("x", None, None),
    ]  # fmt: skip
    found = list(entries(STORE, put(tmp_path, "y.csv", b"building,text\n7,a\n,b\n")))
    assert found == [Entry(None, "a", 0, group="7"), Entry(None, "b", 1)]


@pytest.mark.parametrize("done", [{0: 5}, {1: 10}, {0: 5, 2: 15}, {0: 5, 1: 10, 2: 15, 3: 20, 4: NOTHING}, {0: 5, 4: NOTHING}])
@pytest.mark.parametrize("name", ["x.csv", "list.json.gz", "x.parquet"])
def test_a_resumed_reader_gives_the_slices_that_are_missing(tmp_path: Path, name: str, done: dict[int, int]) -> None:
    pairs = [(f"n{at % 9}", f"text {at}") for at in range(23)]
    config = ArchiveConfig(uri=put(tmp_path, name, FORMS[name](pairs)), texts="auto", shard_rows=5)
    [shard] = shards(STORE, config)
    whole = slices(STORE, shard, config)
    assert [piece.end for piece in whole] == [5, 10, 15, 20, NOTHING]
    rest = slices(STORE, shard, config, done)
    assert [piece.number for piece in rest] == [number for number in range(5) if number not in done]
    for piece in rest:
        assert piece.table.equals(whole[piece.number].table) and piece[:3] == whole[piece.number][:3]


def test_a_file_replaced_or_deleted_meanwhile_is_a_row(tmp_path: Path) -> None:
    config = ArchiveConfig(uri=put(tmp_path, "x.csv", as_csv([("a", "b")])), texts="auto")
    [shard] = shards(STORE, config)
    put(tmp_path, "x.csv", as_csv([("a", "longer")]))
    assert [piece.table["reason"].to_pylist() for piece in slices(STORE, shard, config)] == [["changed"]]
    (tmp_path / "x.csv").unlink()
    assert [piece.table["reason"].to_pylist() for piece in slices(STORE, shard, config)] == [["missing"]]


@pytest.mark.parametrize(
    ("done", "numbers", "held"),
    [
        ({0: 5, 1: 10}, [2], 2),
        ({0: 5, 2: 15}, [1, 3], 1),
        ({0: 5, 2: NOTHING}, [1], 1),
        ({0: 5, 1: NOTHING}, [], None),
    ],
)
@pytest.mark.parametrize("reason", ["changed", "missing", "unreadable"])
def test_a_file_that_cannot_be_read_again_says_so_behind_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, done: dict[int, int], numbers: list[int], held: int | None
) -> None:
    pairs = [(f"n{at}", f"text {at}") for at in range(20)]
    config = ArchiveConfig(uri=put(tmp_path, "x.csv", as_csv(pairs)), texts="auto", shard_rows=5)
    [shard] = shards(STORE, config)
    if reason == "changed":
        put(tmp_path, "x.csv", as_csv(pairs + pairs))
    elif reason == "missing":
        (tmp_path / "x.csv").unlink()
    else:

        def refused(*_: Any, **__: Any) -> None:
            raise Denied("access denied")

        monkeypatch.setattr(Store, "stream", refused)  # the tests may run as root, who is denied nothing
    rest = slices(STORE, shard, config, done)
    assert [piece.number for piece in rest] == numbers
    assert [(piece.number, each) for piece in rest for each in piece.table["reason"].to_pylist()] == (
        [] if held is None else [(held, reason)]
    )


def test_a_file_known_to_break_off_is_read_again_to_the_same_end(tmp_path: Path) -> None:
    data = as_list([(f"n{at}", f"text {at}") for at in range(8)])[:-20]  # breaks off in the second slice
    config = ArchiveConfig(uri=put(tmp_path, "x.json", data), texts="auto", shard_rows=5)
    [shard] = shards(STORE, config)
    whole = slices(STORE, shard, config)
    assert [piece.end for piece in whole] == [5, NOTHING] and whole[1].table["reason"].to_pylist()[-1] == "broken_archive"
    [first] = slices(STORE, shard, config, {1: NOTHING})
    assert first[:3] == whole[0][:3] and first.table.equals(whole[0].table)
    [second] = slices(STORE, shard, config, {0: 5})
    assert second.table.equals(whole[1].table)


def test_files_below_a_prefix_and_what_lies_beside_them(tmp_path: Path) -> None:
    for name, make_form in FORMS.items():
        put(tmp_path, f"a/{name}", make_form([("n", name)]))
    put(tmp_path, "a/truth.csv", b"image_id,latitude,longitude\nn,1,2\n")
    put(tmp_path, "a/picture.jpg", make.picture(1))
    put(tmp_path, "a/notes.txt", b"x")
    config = ArchiveConfig(uri=str(tmp_path / "a"), texts="auto")
    found = rows(STORE, config)
    assert {(key.rpartition("/")[2], row["bytes"]) for key, row in found.items()} == {
        (f"{name}#n", name.encode()) for name in FORMS
    }
    assert [shard["kind"].to_pylist() for shard in shards(STORE, config)] == [["text"]] * len(FORMS)
    config = ArchiveConfig(uri=str(tmp_path / "a"), texts="auto", include=("*.json", "*.txt"), exclude=("list*",))
    assert [key.rpartition("/")[2] for key in rows(STORE, config)] == ["lines.json#n", "mapping.json#n", "notes.txt"]
    assert len(list(entries(STORE, str(tmp_path / "a")))) == len(FORMS)


@pytest.mark.parametrize(
    ("name", "data", "column", "said"),
    [
        ("x.csv", b"a,b\n1,2\n", "auto", "has no column of texts"),
        ("x.csv", b"uri\nx.jpg\n", "auto", "only uri"),
        ("x.csv", b"text,b\n1,2\n", "words", "has no column 'words', only text, b;"),
        ("x.jsonl", b'{"text": 1}', "words", "only text;"),
        ("x.json", b'[{"text": 1}]', "words", "only text;"),
        ("x.parquet", as_parquet([("a", "b")]), "words", "only image, name, text;"),
        ("x.txt", b"", "auto", "is neither a folder nor a CSV"),
    ],
)
def test_a_file_without_such_a_column_is_refused_in_one_line(
    tmp_path: Path, name: str, data: bytes, column: str, said: str
) -> None:
    uri = put(tmp_path, name, data)
    with pytest.raises(UserError) as error:
        shards(STORE, ArchiveConfig(uri=uri, texts=column))
    assert said in str(error.value) and "\n" not in str(error.value)
    if name != "x.txt":
        with pytest.raises(UserError, match="no column"):
            next(entries(STORE, uri, column))
    put(tmp_path / "b", "y.jpg", b"x")
    with pytest.raises(UserError, match="none of the 1 objects"):
        shards(STORE, ArchiveConfig(uri=str(tmp_path / "b"), texts="auto"))
    with pytest.raises(UserError, match="no file of texts lies"):
        next(entries(STORE, str(tmp_path / "b")))


@pytest.mark.parametrize(
    ("files", "texts"),
    [
        ({"x.csv": b"text\na\n"}, True),
        ({"x.csv": b"image_id,caption\na,b\n"}, True),
        ({"x.csv": b"uri,text\na.jpg,b\n"}, False),
        ({"x.csv": b"uri\na.jpg\n"}, False),
        ({"x.json": b'{"40,7_x.png": "text"}'}, True),
        ({"x.parquet": as_parquet([("a", "b")])}, False),
        ({"x.parquet": make.parquet([make.picture(1)])}, False),
        ({"a.jpg": b"x", "x.csv": b"text\na\n"}, False),
        ({"a.tar": b"x", "x.csv": b"text\na\n"}, False),
        ({"truth.csv": b"image_id,latitude,longitude\na,1,2\n", "x.jsonl": b'{"text": "a"}'}, True),
        ({"x.parquet": b"nonsense"}, False),
        ({}, False),
    ],
)
def test_an_archive_of_texts_is_known_by_its_files(tmp_path: Path, files: dict[str, bytes], texts: bool) -> None:
    uris = [put(tmp_path / "a", name, data) for name, data in files.items()]
    assert holds_texts(STORE, str(tmp_path / "a")) is texts
    if len(uris) == 1:
        assert holds_texts(STORE, uris[0]) is texts


def test_what_an_archive_is_of_is_asked_of_ten_files_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        put(tmp_path, f"{number:02}.parquet", make.parquet([make.picture(1)]))
    opened: list[str] = []
    monkeypatch.setattr(Store, "seekable", lambda self, uri, size, **more: opened.append(uri) or whole(self, uri, size, **more))
    assert not holds_texts(STORE, str(tmp_path)) and 1 <= len(set(opened)) <= 10


def test_texts_beside_an_archive_of_something_else_may_be_excluded(tmp_path: Path) -> None:
    put(tmp_path, "annotations/a.json", as_list([("a", "b")]))
    assert holds_texts(STORE, str(tmp_path)) and not holds_texts(STORE, str(tmp_path), ("annotations/*",))
    assert not holds_texts(STORE, f"{tmp_path}/", ("*.json",)) and holds_texts(STORE, str(tmp_path), ("b/*",))


def test_titles_are_found_in_any_spelling() -> None:
    assert fields(["File Name", "LAT", "lon", "Query", "text"], "auto") == ("text", "File Name", "LAT", "lon", None)
    assert fields(["id", "name", "Some Words"], "some_words") == ("Some Words", "id", None, None, None)
    assert fields(["name", "caption"], "name") == ("name", None, None, None, None)
    assert fields(["a", "b"], "auto") is None and fields([], "auto") is None


def test_texts_in_a_bucket_through_faults(s3: S3Server, proxy: FaultyProxy) -> None:
    uri = f"s3://{s3.bucket()}/texts/x.json"
    pairs = [(f"{at:04}/image.jpeg", f"{at} " * 200) for at in range(6000)]
    Store(s3.config()).put(uri, as_list(pairs))
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", backoff=0.01))
    config = ArchiveConfig(uri=uri.rpartition("/")[0], texts="auto")
    [shard] = shards(store, config)
    proxy.faults.extend(["reset", "cut", "503"])
    pieces = slices(store, shard, config)
    found: list[Any] = [row for piece in pieces for row in piece.table.to_pylist()]
    assert [(row["image_id"], row["bytes"]) for row in found] == expected(uri, pairs)
    assert [len(piece.table) for piece in pieces] == [256] * 23 + [112] and {row["etag"] for row in found} == {
        shard["etag"][0].as_py()
    }
