"""What cheaper weights, shorter vectors and coded galleries cost in retrieval and gain in speed, in one table.

Four ways, each alone against float32: bfloat16 arithmetic; 8-bit weights (`quantise`); the first numbers of each vector (good
only where a nested loss trained for it, `Tuning.nested`); product quantisation, 4 bits for every 4 numbers, both by its codes
alone and ranked again by the stored vectors, which is what a gallery of kind pq does.

The three networks embed the same pieces in turn, so that whatever else the machine does falls on all alike. Galleries are
searched with every cell of the index open: what is seen is the price of the codes, not of the cells. Codes gain no speed at a
few thousand tiles; at a million they do (`geobatch.engine.gallery`).

Not covered: 4-bit weights, vLLM's own quantisation, several of these at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt

from geobatch.engine.gallery.index import cells, fill, trained
from geobatch.engine.gallery.stored import Stored
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.embedders import Direct
from geobatch.methods.ngcg.quantise import held_bytes
from geobatch.methods.ngcg.serve import Embedder, Model, Serving, open_embedder

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Picture = npt.NDArray[np.uint8]

#: Texts and tiles that one network embeds before it is the next one's turn.
_TEXTS, _TILES = 256, 64

#: Tiles below which there are no rows of codes: FAISS wants 39 for each of the 16 centres of a code.
TRAINS = 624

_NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Row:
    """One way to serve a model.

    Fields:
        name: what was changed.
        recall_1, recall_10: share of the texts whose tile is the most similar one, or among the ten most similar.
        texts, tiles: embedded a second.
        searches: of texts in the gallery of tiles, ten answers each, a second.
        bytes: of one tile in the gallery.
        weights: bytes of the network's parameters.
    """

    name: str
    recall_1: float
    recall_10: float
    texts: float
    tiles: float
    searches: float
    bytes: float
    weights: int


@dataclass(frozen=True)
class _Seen:
    """What one network made of all: vectors (T, D) and (P, D), seconds of each, bytes of its weights."""

    texts: Vectors
    tiles: Vectors
    text_seconds: float
    tile_seconds: float
    weights: int


def table(
    model: Model,
    texts: Sequence[str],
    pictures: Sequence[Picture],
    cuts: Sequence[int] = (),
    owners: Sequence[int] | None = None,
    gpus: float = 0.0,
) -> list[Row]:
    """Retrieval and speed of a trained model under each way to make it cheaper; float32 comes first.

    Args:
        model: adapters are melted in.
        texts: held-out texts.
        pictures: tiles (H, W, 3), the gallery.
        cuts: numbers of dimensions to cut vectors to.
        owners: the picture that each text describes; default: the one in its own place.
        gpus: above 0 the networks compute there.

    Raises:
        UserError: texts without a picture each, fewer than ten pictures, a cut that is none, or a text or picture without a
            vector.
    """
    own = np.arange(len(texts)) if owners is None else np.asarray(owners, np.int64)
    if len(own) != len(texts) or len(pictures) < 10 or not len(own) or own.max() >= len(pictures) or own.min() < 0:
        raise UserError(f"{len(texts)} texts and {len(pictures)} tiles make no table; give each text a tile, ten at least")
    plain = Serving(backend="transformers", dtype="float32", gpus=gpus)
    ways = {"float32": plain, "bfloat16": replace(plain, dtype="bfloat16"), "8-bit weights": replace(plain, quantise="int8")}
    networks = {name: open_embedder(model, serving) for name, serving in ways.items()}
    width = networks["float32"].dimension
    if any(not 0 < size < width for size in cuts):
        raise UserError(f"vectors of {width} numbers cannot be cut to {', '.join(map(str, cuts))}; name fewer")
    seen = _embedded(networks, texts, pictures)
    exact = seen["float32"]
    rows = [_row(name, each, own, *_flat(each.texts, each.tiles)) for name, each in seen.items()]
    for size in cuts:
        rows.append(_row(f"{size} numbers", exact, own, *_flat(cut(exact.texts, size), cut(exact.tiles, size))))
    ways_to_code = (("4-bit codes alone", 1), ("4-bit codes, ranked again", 2)) if len(pictures) >= TRAINS else ()
    for name, refine in ways_to_code:
        rows.append(_row(name, exact, own, *_coded(exact.texts, exact.tiles, refine)))
    return rows


def said(rows: Sequence[Row]) -> str:
    """The table as lines of text."""
    lines = [f"{'':28}{'R@1':>7}{'R@10':>7}{'texts/s':>10}{'tiles/s':>10}{'searches/s':>12}{'bytes/tile':>12}{'weights':>13}"]
    for row in rows:
        name, first, ten, texts, tiles, searches, size, weights = astuple(row)
        lines.append(f"{name:28}{100 * first:7.1f}{100 * ten:7.1f}{texts:10.1f}{tiles:10.1f}{searches:12.0f}{size:12.0f}"
                     f"{weights / 2**20:9.1f} MiB")  # fmt: skip
    return "\n".join(lines)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first numbers of unit vectors, at unit length again."""
    short = vectors[:, :dimensions]
    return np.ascontiguousarray(short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12), np.float32)


