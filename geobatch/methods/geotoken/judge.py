"""A multimodal LLM looks at the picture and decides between the places that the model proposes (GeoToken, section 3).

Two published modes: "choose" takes one number of the pool, "free" answers with coordinates and has the pool as hints. What
the judge decides replaces the selector's place; the probabilities and the radius are then those of the same posterior about
the new place. The area that holds 90 % of the posterior stays: it hangs on no place. A judge that moves the place leaves
`score` null, as no selector scored it, and keeps it where it agrees, so that a table tells both apart (`judge_record`).

A reply that decides nothing (none in time, refused, cut off, a number that is not in the pool) leaves the selector's place,
whose name stays in `chosen_by`, with "judge: REASON" in `fallback`. The released code makes such a reply the place (0, 0). An
engine that dies is started again by `geobatch.engine.generator` and, if it cannot be, raised.

Judging costs a prefill of some 300 tokens of picture and 900 of text an image, a thousand times what the network before it
costs, so `below` sends only images on whose place the model itself is unsure. Replies are greedy: the same row gives the same
verdict. A pool of one place is not worth asking about in mode "choose" and passes.

Not covered: a judge that sees more of the picture than the encoder was given (`--decode.side` is for both), and one that is
asked several times.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geobatch.engine.generator import Generator
from geobatch.engine.opening import desk
from geobatch.engine.pixels import pictures_of
from geobatch.engine.remote import Endpoint
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sampling, engines_fault
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.geo import distance, point
from geobatch.methods.geotoken.calibration import MASS, Calibration
from geobatch.methods.geotoken.config import Selection
from geobatch.methods.geotoken.judge_prompts import Mode, messages, schema, verdict
from geobatch.methods.geotoken.judge_record import JUDGE
from geobatch.methods.geotoken.options import Option, options
from geobatch.methods.geotoken.pool import pool
from geobatch.methods.geotoken.select import drawn, posterior_of
from geobatch.schema import RADII_KM, probability_column
from geobatch.stage import Stage

#: Images of one slice that all fail by no fault of their own, before the engine or the service is held to be at fault.
SICK = 8


Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """A multimodal LLM that looks at the picture and decides between the proposed places."""

    model: str = ""
    """Folder, s3:// prefix or hub name of the vision-language model that judges; empty: nobody does."""
    endpoint: Endpoint = field(default_factory=Endpoint)
    """A service outside the cluster that judges instead; off unless named, its key comes from the variable OPENAI_API_KEY."""
    mode: Mode = "choose"
    """Whether it takes one of the numbered places, or answers freely with them as hints."""
    below: float = 1.0
    """Only images whose own probability within 200 km is below this go to the judge; 1: all."""
    candidates: int = 30
    """Candidates that it is told at most, likeliest first."""
    neighbours: int = 5
    """Nearest neighbours whose places it is told, too."""
    merge_km: float = 1.0
    """Places this near to each other, in km, are told as one."""
    evidence: bool = False
    """Whether it is told how many draws stand for a place and how like a neighbour's image is (the paper's is not)."""
    tokens: int = 64
    """Tokens a reply may take before it is cut off."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """How the folder's model is served."""
    engines: int = 1
    """Copies of it at most, each on GPUs of its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.below <= 1:
            raise UserError(f"judge.below is a probability, not {self.below}; give a number from 0 to 1")
        if self.candidates < 1 or self.neighbours < 0 or self.tokens < 1 or self.merge_km < 0 or self.engines < 1:
            raise UserError("a judge needs 1 candidate, 1 token and 1 engine at least, and no negative number of anything")

    @property
    def asked(self) -> bool:
        """Whether there is a judge."""
        return bool(self.model or self.endpoint.url)

    def decides(self) -> dict[str, Any]:
        """Of settings and prompts, what decides a row; the model's weights are the caller's to fingerprint."""
        if not self.asked:
            return {}
        serving = ("endpoint", "generator", "engines", "model")
        told = {name: value for name, value in asdict(self).items() if name not in serving}
        sample = [Option(0.0, 0.0, 1, 1.0)]
        return {
            **told,
            "prompt": messages(self.mode, sample, int(self.evidence)),
            "schema": schema(self.mode, 1),
            "dtype": self.generator.dtype,
            "context": self.generator.context,
            "endpoint": self.endpoint.model,
        }


class Judge(Stage):
    """Has the images that the model is unsure of judged; drops the picture.

    Args:
        settings: see `JudgeSettings`; `model` is a local folder by now.
        selection: by which `Select` chose.
        calibration: the located model's, or its folder; None: it has none.
        generator: the judge's model, if it is open already.

    Raises:
        UserError: the model cannot be served here.
        MachineError: it does not start.
    """

    drops = ("picture", "picture_width", "picture_height")

    def __init__(
        self,
        settings: JudgeSettings,
        selection: Selection | None = None,
        calibration: Calibration | str | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.settings, self.selection = settings, selection or Selection()
        found = Calibration.load(Path(calibration)) if isinstance(calibration, str) else calibration
        self.calibration = found if self.selection.calibrated else None
        self.generator = generator or desk(settings.model, settings.endpoint, settings.generator)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns and all that `Select` adds.

        Raises:
            MachineError: the engine could not be brought back, or fails at every one of many images.
            UserError: the endpoint refuses every one of many pictures.
        """
        rows, pools = self._unsure(table)
        if not rows:
            return table
        verdicts = self._verdicts(table.take(rows), pools)
        return self._decided(table, dict(zip(rows, verdicts, strict=True)), dict(zip(rows, pools, strict=True)))

    def close(self) -> None:
        """Stops the model."""
        self.generator.close()

    def _unsure(self, table: pa.Table) -> tuple[list[int], list[list[Option]]]:
        """The rows that go to the judge, and the numbered pool of each."""
        told = self.settings
        sure = table[probability_column(200)].to_numpy().astype(np.float64)
        # The column is float32: a probability of 0.9 must not be below 0.9 by its rounding.
        rows = np.flatnonzero((told.below >= 1) | np.isnan(sure) | (sure < np.float32(told.below))).tolist()
        some = table.select(["latitude", "longitude", "candidates", "neighbours"]).take(pa.array(rows, pa.int64()))
        pools = [
            options(
                (row["latitude"], row["longitude"]),
                row["candidates"] or [],
                (row["neighbours"] or [])[: told.neighbours],
                told.merge_km,
                told.candidates,
            )
            for row in some.to_pylist()
        ]
        worth = [at for at, listed in enumerate(pools) if told.mode == "free" or len(listed) > 1]
        return [rows[at] for at in worth], [pools[at] for at in worth]

    def _verdicts(self, table: pa.Table, pools: list[list[Option]]) -> list[Option | Rejection]:
        mode = self.settings.mode
        draws = [0] * len(table)
        if self.settings.evidence:
            draws = [sum(each["count"] or 0 for each in row or []) for row in table["candidates"].to_pylist()]
        asked = [
            Request(name, messages(mode, listed, count), picture)
            for name, listed, count, picture in zip(
                table["image_id"].to_pylist(), pools, draws, pictures_of(table), strict=True
            )
        ]
        found = [verdict(mode, reply, listed) for reply, listed in zip(self._replies(asked, pools), pools, strict=True)]
        self._sound(found)
        return found

    def _replies(self, asked: list[Request], pools: list[list[Option]]) -> list[Reply]:
        """The replies in order. A schema belongs to all of what is asked at once, so each size of pool is asked by itself."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row, listed in enumerate(pools):
            groups[len(listed) if self.settings.mode == "choose" else 0].append(row)

        def ask(size: int) -> list[Reply]:
            sampling = Sampling(max_tokens=self.settings.tokens, schema=schema(self.settings.mode, size))
            return self.generator.ask([asked[row] for row in groups[size]], sampling)

        with ThreadPoolExecutor(len(groups), thread_name_prefix="judge") as hands:
            answered = dict(zip(groups, hands.map(ask, groups), strict=True))
        found = {row: reply for size, rows in groups.items() for row, reply in zip(rows, answered[size], strict=True)}
        return [found[row] for row in range(len(asked))]

    def _sound(self, found: list[Option | Rejection]) -> None:
        """Raises if everything fails and nothing of it is the images' fault."""
        fault = engines_fault([each if isinstance(each, Rejection) else None for each in found])
        if fault is None or len(found) < SICK:  # of two unsure images in a slice both may really be the ones that fail
            return
        if self.settings.endpoint.url and fault.reason == "failed":
            raise UserError(
                f"{self.settings.endpoint.url} refuses all of {len(found)} pictures ({fault.detail}); check that the "
                "endpoint's model takes pictures and JSON schemas"
            )
        raise MachineError(f"the judge's engine fails at every one of {len(found)} images: {fault.detail}")

    def _decided(self, table: pa.Table, verdicts: dict[int, Option | Rejection], pools: dict[int, list[Option]]) -> pa.Table:
        """The table with what the judge decided. Rows whose place it did not move keep every bit but the mark."""
        judges = {row: each for row, each in verdicts.items() if isinstance(each, Option)}
        moved = {row: each for row, each in judges.items() if each is not pools[row][0]}
        fallback, chosen_by, score = (table[name].to_pylist() for name in ("fallback", "chosen_by", "score"))
        for row, each in verdicts.items():
            if isinstance(each, Rejection):
                fallback[row] = f"{JUDGE}: {each.reason}" + (f"; {fallback[row]}" if fallback[row] else "")
            else:
                fallback[row], chosen_by[row] = None, JUDGE
                score[row] = None if row in moved else score[row]
        values: dict[str, Any] = {"fallback": fallback, "chosen_by": chosen_by, "score": score}
        if moved:
            values |= _moved(table, moved, self.selection, self.calibration)
        for name, told in values.items():
            field = table.schema.field(name)
            table = table.set_column(table.column_names.index(name), field, pa.array(told, field.type))
        return table


