"""Columns read in a stream are those read row by row, whatever the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from geobatch.benchmark import columns
from geobatch.benchmark.columns import Columns, from_csv, from_parquet, streamed
from geobatch.errors import UserError

CELLS = st.sampled_from(
    ["", "1", "-2.5", " 3 ", "nan", "NaN", "Null", "nUlL", "None", "1e3", "1_0", "inf", "+4", "0x1", "a", "ä/b.jpg", "x,y",
     'a "quoted" word', '"', "line\nbreak", " ", "\t", "12345678901234567890", "0.1", "48.858370000000004", ".5", "5.", "-0"]
)  # fmt: skip


def told(read: object) -> object:
    """What a reader gave, or its complaint, as something that can be compared."""
    try:
        found = read()  # type: ignore[operator]
    except UserError as error:
        return str(error)
    if found is None:
        return None
    assert isinstance(found, Columns)
    return found.image_id.to_pylist(), found.latitude.tobytes(), found.longitude.tobytes()


def written(rows: list[list[str]], delimiter: str, end: str, quoted: bool) -> str:
    def cell(text: str) -> str:
        if quoted or any(each in text for each in (delimiter, '"', "\n", "\r")):
            return '"' + text.replace('"', '""') + '"'
        return text

    return "".join(delimiter.join(map(cell, row)) + end for row in rows)


NAMES = st.sampled_from(["", "a", "39/19/3.jpg", "x,y", 'a "b"', "line\nbreak", "ä", " ", "7"])
NUMBERS = st.sampled_from(["1", "-2.5", " 3 ", "", "nan", "1e3", "+4", "0.1", "48.858370000000004", ".5", "inf"])
REGULAR = st.tuples(NUMBERS, NUMBERS, NAMES, NUMBERS).map(list)


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(REGULAR, max_size=8) | st.lists(REGULAR | st.lists(CELLS, min_size=3, max_size=5), max_size=8),
    header=st.sampled_from(
        [["id", "lat", "lon", "city"], ["IMG_ID", "LAT", "LON", "lat"], ["x", "longitude", "file name", "lat"]]
    ),
    delimiter=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoted=st.booleans(),
    bom=st.booleans(),
    block=st.sampled_from([40, 8 << 20]),
)
def test_a_stream_gives_what_rows_give(
    rows: list[list[str]], header: list[str], delimiter: str, end: str, quoted: bool, bom: bool, block: int
) -> None:
    text = delimiter.join(header) + end + written(rows, delimiter, end, quoted)
    data = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BLOCK", block)
        patch.setattr(columns, "_HEAD", 64)
        fast = told(lambda: streamed(io.BytesIO(data), "t"))
    event("streamed" if fast is not None else "row by row")
    assert fast in (None, told(lambda: from_csv(data, "t")))


@settings(max_examples=300, deadline=None)
@given(st.text('ab1.,;"\n\r\t ä', max_size=60))
@example('a"b,1,2\n')
@example('"a",1,2\n"b\n')
@example("a,1,2\n,,\n")
def test_so_it_does_for_any_text(text: str) -> None:
    data = f"id,lat,lon\n{text}".encode()
    fast = told(lambda: streamed(io.BytesIO(data), "t"))
    event("streamed" if fast is not None else "row by row")
    assert fast in (None, told(lambda: from_csv(data, "t")))


def test_published_files_are_streamed(realdata: Path) -> None:
    for name in ("demo__data__scene_M_p_im2gps.csv",):
        data = (realdata / "benchmarks/GeoEstimation" / name).read_bytes()
        fast = told(lambda data=data: streamed(io.BytesIO(data), "t"))
        assert fast is not None and fast == told(lambda data=data: from_csv(data, "t"))


@pytest.mark.parametrize("ids", [pa.array([7, 8]), pa.array(["7", "8"]), pa.array(["7", "8"]).dictionary_encode()])
@pytest.mark.parametrize("degrees", [pa.array([1.5, None]), pa.array(["1.5", ""]), pa.array([1.5, float("nan")], pa.float32())])
def test_parquet_of_any_types(ids: pa.Array, degrees: pa.Array) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"junk": [b"", b""], "id": ids, "Latitude": degrees, "LON": degrees}), file)
    found = from_parquet(file, "t")
    assert found.image_id.to_pylist() == ["7", "8"]
    np.testing.assert_array_equal(found.latitude, [1.5, np.nan])
    np.testing.assert_array_equal(found.longitude, [1.5, np.nan])


def test_a_damaged_parquet_file_is_said() -> None:
    with pytest.raises(UserError, match="t is a damaged Parquet file"):
        from_parquet(io.BytesIO(b"PAR1 and nothing more"), "t")
