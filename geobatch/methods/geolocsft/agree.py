"""K sampled answers -> one place: minimum expected loss on the sphere, weighted by how likely each answer was.

The answers are a sample of what the model believes, so a place is judged by its expected loss under them: the share of the
weight beyond a radius, averaged over ten radii, the published five and one between each two (`geobatch.geo.centre`).

How likely an answer was is known three ways, and two mislead. The log-probability of a whole reply is that of some 400 tokens
of wording: it differs by tens of nats between replies that name the same place, so its exponential is one winner and K - 1
zeros. Divided by the tokens it hardly differs at all. That of the answer's own characters, given the reasoning before
them, says how sure the model was of the digits. Weighing each draw by it counts what is likely twice, since it was drawn more
often already; weighing each distinct answer by it forgets how many paths of reasoning led there. Half and half, to the
power 0.5, was better than either. Simulated answers, K = 10, 36,000 images, fitted to the published figures of one pass and of
the best of ten (`tests/methods/geolocsft/simulate.py`); mean of the shares within 1/25/200/750/2500 km:

    one draw 44.5, mean on the sphere 36.6, geometric median 47.3, medoid 47.3, single pass 47.4, counts 47.4
    answer's probability: each draw 47.5 (power 0.5), 47.4 (1); each distinct answer 47.6 (0.5), 47.3 (1); half and half 47.6
    whole reply's probability: 47.4 (power 0.01), 45.3 (0.1), 44.8 (1); its mean token's: 47.4

Where sampling alone does not win: a single pass that reads the model's own mode is 0.5 better than any consensus of ten, and
one against answers drawn at T = 1.4 is 0.3 better. So the single pass belongs into the pool: first of the ten and counted as
three draws (`first`), on images that had no part in these choices, the consensus was above the single pass by 0.26 as
published, 0.15 with much landmark confusion, 0.12 at T = 1.4, 0.93 where a pass is one path of reasoning among many, and level
(-0.04, interval -0.11 to 0.03) where it is the mode itself; above the geometric median and the medoid in every
setting. No rival was better beyond its 95 % interval at any radius (36,000 images a setting, `tests/bench/bench_consensus.py`).

The stated probabilities are what the answers say of each other. A model is surer than it is right: simulated, 0.83 was
stated within 25 km where 0.34 was true. They rank images (0.20 true below a half, 0.40 where all agree) and are not calibrated.

Tried and left out, as they moved the mean by less than 0.05: answers between the answers (means of all pairs, of all
within 1, 25 and 200 km of each), and a kernel instead of radii.

Not covered: what other images say. A famous place drawn for many of them is `health`'s to report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geobatch.errors import Rejection, UserError
from geobatch.geo import centre, point
from geobatch.geo.distance import haversine_km
from geobatch.schema import CANDIDATES, CONFIDENCE, LOCATED, RADII_KM
from geobatch.stage import Stage

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]
Kind = Literal["count", "tempered", "sequence", "mixture"]

#: The published radii, km, and the geometric middle of each two neighbours.
LOSS_KM = (0.2, 1, 5, 25, 70, 200, 400, 750, 1400, 2500)

#: Within it answers agree: what the field calls a city.
AGREE_KM = 25

#: Answers are the same where they are to 5 decimals, the precision of the answer tag (1.1 m).
_SAME = 1e5

ANSWERS = pa.list_(
    pa.struct(
        [
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("logprob", pa.float32()),  # of the answer's own characters, nats at temperature 1
            pa.field("sequence", pa.float32()),  # of the whole reply
            pa.field("tokens", pa.int32()),  # of the whole reply
            pa.field("greedy", pa.bool_()),  # whether it is the single pass's; null counts as yes for the first
        ]
    )
)


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """How K answers become one place."""

    weight: Kind = "mixture"
    """What its probability weighs: nothing (count), each draw (tempered), each distinct answer (sequence), or half and half."""
    alpha: float = 0.5
    """Power of the probability; 0 makes it count nothing, 1 lets the surest answer take all."""
    probability: Literal["answer", "token", "reply"] = "answer"
    """Whose probability: of the answer's own characters, of the whole reply's mean token, or of the whole reply."""
    first: float = 1.0
    """Draws that the first answer counts as; 3 where it is the greedy one, as a single pass would give it, among ten."""
    loss: Literal["share", "distance"] = "share"
    """What is expected to be least: the share beyond radii from 0.2 to 2500 km, or the great-circle distance."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(f"alpha is a power from 0 up, not {self.alpha}; use 0.5")
        if not (np.isfinite(self.first) and self.first > 0):
            raise UserError(f"the first answer counts as more than no draw, not {self.first}; use 1 or 3")


