"""Two galleries, of texts and of tiles, become the figures of retrieval between them.

Both are folders that `build_gallery.py` wrote with the same model: `--texts` embeds the queries, tiles are embedded as images.
What counts as the right tile is the benchmark's:

    geotext   a tile in the folder of the query's name: the building of GeoText-1652
    cvgtext   the tile of the query's file name, and how near the first one is; all tiles and the nearest 100
    names     whatever `geobatch.benchmark.named.building_of` says that both show, with or without its extension
    places    the tile whose centre is nearest to the query's place: any archive of map tiles

The place of a query is `--truth`'s, else its gallery's, else what its name begins with. A tile stays where its own gallery or
name has it, though the file name it too: CVG-Text's tiles are called like their queries, and would be judged by themselves.
The reverse direction is judged too, but not beyond `REVERSED` tiles, each of which asks for all texts. What was rejected is in
no gallery, neither asked nor found. Published rows are printed beside the figures, marked as such.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from geobatch.benchmark import published
from geobatch.benchmark.exact import Centres
from geobatch.benchmark.metrics import Bootstrap, Interval
from geobatch.benchmark.named import building_of, file_of, path_of, place_of
from geobatch.benchmark.retrieval import Direction, Protocol, Retrieval, Side, difference, retrieval
from geobatch.benchmark.truth import Truth, load_truth
from geobatch.engine.gallery import Gallery, load
from geobatch.errors import UserError
from geobatch.pipeline.folder import local_folder
from geobatch.progress import say
from geobatch.store import Store, StoreConfig

Benchmark = Literal["geotext", "cvgtext", "names", "places"]
Floats = NDArray[np.float64]
Compared = dict[str, dict[int, Interval]]

#: Tiles up to which the reverse direction is judged as well.
REVERSED = 200_000

#: The files of an output: what is known of each query, and the figures with what was asked.
TABLE, FIGURES = "retrieval.parquet", "retrieval.json"
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")

_ROWS = pa.schema(
    [
        pa.field("direction", pa.string()),
        pa.field("protocol", pa.string()),
        pa.field("query", pa.string()),  # its image_id
        pa.field("rank", pa.int64()),  # of the first right row, from 1; 0: not among the first
        pa.field("first", pa.string()),  # image_id of the most similar row
        pa.field("similarity", pa.float32()),
        pa.field("metres", pa.float64()),  # of that row from the true place; null where unknown
    ]
)


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
    """Folder for `retrieval.json` and `retrieval.parquet`, one row a query; default: only print."""
    against: str | None = None
    """The output of another run over the same queries; the differences of R@k are printed with paired intervals."""
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
    asked, held = (load(local_folder(store, each, "gallery")) for each in (config.queries, config.gallery))
    _comparable(asked, held, config)
    truth = None if config.truth is None else load_truth(store, config.truth)
    names, others = _names(asked), _names(held)
    places = [_places(asked, names, truth), _places(held, others, None)]
    classes = _classes(names, others, places, config)
    queries, tiles = (
        Side(gallery, known, *where) for gallery, known, where in zip((asked, held), classes, places, strict=True)
    )
    reverse: Direction = "i2t" if config.direction == "t2i" else "t2i"
    runs = [(config.direction, queries, tiles, names, others)]
    if config.both and config.benchmark != "places" and len(held) <= REVERSED:
        runs.append((reverse, tiles, queries, others, names))
    found, rows = [], []
    for direction, mine, theirs, my_names, their_names in runs:
        for protocol in _protocols(mine, theirs, config):
            one = retrieval(
                mine,
                theirs,
                direction=direction,
                protocol=protocol,
                ks=config.ks,
                metres=config.metres,
                nearest=config.nearest,
                bootstrap=Bootstrap(resamples=config.bootstrap),
            )
            found.append(one)
            rows.append(_rows(one, my_names, their_names))
            say(one.as_text())
    if told := published.lines(config.benchmark):
        say("\n".join(told))
    every = pa.concat_tables(rows)
    compared = _against(config, found, every) if config.against is not None else {}
    if config.output is not None:
        _write(Path(config.output.removeprefix("file://")), config, found, every, compared)
    return found


def _comparable(asked: Gallery, held: Gallery, config: EvaluateRetrieval) -> None:
    makers = [each.record.get("encoder") for each in (asked, held)]
    if asked.dimension != held.dimension or (all(makers) and makers[0] != makers[1]):
        raise UserError(
            f"{config.queries} ({asked.dimension} numbers a vector) and {config.gallery} ({held.dimension}) are of different "
            "models; build both with one"
        )


def _names(gallery: Gallery) -> list[str]:
    names: list[str] = gallery.ids(np.arange(len(gallery))).to_pylist()
    return names


def _places(gallery: Gallery, names: list[str], truth: Truth | None) -> tuple[Floats, Floats]:
    """Where rows are, NaN where nobody knows: by the truth, else the gallery, else their names."""
    latitude, longitude = gallery.latitude.astype(np.float64).copy(), gallery.longitude.astype(np.float64).copy()
    if truth is not None:
        paths = [path_of(name) for name in names]
        rows = {path: at for at, path in enumerate(dict.fromkeys(paths))}
        matched = truth.match(list(rows))[[rows[path] for path in paths]]
        known = matched >= 0
        latitude[known], longitude[known] = truth.latitude[matched[known]], truth.longitude[matched[known]]
    for row in np.flatnonzero(~(np.isfinite(latitude) & np.isfinite(longitude))):
        latitude[row], longitude[row] = place_of(names[row]) or (math.nan, math.nan)
    return latitude, longitude


def _classes(
    names: list[str], others: list[str], places: list[tuple[Floats, Floats]], config: EvaluateRetrieval
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """What each row shows, as numbers that are equal on both sides.

    Raises:
        UserError: nothing is the same on both sides.
    """
    (latitude, longitude), (there, east) = places
    if config.benchmark == "places":
        nearest = Centres(there, east).near(latitude, longitude, 1)
        if not any(map(len, nearest)):
            raise UserError(
                f"no query of {config.queries} or no tile of {config.gallery} has a place; give --truth, or build with --places"
            )
        _, spot = np.unique(np.stack([there, east], axis=1), axis=0, return_inverse=True)
        return np.array([spot.ravel()[rows[0]] if len(rows) else -1 for rows in nearest], np.int64), spot.ravel().astype(
            np.int64
        )
    shown = [[_shown(name, config.benchmark) for name in side] for side in (names, others)]
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


def _rows(one: Retrieval, queries: list[str], tiles: list[str]) -> pa.Table:
    first = pa.array(one.first, mask=one.first < 0)
    columns = [
        pa.array([one.direction] * one.queries, pa.string()),
        pa.array([one.protocol] * one.queries, pa.string()),
        pa.array(queries, pa.string()),
        pa.array(one.rank),
        pa.array(tiles, pa.string()).take(first),
        pa.array(one.similarity, mask=one.first < 0),
        pa.array(one.metres, from_pandas=True),
    ]
    return pa.table(columns, schema=_ROWS)


def _against(config: EvaluateRetrieval, found: list[Retrieval], rows: pa.Table) -> Compared:
    """Our R@k less the other run's, over the same queries, by direction and protocol.

    Raises:
        UserError: the other run holds no such rows, or other queries.
    """
    try:
        theirs = pq.read_table(path := Path(str(config.against).removeprefix("file://")) / TABLE, schema=_ROWS)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is no output of this job ({str(error)[:100]}); name its folder with --against") from error
    _same_question(path.with_name(FIGURES), config, found)
    compared = {}
    for one in (each for each in found if each.recall):
        mine, other = (_of(table, one) for table in (rows, theirs))
        if not mine["query"].equals(other["query"]):
            raise UserError(f"{path} judged other queries than {config.queries}; compare runs over the same ones")
        ranks, rival = mine["rank"].to_numpy(), other["rank"].to_numpy()
        by_k = {k: difference(ranks, rival, k, Bootstrap(resamples=config.bootstrap)) for k in config.ks}
        compared[f"{one.direction} {one.protocol}"] = by_k
        cells = (f"R@{k} {100 * each.value:+.1f} ({100 * each.low:+.1f}…{100 * each.high:+.1f})" for k, each in by_k.items())
        say(f"{one.direction}, {one.protocol}, over {config.against}: {', '.join(cells)}")
    return compared


def _same_question(path: Path, config: EvaluateRetrieval, found: list[Retrieval]) -> None:
    """Refuses a run that had something else for right, ranked other tiles, or kept fewer places than are compared."""
    try:
        theirs = json.loads(path.read_text())
        kept, benchmark, nearest = max(theirs["ks"]), theirs["benchmark"], theirs["nearest"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} does not say what was asked ({error!r}); run that evaluation again") from error
    why = ""
    if benchmark != config.benchmark:
        why = f"by --benchmark {benchmark}, not {config.benchmark}"
    elif nearest != config.nearest and any(one.protocol == "nearest" for one in found):
        why = f"among the nearest {nearest}, not {config.nearest}"
    elif kept < max(config.ks):
        why = f"up to R@{kept}, not R@{max(config.ks)}"
    if why:
        raise UserError(f"{path} was judged {why}; compare runs with the same settings")


def _of(table: pa.Table, one: Retrieval) -> pa.Table:
    chosen = pc.and_(pc.equal(table["direction"], one.direction), pc.equal(table["protocol"], one.protocol))
    return table.filter(chosen).sort_by("query").combine_chunks()


def _write(folder: Path, config: EvaluateRetrieval, found: list[Retrieval], rows: pa.Table, compared: Compared) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "queries": config.queries,
        "gallery": config.gallery,
        "benchmark": config.benchmark,
        "ks": config.ks,
        "nearest": config.nearest,
        "figures": [one.as_dict() for one in found],
        "published": [{**asdict(one), "published": True} for one in published.PUBLISHED.get(config.benchmark, ())],
        "against": config.against,
        "differences": {name: {str(k): asdict(one) for k, one in by_k.items()} for name, by_k in compared.items()},
    }
    pq.write_table(rows, folder / TABLE, compression="zstd")
    (folder / FIGURES).write_text(json.dumps(document, indent=1) + "\n")
    say(f"figures in {folder / FIGURES}, each query in {folder / TABLE}")
