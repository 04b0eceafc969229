"""A table of places against truth: what the chosen places got, and what other choices would have got.

    chosen                   the table's latitude and longitude
    nearest neighbour        the first image of `neighbours`, no model at all
    place between neighbours the one of `neighbours` that is no image, where there is one
    log-probability          the sample with the largest score
    oracle of the samples    the sample nearest to the truth: what the model knew
    oracle of the pool       the nearest to the truth of all candidates and the first neighbours: a perfect choice

All rows of the table whose image has a known place are judged, rejected ones as wrong, so that every choice
has the same denominator; a choice that a row does not offer (no neighbours, no samples) is wrong there too.
Rows without truth are counted, not judged, and so are places in the truth whose image the table does not
hold, unless `count_missing` makes them wrong as well, as a published benchmark wants where images could not
be had. The same holds of other systems and other seeds: they are compared over the images that both, or all runs,
hold, unless what one lacks is to count as wrong.

The distance to the photographs' own GPS is reported beside all that, whatever the truth is. What else is known (`Beside`: other
systems, other seeds, the gallery, a gazetteer) goes into comparisons and analyses.

Lists of candidates and neighbours are read once and forgotten (`lists`): a million rows of 30 and 15 take 1.2 GB at most, most
of it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from geobatch.benchmark.against import PARTS, Comparison, Rival, compare, places_of, right
from geobatch.benchmark.analyses import ALL, Analysis, Case, analysed
from geobatch.benchmark.analyses.case import Gallery
from geobatch.benchmark.analyses.seeds import by_image
from geobatch.benchmark.choices import CHOSEN, NEIGHBOUR, ORACLE, SCORE
from geobatch.benchmark.evaluation import Evaluation
from geobatch.benchmark.intervals import Bootstrap, Difference, Interval, gap_closed, paired_difference, share_interval
from geobatch.benchmark.judged import Judged, judged_of
from geobatch.benchmark.lists import Chooser, Lists, Reading
from geobatch.benchmark.metrics import Figures, figures
from geobatch.benchmark.places import Places, numbers
from geobatch.benchmark.regions import Regions, Where
from geobatch.benchmark.truth import Truth
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km, within
from geobatch.schema import RADII_KM

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is known beside a table and its truth.

    Attributes:
        choosers: other ways to choose among the table's candidates, by the name of their line.
        against: tables of other systems, by name: compared image by image.
        seeds: tables of the same system with other seeds, by name.
        regions: a gazetteer.
        gallery: places of the images that were retrieved from.
        cover: land cover: names, and which of them places in degrees have.
    """

    choosers: Mapping[str, Chooser] = field(default_factory=dict)
    against: Mapping[str, pa.Table] = field(default_factory=dict)
    seeds: Mapping[str, pa.Table] = field(default_factory=dict)
    regions: Regions | None = None
    gallery: Gallery | None = None
    cover: tuple[Sequence[str], Callable[[Floats, Floats], NDArray[np.int64]]] | None = None


def evaluate(
    places: pa.Table | Places,
    truth: Truth,
    *,
    beside: Beside | None = None,
    count_missing: bool = False,
    pool_neighbours: int = 5,
    bootstrap: Bootstrap | None = None,
    analyses: Sequence[Analysis] = ALL,
) -> Evaluation:
    """Judges a table of `geobatch.schema.PLACE`.

    Args:
        places: the table, in any order; `candidates`, `neighbours` and probabilities may be null.
        truth: where the images were taken.
        beside: what else is known.
        count_missing: whether an image of the truth that the table does not hold is wrong (otherwise left out).
        pool_neighbours: how many of the first neighbours a choice may answer with, for the oracle of the pool.
        bootstrap: how intervals are drawn.
        analyses: which are made.

    Raises:
        UserError: no image of the table is in the truth, or an image stands in a table twice.
    """
    whole, also, how = places if isinstance(places, Places) else Places.of(places), beside or Beside(), bootstrap or Bootstrap()
    judged = judged_of(whole, truth, count_missing)
    where, guessed = _where(judged, also.regions)
    case = _case(judged, truth, also, (where, guessed), _read(whole, judged, also, where, pool_neighbours), how, count_missing)
    findings, unmade = analysed(case, analyses)
    against = _against(judged, truth, also, (where, guessed), how, count_missing)
    return Evaluation(
        truth=truth.name,
        images=len(judged.rows),
        **_counts(whole.held, judged),
        missing_counted=count_missing,
        choices={name: figures(distance, bootstrap=how) for name, distance in case.distances.items()},
        regions={} if where is None or guessed is None else _regions(where, guessed, how),
        against_neighbour=_paired(judged.km, case.distances[NEIGHBOUR], how) if NEIGHBOUR in case.distances else {},
        against_score=_against_score(case.distances, how),
        gap=_gap(case.distances, how),
        against={name: one for name, (one, _) in against.items()},
        calibration=case.calibration,
        coverage=judged.coverages(how),
        chosen_by=judged.counts("chosen_by"),
        fallbacks=judged.counts("fallback"),
        exif=_exif_figures(whole.held, how),
        findings=findings,
        unmade=unmade,
        failed=judged.failed(),
        spread=by_image(case, judged.names()),
        notes=truth.notes,
        distances=case.distances,
        rivals={name: rival for name, (_, rival) in against.items()},
        rows=judged.rows,
        image_ids=judged.image_ids,
        latitude=judged.latitude,
        longitude=judged.longitude,
        true_latitude=judged.true_latitude,
        true_longitude=judged.true_longitude,
    )