def weights(
    logprobs: npt.ArrayLike,
    mask: npt.ArrayLike,
    kind: Kind = "mixture",
    alpha: float = 0.5,
    same: npt.ArrayLike | None = None,
) -> Floats:
    """Weights (N, K) of answers; rows sum to 1, or to 0 where the mask has no answer.

    Args:
        logprobs: (N, K) in nats. They are compared within a row only, so tens or thousands of nats below 0 lose
            nothing; a row in which one is NaN or infinite is weighed by counts, since nothing can be compared.
        mask: (N, K) bool, false where there is no answer.
        kind: "count": each draw 1. "tempered": each draw its probability to the power alpha. "sequence": each distinct
            answer the probability of its likeliest reply to the power alpha, shared by its draws. "mixture": the mean of
            these two.
        same: (N, K), `first_same`: the position of the first draw with the same answer; without it all are distinct.
    """
    if kind == "mixture":
        return (weights(logprobs, mask, "tempered", alpha) + weights(logprobs, mask, "sequence", alpha, same)) / 2
    there, given = np.asarray(mask, np.bool_), np.asarray(logprobs, np.float64)
    comparable = np.all(np.isfinite(given) | ~there, axis=1, keepdims=True)
    power = 0.0 if kind == "count" else alpha
    logs = np.where(there, np.where(comparable, given, 0.0) * power, -np.inf)
    if kind == "sequence" and same is not None and logs.size:
        groups = np.asarray(same, np.intp)
        together = (groups[:, :, None] == groups[:, None, :]) & there[:, None, :]
        best = np.where(together, logs[:, None, :], -np.inf).max(axis=2)
        shared = best - np.log(np.maximum(together.sum(axis=2), 1))
        logs = np.where(there & comparable, shared, logs)
    highest = logs.max(axis=1, keepdims=True, initial=-np.inf)
    out = np.exp(logs - np.where(np.isfinite(highest), highest, 0.0))
    total = out.sum(axis=1, keepdims=True)
    return np.asarray(out / np.where(total > 0, total, 1.0))


def consensus(points: npt.ArrayLike, weight: npt.ArrayLike, loss: Literal["share", "distance"] = "share") -> Positions:
    """Positions (N,) of the answers with the least expected loss.

    Args:
        points: unit vectors (N, K, 3), anything where the weight is 0.
        weight: (N, K), not negative, positive somewhere in every row.
    """
    if loss == "distance":
        return centre.least_expected_distance(points, weight)
    return centre.most_expected_share(points, weight, radii=LOSS_KM)


def first_same(latitude: Floats, longitude: Floats) -> Positions:
    """Positions (N, K) of the first answer that is the same to 5 decimals; 180° W is 180° E. NaN equals NaN."""
    north, east = np.round(latitude * _SAME), np.round(longitude * _SAME)
    east = np.where(east == -180 * _SAME, 180 * _SAME, east)
    north, east = np.nan_to_num(north, nan=np.inf), np.nan_to_num(east, nan=np.inf)
    equal = (north[:, :, None] == north[:, None, :]) & (east[:, :, None] == east[:, None, :])
    return np.asarray(equal.argmax(axis=2), np.intp) if equal.size else np.zeros(north.shape, np.intp)


def radius_of(away_km: Floats, weight: Floats, share: float = 0.9) -> Floats:
    """Radii (N,), km, of the smallest circles that hold a share of the weight.

    Args:
        away_km: (N, K) distances from the circles' centres, anything where the weight is 0.
        weight: (N, K), rows sum to 1.
    """
    far = np.where(weight > 0, away_km, np.inf)
    order = np.argsort(far, axis=1, kind="stable")
    held = np.cumsum(np.take_along_axis(weight, order, axis=1), axis=1)
    first = (held >= share - 1e-9).argmax(axis=1)
    return np.asarray(np.take_along_axis(far, np.take_along_axis(order, first[:, None], axis=1), axis=1)[:, 0])


