"""Two galleries, of texts and of tiles, become the figures of retrieval between them.

Both are folders that `build_gallery.py` wrote with the same model: `--texts` embeds the queries, tiles are embedded as images.
What counts as the right tile is the benchmark's:

    geotext   a tile in the folder of the query's name: the building of GeoText-1652
    cvgtext   the tile of the query's file name, and how near the first one is; all tiles and the nearest 100
    names     whatever `geobatch.benchmark.named.building_of` says that both show, with or without its extension
    places    the tile whose centre is nearest to the query's place: any archive of map tiles

The place of a query is `--truth`'s, else its gallery's, else what its name begins with. A tile stays where its own gallery or
name has it, though the file name it too: CVG-Text's tiles are called like their queries, and would be judged by themselves.
The reverse direction is judged too, but not beyond `REVERSED` tiles, each of which asks for all texts. What was rejected when
its gallery was built has no vector (`retrieval_rows`): as a query it is wrong and listed with its reason, as a tile it is not
found. Published rows are printed beside the figures, marked as such.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.benchmark import published
from geobatch.benchmark.exact import Centres
from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.named import building_of, file_of, path_of
from geobatch.benchmark.paired import ROWS, Paired
from geobatch.benchmark.retrieval import Direction, Protocol, Retrieval, Side, retrieval
from geobatch.benchmark.truth import load_truth
from geobatch.engine.gallery import Gallery, load
from geobatch.errors import UserError
from geobatch.pipeline.folder import local_folder
from geobatch.pipeline.retrieval_against import FIGURES, TABLE, against
from geobatch.pipeline.retrieval_rows import Named, named
from geobatch.progress import say
from geobatch.store import Store, StoreConfig, join, split

Benchmark = Literal["geotext", "cvgtext", "names", "places"]

#: Tiles up to which the reverse direction is judged as well.
REVERSED = 200_000
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


@dataclass(frozen=True, kw_only=True)
class EvaluateRetrieval:
    """Judges a gallery of queries against a gallery of tiles."""

    queries: str
    """Gallery of the queries: the --output of build_gallery.py with --texts."""
    gallery: str
    """Gallery of the tiles, by the same model."""
    benchmark: Benchmark = "names"
    """What makes a tile right: geotext (the same folder), cvgtext (the same file name), names (either, as names have it) or
    places (its centre is the nearest to the query's place)."""
    truth: str | None = None
    """CSV or Parquet of the queries' places (image_id, latitude, longitude); default: their gallery's, else their names'."""
    output: str | None = None
    """Folder, here or in a bucket, for `retrieval.json` and `retrieval.parquet`, one row a query; default: only print."""
    against: str | None = None
    """The output of another run over the same queries; differences of R@k and L@m are printed with paired intervals, and of how
    many queries each run is the better."""
    direction: Direction = "t2i"
    """What the queries are and what they ask for: t2i, texts for tiles; i2t where --queries holds the tiles."""
    both: bool = True
    """Whether the reverse direction is judged as well."""
    nearest: int = 100
    """Tiles nearest to the truth that the second protocol ranks; 0 leaves it out."""
    ks: tuple[int, ...] = (1, 5, 10)
    """Places among which a right tile counts."""
    metres: tuple[int, ...] = (50, 100, 150)
    """Distances from the truth within which the first tile counts."""
    bootstrap: int = 10_000
    """Resamplings for the 95 % intervals."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """How buckets are reached."""

    def __post_init__(self) -> None:
        """Refuses numbers that judge nothing."""
        if not self.ks or min(self.ks) < 1 or max(self.ks) > 1000 or min(self.metres, default=1) < 1 or self.nearest < 0:
            raise UserError("--ks are from 1 to 1000, --metres at least 1, --nearest at least 0; leave them at their defaults")


def evaluate_retrieval(config: EvaluateRetrieval) -> list[Retrieval]:
    """Runs the job; the figures of each direction and protocol, as they were printed.

    Raises:
        UserError: a folder is no gallery, the two are of different models, or nothing of the one is to be found in the other.
    """
    store = Store(config.store)
    if config.output is not None and split(config.output).bucket is not None:
        store.require_credentials(config.output)
    asked, held = (load(local_folder(store, each, "gallery")) for each in (config.queries, config.gallery))
    _comparable(asked, held, config)
    truth = None if config.truth is None else load_truth(store, config.truth)
    queries = named(store, config.queries, asked, truth)
    tiles = named(store, config.gallery, held, None)
    classes = _classes(queries, tiles, config)
    for note in (*queries.notes, *tiles.notes):
        say(note)
    reverse: Direction = "i2t" if config.direction == "t2i" else "t2i"
    runs = [(config.direction, (queries, classes[0]), (tiles, classes[1]))]
    if config.both and config.benchmark != "places" and len(held) <= REVERSED:
        runs.append((reverse, (tiles, classes[1]), (queries, classes[0])))
    found, rows = [], []
    for direction, (mine, my_classes), (theirs, their_classes) in runs:
        sides = Side(mine.gallery, my_classes, mine.latitude, mine.longitude), theirs.found(their_classes)
        for protocol in _protocols(*sides, config):
            one = retrieval(
                *sides,
                direction=direction,
                protocol=protocol,
                ks=config.ks,
                metres=config.metres,
                nearest=config.nearest,
                bootstrap=Bootstrap(resamples=config.bootstrap),
            )
            found.append(one)
            rows.append(_rows(one, mine, theirs))
            say(one.as_text())
    if told := published.lines(config.benchmark):
        say("\n".join(told))
    every = pa.concat_tables(rows)
    compared = against(store, config.against, config, found, every) if config.against is not None else {}
    if config.output is not None:
        _write(store, config.output, config, found, every, compared, {"queries": queries, "gallery": tiles})
    return found


def _comparable(asked: Gallery, held: Gallery, config: EvaluateRetrieval) -> None:
    makers = [each.record.get("encoder") for each in (asked, held)]
    if asked.dimension != held.dimension or (all(makers) and makers[0] != makers[1]):
        raise UserError(
            f"{config.queries} ({asked.dimension} numbers a vector) and {config.gallery} ({held.dimension}) are of different "
            "models; build both with one"
        )


def _classes(
    queries: Named, tiles: Named, config: EvaluateRetrieval
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """What each row shows, as numbers that are equal on both sides.

    Raises:
        UserError: nothing is the same on both sides.
    """
    if config.benchmark == "places":
        held = tiles.found(None)
        there, east = held.latitude, held.longitude
        nearest = Centres(there, east).near(queries.latitude, queries.longitude, 1)
        if not any(map(len, nearest)):
            raise UserError(
                f"no query of {config.queries} or no tile of {config.gallery} has a place; give --truth, or build with --places"
            )
        _, spot = np.unique(np.stack([there, east], axis=1), axis=0, return_inverse=True)
        return np.array([spot.ravel()[rows[0]] if len(rows) else -1 for rows in nearest], np.int64), spot.ravel().astype(
            np.int64
        )
    shown = [[_shown(name, config.benchmark) for name in side.names] for side in (queries, tiles)]
    numbers = {what: number for number, what in enumerate(dict.fromkeys(shown[1])) if what is not None}
    mine, theirs = (np.array([numbers.get(what, -1) if what else -1 for what in side], np.int64) for side in shown)
    if not (mine >= 0).any():
        first = [next((what for what in side if what), "nothing") for side in shown]
        raise UserError(
            f"no query of {config.queries} shows what a tile of {config.gallery} shows (the first of one {first[0]!r}, of the "
            f"other {first[1]!r}); choose another --benchmark than {config.benchmark}"
        )
    return mine, theirs


def _shown(name: str, benchmark: Benchmark) -> str | None:
    if benchmark == "geotext":
        folder = path_of(name).rpartition("/")[0]
        return folder.rpartition("/")[2] or None
    shown = file_of(name) if benchmark == "cvgtext" else building_of(name)
    return _EXTENSION.sub("", shown)  # a table of texts may call a.png a


def _protocols(queries: Side, tiles: Side, config: EvaluateRetrieval) -> Sequence[Protocol]:
    located = all((np.isfinite(side.latitude) & np.isfinite(side.longitude)).any() for side in (queries, tiles))
    return ("all", "nearest") if located and config.nearest and config.benchmark != "geotext" else ("all",)


def _rows(one: Retrieval, queries: Named, tiles: Named) -> pa.Table:
    first = pa.array(one.first, mask=one.first < 0)
    columns = [
        pa.array([one.direction] * one.queries, pa.string()),
        pa.array([one.protocol] * one.queries, pa.string()),
        pa.array(queries.names, pa.string()),
        pa.array(one.rank),
        pa.array(tiles.names, pa.string()).take(first),
        pa.array(one.similarity, mask=one.first < 0),
        pa.array(one.metres, from_pandas=True),
        pa.array(one.known),
        pa.array([*[None] * len(queries.gallery), *queries.why], pa.string()),
    ]
    return pa.table(columns, schema=ROWS)


def _write(
    store: Store,
    output: str,
    config: EvaluateRetrieval,
    found: list[Retrieval],
    rows: pa.Table,
    compared: dict[str, Paired],
    sides: dict[str, Named],
) -> None:
    document = {
        "queries": config.queries,
        "gallery": config.gallery,
        "benchmark": config.benchmark,
        "ks": config.ks,
        "nearest": config.nearest,
        "figures": [one.as_dict() for one in found],
        "published": [{**asdict(one), "published": True} for one in published.PUBLISHED.get(config.benchmark, ())],
        "against": config.against,
        "differences": {name: one.shares() for name, one in compared.items()},
        "wins": {name: one.wins() for name, one in compared.items()},
        "rejected": {name: one.rejected() for name, one in sides.items()},
    }
    table = io.BytesIO()
    pq.write_table(rows, table, compression="zstd")
    store.put(join(output, TABLE), table.getvalue())
    store.put(join(output, FIGURES), (json.dumps(document, indent=1) + "\n").encode())
    say(f"figures in {join(output, FIGURES)}, each query in {join(output, TABLE)}")
