"""S2 cells in vectorised numpy: places to cell ids and back, and the tokens a model writes for them.

S2 projects the sphere on the six faces of a cube and runs a Hilbert curve over each face; a cell is a face
and the first `level` quarterings of its curve (S2Geometry, "S2 Cell Hierarchy"; the quadratic projection and
the curve's four orientations are those of its s2coords). A cell id holds, from the top, 3 bits of face, 2
bits a level, and a closing 1.

The curve is walked seven levels at a time: one table of 65,536 entries, indexed by (orientation, 7 bits of i,
7 bits of j), gives 14 bits of position and the next orientation, in 128 KiB that stay in the second cache.
Points go through in blocks of 8,192, so that every temporary stays there too. On one core
0.09 µs a point at level 20 (tokens 0.13), s2sphere 8.3 (10.0); four sines and cosines are nearly half of it.

Ids equal s2sphere's and those of the C++ library. A sine that differs in its last bit, as numpy's builds do, is less than a
nanometre on the ground: it could move one random point in some 10 million at level 30, in 10 billion at level 20.

Not covered: regions and their coverings, neighbours of a cell, the ellipsoid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geobatch.geo.point import Floats, lat_lon

Ids = NDArray[np.uint64]
#: A face and its position along the curve are at most 63 bits: signed, so that numpy mixes them with plain
#: integers.
Positions = NDArray[np.int64]

MAX_LEVEL = 30
BLOCK = 8192
_TOKEN = re.compile(r"[0-9a-fA-F]{1,16}")
_STEP = 7  # levels a table look-up descends
_MASK = (1 << _STEP) - 1

#: Rows of (x, y, z, -x, -y, -z) that are divided to give u and v on each face: (u's, v's, the divisor's).
_AXES = np.array([[1, 2, 0], [3, 2, 1], [3, 4, 2], [2, 1, 0], [2, 3, 1], [4, 3, 2]], np.intp)
#: The same backwards: components of (1, u, v, -1, -u, -v) that are x, y and z.
_XYZ = np.array([[0, 1, 2], [4, 0, 2], [4, 5, 0], [3, 5, 4], [2, 3, 4], [2, 1, 3]], np.intp)
#: Child position -> (i, j) bits for each orientation (bit 0: i and j swapped, bit 1: both inverted).
_POS_TO_IJ = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
_POS_TO_TURN = np.array([1, 0, 0, 3])


def cell_ids(latitude: ArrayLike, longitude: ArrayLike, level: int = MAX_LEVEL) -> Ids:
    """Ids of the cells of one level that hold the points; any shape, the same shape back.

    Raises:
        ValueError: a latitude beyond ±90, a longitude beyond ±180 or NaN, or a level outside 0 to 30.
    """
    _check_level(level)
    ids, shape = _face_positions(latitude, longitude, level)
    for block in _blocks(ids.size):
        ids[block] <<= 1
        ids[block] |= 1
        ids[block] <<= 60 - 2 * level
    return ids.view(np.uint64).reshape(shape)


def centres(ids: ArrayLike) -> tuple[Floats, Floats]:
    """Latitudes and longitudes in degrees of the centres of cells; levels may be mixed.

    Raises:
        ValueError: a number that is no cell id.
    """
    cells = np.asarray(ids, np.uint64)
    if not np.all(is_cell(cells)):
        raise ValueError("not all of these are S2 cell ids; make them with cell_ids or parse_cell_tokens")
    return _centres(cells)


def tokens(latitude: ArrayLike, longitude: ArrayLike, level: int = 20, group_size: int = 1) -> NDArray[np.int64]:
    """What GeoToken writes for points `(N,)`: `(N, T)` with T = 1 + ceil(level / group_size).

    Token 0 is the face (6 values), each further one the child positions of `group_size` levels (4 **
    group_size values, most significant level first); where level is no multiple of the group, the last token
    holds the rest. GeoToken (arXiv 2511.01082): level 20, one child a token in the paper, two in its code.

    Raises:
        ValueError: as `cell_ids`; or a group size below 1.
    """
    shifts, masks = _token_bits(level, group_size)
    face_position, _ = _face_positions(np.ravel(latitude), np.ravel(longitude), level)
    out = np.empty((face_position.size, len(shifts)), np.int64)
    for block in _blocks(len(out)):
        np.right_shift(face_position[block, None], shifts, out=out[block])
        out[block] &= masks
    return out


def places(tokens: ArrayLike, level: int = 20, group_size: int = 1) -> tuple[Floats, Floats]:
    """Latitudes and longitudes `(N,)` of the centres of cells named by tokens `(N, P)`; a prefix is a coarser
    cell.

    Raises:
        ValueError: a token out of range, or more tokens than the level has.
    """
    words = np.asarray(tokens)
    shifts, masks = _token_bits(level, group_size)
    if words.ndim != 2 or not 1 <= words.shape[1] <= len(shifts):
        raise ValueError(f"tokens of level {level} are (N, 1 to {len(shifts)}), not {words.shape}")
    length = words.shape[1]
    limits = masks[:length].copy()
    limits[0] = 5
    if np.any((words < 0) | (words > limits)):
        raise ValueError(f"a token outside the 6 faces or the {4**group_size} child positions")
    reached = min(level, group_size * (length - 1))
    face_position = np.bitwise_or.reduce(words.astype(np.int64) << shifts[:length], axis=1)
    cells = (face_position >> 2 * (level - reached) << 1 | 1) << 60 - 2 * reached
    return _centres(cells.view(np.uint64))


def levels(ids: ArrayLike) -> NDArray[np.int64]:
    """Levels 0 to 30 of cell ids."""
    cells = np.asarray(ids, np.uint64)
    lowest = _lowest_bit(cells)
    return (MAX_LEVEL - np.frexp(lowest.astype(np.float64))[1].astype(np.int64) // 2).astype(np.int64)


def is_cell(ids: ArrayLike) -> NDArray[np.bool_]:
    """Whether numbers are cell ids: a face below 6 and a closing 1 in an even place at or below bit 60."""
    cells = np.asarray(ids, np.uint64)
    lowest = _lowest_bit(cells)
    return ((cells >> np.uint64(61)) < 6) & ((lowest & np.uint64(0x1555555555555555)) != 0)


def cell_tokens(ids: ArrayLike) -> list[str]:
    """S2's short names: 16 hexadecimal digits without the trailing zeros."""
    raw = np.ravel(np.asarray(ids, np.uint64)).astype(">u8").tobytes().hex()
    return [raw[at : at + 16].rstrip("0") for at in range(0, len(raw), 16)]