class Agree(Stage):
    """K answers -> one place, how far the answers agree, and the distinct answers as candidates, best first.

    Needs `answers` (`ANSWERS`). `score` is the self-consistency: the share of the weight within 25 km of the place.
    `probability_*km` are the same for the published radii, `radius_90_km` is the least that holds 0.9 of the weight: the
    model's own, not calibrated. With a single answer they are null, since one answer knows nothing of its own certainty, and
    `score` is the probability of the answer's characters given the reasoning before them; it ranks images, and compares with
    no self-consistency. `chosen_by` says which of the two it was: "consensus" or "single". A candidate's `score` is its share
    of the weight, its `count` its draws.
    """

    drops = ("answers",)
    adds = (
        *(field for field in LOCATED if field.name != "neighbours"),
        *(field for field in CONFIDENCE if field.name in ("radius_90_km", "chosen_by")),
    )

    def __init__(self, config: Consensus | None = None) -> None:
        self.config = config or Consensus()

    def __call__(self, table: pa.Table) -> pa.Table:
        """As every stage; a table without `neighbours` gets them, all null."""
        if "neighbours" not in table.column_names:
            field = next(field for field in LOCATED if field.name == "neighbours")
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return super().__call__(table)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs one answer at least in every row.

        Raises:
            Rejection: a row without an answer that has coordinates on Earth.
        """
        told = _columns(table["answers"])
        there = point.valid(told["latitude"], told["longitude"])
        if not there.any(axis=1).all():
            raise Rejection("failed", "not one of its replies has an answer")
        latitude, longitude = (np.where(there, told[name], np.nan) for name in ("latitude", "longitude"))
        same = first_same(latitude, longitude)
        weight = self._weights(told, there, same)
        points = np.nan_to_num(point.unit_vectors(latitude, longitude))
        best, rows = consensus(points, weight, self.config.loss), np.arange(len(table))
        within = centre.mass_within(points[rows, best], points, weight, RADII_KM)
        alone = there.sum(axis=1) == 1
        own = np.exp(np.minimum(told["logprob"][rows, best], 0.0))
        score = np.where(alone, own, within[:, RADII_KM.index(AGREE_KM)])
        within[alone] = np.nan
        values = [latitude[rows, best], longitude[rows, best], score, *within.T]
        for field, value in zip(self.adds, values, strict=False):
            table = table.append_column(field, pa.array(value, field.type, mask=~np.isfinite(value)))
        table = table.append_column("candidates", _candidates(latitude, longitude, weight, there, same))
        away = haversine_km(latitude[rows, best][:, None], longitude[rows, best][:, None], latitude, longitude)
        near = pa.array(radius_of(away, weight), pa.float32(), mask=alone)
        chosen_by = pa.array(np.where(alone, "single", "consensus"), pa.string())
        return table.append_column("radius_90_km", near).append_column("chosen_by", chosen_by)

    def _weights(self, told: dict[str, Floats], there: npt.NDArray[np.bool_], same: Positions) -> Floats:
        logs = told["logprob"] if self.config.probability == "answer" else told["sequence"]
        if self.config.probability == "token":
            logs = logs / np.maximum(told["tokens"], 1)
        weight = weights(logs, there, self.config.weight, self.config.alpha, same)
        weight[:, 0] *= np.where(told["greedy"][:, 0] == 0, 1.0, self.config.first)
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _columns(answers: pa.ChunkedArray) -> dict[str, Floats]:
    """Each field of lists of structs as (N, longest), NaN where a list has ended and for nulls."""
    lists = answers.combine_chunks() if answers.num_chunks != 1 else answers.chunk(0)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    structs, out = lists.flatten(), {}
    for field in structs.type:
        out[field.name] = np.full(inside.shape, np.nan)
        values = pc.cast(pc.struct_field(structs, field.name), pa.float64())
        out[field.name][inside] = values.to_numpy(zero_copy_only=False)
    return out


def _candidates(
    latitude: Floats, longitude: Floats, weight: Floats, there: npt.NDArray[np.bool_], same: Positions
) -> pa.ListArray:
    """The distinct answers of each row, those of most weight first."""
    rows = np.arange(len(weight))[:, None]
    mass, count = np.zeros_like(weight), np.zeros(weight.shape, np.int32)
    np.add.at(mass, (rows, same), weight)
    np.add.at(count, (rows, same), there)
    distinct = there & (same == np.arange(weight.shape[1]))
    order = np.argsort(np.where(distinct, -mass, np.inf), axis=1, kind="stable")
    kept = np.take_along_axis(distinct, order, axis=1)
    columns = [np.take_along_axis(values, order, axis=1)[kept] for values in (latitude, longitude, mass, count)]
    places, fields = len(columns[0]), list(CANDIDATES.value_type)
    values = dict(zip(("latitude", "longitude", "score", "count"), columns, strict=True))
    arrays = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.array(["reply" if field.name == "origin" else None] * places, field.type)
        for field in fields
    ]
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=CANDIDATES)