def _where(judged: Judged, regions: Regions | None) -> tuple[Where, Where] | tuple[None, None]:
    """What the gazetteer says of the true and of the chosen places."""
    if regions is None:
        return None, None
    return regions.of(judged.true_latitude, judged.true_longitude), regions.of(judged.latitude, judged.longitude)


def _counts(held: pa.Table, judged: Judged) -> dict[str, Any]:
    """What the whole table holds."""
    reasons = pc.value_counts(held["reason"].drop_null()).to_pylist()
    return {
        "placed": int(pc.sum(pc.equal(held["status"], "placed")).as_py() or 0),
        "rejected": {one["values"]: one["counts"] for one in sorted(reasons, key=lambda one: -one["counts"])},
        "without_truth": len(held) - judged.known,
        "missing": judged.missing,
    }


def _case(
    judged: Judged,
    truth: Truth,
    also: Beside,
    where: tuple[Where | None, Where | None],
    lists: Lists,
    how: Bootstrap,
    count_missing: bool,
) -> Case:
    """What the analyses are given; `where` is of the true and of the chosen places."""
    distances = {CHOSEN: judged.km, **lists.ordered()}
    seeds = {name: places_of(table, name, truth, judged.image_ids, judged.true_rows) for name, table in also.seeds.items()}
    return Case(
        latitude=judged.latitude,
        longitude=judged.longitude,
        true_latitude=judged.true_latitude,
        true_longitude=judged.true_longitude,
        distances=distances,
        lists=lists,
        calibration=judged.calibrations(how),
        bootstrap=how,
        regions=also.regions,
        where=where[0],
        guessed=where[1],
        gallery=also.gallery,
        cover=None if also.cover is None else (also.cover[0], also.cover[1](judged.true_latitude, judged.true_longitude)),
        seeds={name: (one.latitude, one.longitude) for name, one in seeds.items()},
        run_by_all=np.all([np.ones(len(judged.km), bool), *(one.held | count_missing for one in seeds.values())], axis=0),
    )


def _read(places: Places, judged: Judged, also: Beside, where: Where | None, pool_neighbours: int) -> Lists:
    """One pass over the lists of the judged rows, which rise, but for the missing ones behind them."""
    reading = Reading(
        judged.true_latitude,
        judged.true_longitude,
        pool_neighbours=pool_neighbours,
        choosers=also.choosers,
        regions=also.regions,
        where=where,
    )
    here = judged.rows[judged.rows >= 0]
    for first, table in places.batches():
        low, high = np.searchsorted(here, [first, first + len(table)])
        if high > low:
            reading.take(table.take(pa.array(here[low:high] - first)), np.arange(low, high))
    return reading.found


def _against(
    judged: Judged, truth: Truth, also: Beside, where: tuple[Where | None, Where | None], how: Bootstrap, count_missing: bool
) -> dict[str, tuple[Comparison, Rival]]:
    """Over the images that both tables hold, or over all that are judged where missing ones count.

    Raises:
        UserError: they have no image in common.
    """
    out = {}
    for name, table in also.against.items():
        theirs = places_of(table, name, truth, judged.image_ids, judged.true_rows)
        both = np.ones(len(judged.km), bool) if count_missing else theirs.held
        if not both.any():
            raise UserError(f"{name} and the table have no image of {truth.name} in common; name a table of the same images")
        regions = None
        if also.regions is not None and where[0] is not None and where[1] is not None:
            guessed = also.regions.of(theirs.latitude, theirs.longitude)
            regions = (where[0].at(both), where[1].at(both), guessed.at(both))
        km = judged.distance(theirs.latitude, theirs.longitude)
        left_out = (int(np.sum(~both)), theirs.more)
        out[name] = compare(judged.km[both], km[both], how, regions, left_out), Rival(km, both)
    return out


def _regions(where: Where, guessed: Where, how: Bootstrap) -> dict[str, Interval]:
    hits = {part: right(where, guessed, part) for part in PARTS}
    return {part: share_interval(float(hit.mean()), hit.size, how) for part, hit in hits.items()}


def _against_score(distances: Mapping[str, Floats], how: Bootstrap) -> dict[str, dict[int, Difference]]:
    """Of every choice that knows no truth, by how much it is within each radius more often than the log-probability's."""
    return {
        name: _paired(distance, distances[SCORE], how)
        for name, distance in distances.items()
        if SCORE in distances and name != SCORE and not name.startswith("oracle")
    }


def _gap(distances: Mapping[str, Floats], how: Bootstrap) -> dict[int, Interval]:
    """What the chosen places close of the gap from the likeliest draws to the oracle, where anything was drawn."""
    if SCORE not in distances:
        return {}
    ours, score, best = (distances[name] for name in (CHOSEN, SCORE, ORACLE))
    return {km: gap_closed(within(ours, km), within(score, km), within(best, km), how) for km in RADII_KM}


def _paired(ours: Floats, theirs: Floats, how: Bootstrap) -> dict[int, Difference]:
    return {km: paired_difference(ours, theirs, km, how) for km in RADII_KM}


def _exif_figures(held: pa.Table, how: Bootstrap) -> Figures | None:
    latitude, longitude = numbers(held["exif_latitude"]), numbers(held["exif_longitude"])
    known = ~(np.isnan(latitude) | np.isnan(longitude))
    if not np.any(known):
        return None
    km = haversine_km(numbers(held["latitude"]), numbers(held["longitude"]), latitude, longitude)
    return figures(km[known], bootstrap=how)
