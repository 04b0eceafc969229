"""List columns of Arrow tables as rectangular arrays, and back. A list that is shorter than the longest is filled up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def column(table: pa.Table, name: str, field: str | None = None) -> pa.Array:
    """A list column as one array; with `field`, the lists of that field of its structs."""
    lists = table[name].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
    if field is None:
        return lists
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.struct_field(lists.flatten(), field))


def padded(lists: pa.Array, fill: float) -> npt.NDArray[np.float64]:
    """Lists of numbers -> (N, longest), `fill` beyond each list's end and for nulls."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    out = np.full((len(lists), int(lengths.max(initial=0))), fill)
    values = pc.fill_null(pc.cast(lists.flatten(), pa.float64()), fill)
    out[np.arange(out.shape[1]) < lengths[:, None]] = values.to_numpy(zero_copy_only=False)
    return out


def vectors(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    """Lists of equal length -> (N, length).

    Raises:
        ValueError: lists of several lengths.
    """
    lists = column(table, name)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    if len(values) % max(len(lists), 1) or pc.count_distinct(pc.list_value_length(lists), mode="all").as_py() > 1:
        raise ValueError(f"the vectors of column {name!r} have several lengths")
    return np.asarray(values, np.float32).reshape(len(lists), -1)