def parse_cell_tokens(names: Sequence[str]) -> Ids:
    """Cell ids `(N,)` of S2's short names.

    Raises:
        ValueError: a name that is no cell, such as "", "X" or one of 17 digits.
    """
    ids = np.fromiter(_parsed(names), np.uint64, len(names))
    if not np.all(is_cell(ids)):
        worst = names[int(np.argmin(is_cell(ids)))]
        raise ValueError(f"{worst!r} is no S2 cell token; give hexadecimal digits such as 47e66fe1f37")
    return ids


def _lowest_bit(cells: Ids) -> Ids:
    # At least one axis: numpy warns of the overflow at 0 for scalars only.
    row = np.atleast_1d(cells)
    return (row & (~row + np.uint64(1))).reshape(cells.shape)


def _parsed(names: Iterable[str]) -> Iterable[int]:
    for name in names:  # zero stands for "no cell" and is refused by the caller
        yield int(name.ljust(16, "0"), 16) if _TOKEN.fullmatch(name) else 0


def _check_level(level: int) -> None:
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"S2 has levels 0 to {MAX_LEVEL}, not {level}")


def _token_bits(level: int, group_size: int) -> tuple[Positions, Positions]:
    """Shifts and masks `(T,)` that cut a face and its position of 2 · level bits into tokens."""
    _check_level(level)
    if group_size < 1:
        raise ValueError(f"a token holds at least one child position, not {group_size}")
    ends = [0, *range(group_size, level, group_size), *([level] if level else [])]
    sizes = [2, *np.diff(ends).tolist()]
    shifts = np.array([2 * (level - end) for end in ends], np.int64)
    return shifts, np.array([4**size - 1 for size in sizes], np.int64)


@cache
def _position_table() -> NDArray[np.uint16]:
    """(orientation, 7 bits of i, 7 bits of j) -> 14 bits of position, 2 of the next orientation."""
    index = np.arange(1 << (2 * _STEP + 2))
    turn, i, j = index >> (2 * _STEP), (index >> _STEP) & _MASK, index & _MASK
    ij_to_pos = np.argsort(_POS_TO_IJ, axis=1)
    position = np.zeros_like(index)
    for bit in range(_STEP - 1, -1, -1):
        child = ij_to_pos[turn, ((i >> bit) & 1) << 1 | (j >> bit) & 1]
        position = position << 2 | child
        turn = turn ^ _POS_TO_TURN[child]
    return (position << 2 | turn).astype(np.uint16)


@cache
def _ij_table() -> NDArray[np.uint16]:
    """(orientation, 14 bits of position) -> 7 bits of i, 7 of j, 2 of the next orientation."""
    index = np.arange(1 << (2 * _STEP + 2))
    turn = index >> (2 * _STEP)
    i, j = np.zeros_like(index), np.zeros_like(index)
    for bit in range(_STEP - 1, -1, -1):
        child = (index >> (2 * bit)) & 3
        ij = _POS_TO_IJ[turn, child]
        i, j = i << 1 | ij >> 1, j << 1 | ij & 1
        turn = turn ^ _POS_TO_TURN[child]
    return (i << (_STEP + 2) | j << 2 | turn).astype(np.uint16)


def _blocks(points: int) -> Iterator[slice]:
    for start in range(0, points, BLOCK):
        yield slice(start, start + BLOCK)


def _face_positions(latitude: ArrayLike, longitude: ArrayLike, level: int) -> tuple[Positions, tuple[int, ...]]:
    """face · 4**level + position along the face's curve, `(N,)`, and the shape the points came in."""
    phi, lam = np.broadcast_arrays(np.asarray(latitude, np.float64), np.asarray(longitude, np.float64))
    shape, phi, lam = phi.shape, phi.ravel(), lam.ravel()
    out = np.empty(phi.size, np.int64)
    for block in _blocks(phi.size):
        face, i, j = _face_ij(phi[block], lam[block])
        out[block] = _positions(face, i, j, level)
    return out, shape