def _embedded(networks: dict[str, Embedder], texts: Sequence[str], pictures: Sequence[Picture]) -> dict[str, _Seen]:
    found: dict[str, dict[str, list[Vectors]]] = {name: {"texts": [], "tiles": []} for name in networks}
    spent = {name: {"texts": 0.0, "tiles": 0.0} for name in networks}
    for network in networks.values():  # what the first call of each sets up is nobody's speed
        network.texts(["0"], texts[:1])
        network.pictures(["0"], pictures[:1])
    for what, items, step in (("texts", texts, _TEXTS), ("tiles", pictures, _TILES)):
        for start in range(0, len(items), step):
            some = items[start : start + step]
            keys = [str(start + row) for row in range(len(some))]
            for name, network in networks.items():
                began = time.perf_counter()
                vectors = network.texts(keys, some) if what == "texts" else network.pictures(keys, some)  # type: ignore[arg-type]
                spent[name][what] += time.perf_counter() - began
                found[name][what].append(_whole(vectors, start, what))
    return {
        name: _Seen(
            np.concatenate(found[name]["texts"]),
            np.concatenate(found[name]["tiles"]),
            spent[name]["texts"],
            spent[name]["tiles"],
            held_bytes(network.encoder) if isinstance(network, Direct) else 0,
        )
        for name, network in networks.items()
    }


def _whole(vectors: Sequence[Vectors | Rejection], start: int, what: str) -> Vectors:
    for row, each in enumerate(vectors):
        if isinstance(each, Rejection):
            raise UserError(f"number {start + row} of the {what} has no vector ({each.reason}, {each.detail}); leave it out")
    return np.stack([each for each in vectors if not isinstance(each, Rejection)])


def _row(name: str, seen: _Seen, own: Rows, found: Rows, seconds: float, size: float) -> Row:
    """`found` (T, 10): rows of tiles, the most similar first."""
    hits = found == own[:, None]
    count = len(own)
    return Row(name, float(hits[:, 0].mean()), float(hits.any(axis=1).mean()), count / seen.text_seconds,
               len(seen.tiles) / seen.tile_seconds, count / seconds, size, seen.weights)  # fmt: skip


def _flat(queries: Vectors, tiles: Vectors) -> tuple[Rows, float, float]:
    """The ten tiles of each text, the seconds they took, and bytes of a tile."""
    stored = Stored([tiles])
    return *_timed(lambda: stored.search(queries, 10)[1]), 4.0 * tiles.shape[1]


def _coded(queries: Vectors, tiles: Vectors, refine: int) -> tuple[Rows, float, float]:
    stored = Stored([tiles])
    index = trained("pq", stored)
    fill(index, stored, _NO_ROWS)
    index.probes, index.refine = cells(len(tiles)), refine
    codes = tiles.shape[1] / 8
    if refine == 1:
        return *_timed(lambda: index.candidates(queries, 10)[:, :10]), codes
    return *_timed(lambda: index.search(queries, 10, stored)[1]), codes + 4.0 * tiles.shape[1]


def _timed(search: Callable[[], Rows]) -> tuple[Rows, float]:
    """What a search finds, and the least seconds of three times."""
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        found = search()
        best = min(best, time.perf_counter() - began)
    return found, float(best)