def _moved(table: pa.Table, moved: dict[int, Option], selection: Selection, calibration: Calibration | None) -> dict[str, Any]:
    """The columns that hang on the place, with the moved places in them."""
    rows = sorted(moved)
    latitude, longitude = (np.array([getattr(moved[row], name) for row in rows]) for name in ("latitude", "longitude"))
    places = point.unit_vectors(latitude, longitude)
    values = {"latitude": latitude, "longitude": longitude, **_stated(table.take(rows), places, selection, calibration)}
    out: dict[str, Any] = {}
    for name, told in values.items():
        whole = table[name].to_numpy().copy()  # nulls become NaN, and null again below
        whole[rows] = told
        out[name] = pa.array(whole, table.schema.field(name).type, from_pandas=True)
    return out


def _stated(table: pa.Table, places: Array, selection: Selection, calibration: Calibration | None) -> dict[str, Array]:
    """What the posterior that `Select` chose by says of other places: the mass within the radii, and the 90 % radius."""
    evidence = pool(table, calibration.neighbours if calibration else selection.neighbours)
    posterior = posterior_of(evidence, selection, calibration) if calibration else drawn(evidence)
    within = posterior.within(places[:, None], RADII_KM)[:, 0]
    radius = posterior.radius(places, MASS)
    if calibration:
        within, radius = calibration.probabilities(within), radius * calibration.radius
    stated = {probability_column(km): values for km, values in zip(RADII_KM, within.T, strict=True)}
    return {**stated, "radius_90_km": np.minimum(radius, np.pi * distance.EARTH_RADIUS_KM)}