def _face_ij(phi: Floats, lam: Floats) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """Face and the 30-bit coordinates of the leaf cell of points in degrees `(n,)`."""
    # NaN fails both comparisons, so it cannot pass as a place.
    if not (np.abs(phi).max() <= 90 and np.abs(lam).max() <= 180):
        raise ValueError("only ±90 degrees of latitude and ±180 of longitude have cells; filter with point.valid")
    phi, lam = phi * (np.pi / 180), lam * (np.pi / 180)
    axes = np.empty((6, phi.size))
    cos_phi = np.cos(phi)
    np.multiply(cos_phi, np.cos(lam), out=axes[0])
    np.multiply(cos_phi, np.sin(lam), out=axes[1])
    np.sin(phi, out=axes[2])
    np.negative(axes[:3], out=axes[3:])
    size = np.abs(axes[:3])
    z_last = np.maximum(size[0], size[1]) > size[2]
    # In bytes, and without np.where, which costs five times a comparison: 2 on the z faces, else 1 for y, 0
    # for x.
    face = (2 - z_last.view(np.int8) - (z_last & (size[0] > size[1])).view(np.int8)).astype(np.intp)
    at = np.arange(phi.size)
    flat = axes.reshape(-1)
    divisor = np.take(flat, face * phi.size + at)
    face += 3 * (divisor < 0)
    rows = _AXES * phi.size
    u = np.take(flat, np.take(rows[:, 0], face) + at) / divisor
    v = np.take(flat, np.take(rows[:, 1], face) + at) / divisor
    return face, _leaf(u), _leaf(v)


def _leaf(u: Floats) -> NDArray[np.int32]:
    """Quadratic projection of u in [-1, 1] to one of 2**30 leaf cells."""
    s = np.sqrt(1 + 3 * np.abs(u))
    s *= 0.5
    s = np.abs((u < 0) - s)  # 1 - s where u is negative
    s *= 1 << MAX_LEVEL
    return np.minimum(s.astype(np.int32), (1 << MAX_LEVEL) - 1)


def _positions(face: NDArray[np.intp], i: NDArray[np.int32], j: NDArray[np.int32], level: int) -> Positions:
    """face · 4**level + position of cells whose leaf coordinates are given, `(n,)`."""
    table = _position_table()
    i, j = i >> (MAX_LEVEL - level), j >> (MAX_LEVEL - level)
    first = level % _STEP or _STEP
    # A first look-up of fewer levels begins with zero bits: no position, but each swaps i and j.
    turn = (face & 1) ^ ((_STEP - first) & 1)
    position = face
    for shift, taken in zip(range(level - first, -1, -_STEP), [first, *[_STEP] * 4], strict=False):
        found = np.take(table, turn << (2 * _STEP) | ((i >> shift) & _MASK) << _STEP | (j >> shift) & _MASK)
        position = position << (2 * taken) | found >> 2
        turn = found.astype(np.int32) & 3
    return position


def _centres(cells: Ids) -> tuple[Floats, Floats]:
    shape, flat = cells.shape, cells.ravel()
    xyz = np.empty((flat.size, 3))
    for block in _blocks(flat.size):
        xyz[block] = _centre_vectors(flat[block])
    latitude, longitude = lat_lon(xyz)
    return latitude.reshape(shape), longitude.reshape(shape)


def _centre_vectors(cells: Ids) -> Floats:
    """Vectors `(n, 3)`, not of unit length, through the centres of cells `(n,)`."""
    face = (cells >> np.uint64(61)).astype(np.intp)
    # Without its closing 1 an id names the curve's first leaf in the cell: 30 levels in five look-ups.
    position = ((cells & (cells - np.uint64(1))) & np.uint64((1 << 61) - 1)).astype(np.int64) >> 1
    turn, i, j = (face & 1) ^ 1, np.zeros_like(face), np.zeros_like(face)
    for shift in range(8 * _STEP, -1, -2 * _STEP):
        found = np.take(_ij_table(), turn << (2 * _STEP) | (position >> shift) & ((1 << (2 * _STEP)) - 1)).astype(np.intp)
        i, j = i << _STEP | found >> (_STEP + 2), j << _STEP | (found >> 2) & _MASK
        turn = found & 3
    # In units of half a leaf cell the centre lies half a cell above the cell's lower corner.
    width = np.int64(1) << (MAX_LEVEL - levels(cells))
    parts = np.empty((6, cells.size))
    parts[0] = 1
    for row, leaf in ((1, i), (2, j)):
        s = (2 * (leaf & -width) + width) / (2 << MAX_LEVEL)
        parts[row] = np.where(s >= 0.5, (4 * s * s - 1) / 3, (1 - 4 * (1 - s) * (1 - s)) / 3)
    np.negative(parts[:3], out=parts[3:])
    return parts[_XYZ[face].T, np.arange(cells.size)].T
