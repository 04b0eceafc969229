"""A run of retrieval beside another over the same queries: the other's files, refused where they answer another question."""

from __future__ import annotations

import io
import json
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geobatch.benchmark.intervals import Bootstrap
from geobatch.benchmark.paired import ROWS, Paired, paired
from geobatch.benchmark.retrieval import Retrieval
from geobatch.errors import UserError
from geobatch.progress import say
from geobatch.store import NotFound, Store, join

#: The files of an output: what is known of each query, and the figures with what was asked.
TABLE, FIGURES = "retrieval.parquet", "retrieval.json"


class Asked(Protocol):
    """What of a job's arguments is read here (`geobatch.pipeline.retrieval.EvaluateRetrieval`)."""

    @property
    def queries(self) -> str:
        """Gallery of the queries."""

    @property
    def benchmark(self) -> str:
        """What makes a tile right."""

    @property
    def nearest(self) -> int:
        """Tiles that the second protocol ranks."""

    @property
    def ks(self) -> tuple[int, ...]:
        """Of R@k."""

    @property
    def metres(self) -> tuple[int, ...]:
        """Of L@m."""

    @property
    def bootstrap(self) -> int:
        """Resamplings."""


def against(store: Store, other: str, config: Asked, found: list[Retrieval], rows: pa.Table) -> dict[str, Paired]:
    """Ours beside the other run's, over the same queries, by direction and protocol; said as well.

    Raises:
        UserError: the other run holds no such rows, or other queries.
    """
    uri = join(other, TABLE)
    try:
        theirs = pq.read_table(io.BytesIO(store.get(uri)), schema=ROWS)
    except (NotFound, OSError, pa.ArrowException) as error:
        raise UserError(f"{uri} is no output of this job ({str(error)[:100]}); name its folder with --against") from error
    _same_question(store, join(other, FIGURES), config, found)
    compared = {}
    for one in (each for each in found if each.recall or each.located):
        mine, others = (_of(table, one) for table in (rows, theirs))
        if not mine["query"].equals(others["query"]):
            raise UserError(f"{uri} judged other queries than {config.queries}; compare runs over the same ones")
        of = paired(mine, others, tuple(one.recall), config.metres, Bootstrap(resamples=config.bootstrap))
        compared[f"{one.direction} {one.protocol}"] = of
        say(f"{one.direction}, {one.protocol}, {of.sentence(other)}")
        if one.placed > of.placed:
            say(f"  L@m is compared over {of.placed:,} of {one.placed:,} queries of known place: those that {other} knows too")
    return compared


def _same_question(store: Store, uri: str, config: Asked, found: list[Retrieval]) -> None:
    """Refuses a run that had something else for right, ranked other tiles, or kept fewer places than are compared."""
    try:
        theirs: dict[str, Any] = json.loads(store.get(uri))
        kept, benchmark, nearest = max(theirs["ks"]), theirs["benchmark"], theirs["nearest"]
    except (NotFound, ValueError, KeyError) as error:
        raise UserError(f"{uri} does not say what was asked ({error!r}); run that evaluation again") from error
    why = ""
    if benchmark != config.benchmark:
        why = f"by --benchmark {benchmark}, not {config.benchmark}"
    elif nearest != config.nearest and any(one.protocol == "nearest" for one in found):
        why = f"among the nearest {nearest}, not {config.nearest}"
    elif kept < max(config.ks):
        why = f"up to R@{kept}, not R@{max(config.ks)}"
    if why:
        raise UserError(f"{uri} was judged {why}; compare runs with the same settings")


def _of(table: pa.Table, one: Retrieval) -> pa.Table:
    chosen = pc.and_(pc.equal(table["direction"], one.direction), pc.equal(table["protocol"], one.protocol))
    return table.filter(chosen).sort_by("query").combine_chunks()
