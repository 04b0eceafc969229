"""What an hour of a machine costs: a small table to begin with, which `--prices FILE` completes or overrides.

The table is of Amazon's us-west-2 (Linux, USD, without tax), where us-east-1 costs the same: the types of `cluster.yaml` and
their neighbours, on demand. Spot prices change by the hour and the zone, so none stands here: spot is counted at
`SPOT_SHARE` of on-demand, above the 0.2 to 0.4 that is common, since a budget that ends a run too early is
cheaper than one that ends it too late.

A file is JSON:

    {"hours": {"g6.2xlarge": 0.9776, "g6.2xlarge spot": 0.31, "gpu_l4": 0.31, "this machine": 0.05},
     "spot_share": 0.4, "date": "2026-11-20", "source": "our invoice"}

Names are instance types, with " spot" behind those of spot nodes; names of node types of `cluster.yaml` or worker groups of
Kubernetes; "this machine" for a run without a cluster. What the file names goes before what the table names.

Not covered: disks, requests, traffic, other currencies, and the minutes for which nodes idle after the run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from geobatch.errors import GeobatchError, UserError
from geobatch.store import Store

DATE, SOURCE = "", "Amazon EC2 on demand, Linux, us-west-2, typed in by hand: hold it against your bill"

#: USD an hour on demand.
HOURS = {
    "m6i.large": 0.096,
    "m6i.xlarge": 0.192,
    "m6i.2xlarge": 0.384,
    "m6i.4xlarge": 0.768,
    "m6i.8xlarge": 1.536,
    "m6a.4xlarge": 0.6912,
    "m7i.xlarge": 0.2016,
    "m7i.2xlarge": 0.4032,
    "m7i.4xlarge": 0.8064,
    "c6i.4xlarge": 0.68,
    "c6i.8xlarge": 1.36,
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g5.4xlarge": 1.624,
    "g5.12xlarge": 5.672,
    "g5.48xlarge": 16.288,
    "g6.xlarge": 0.8048,
    "g6.2xlarge": 0.9776,
    "g6.4xlarge": 1.3232,
    "g6.12xlarge": 4.6016,
    "g6.48xlarge": 13.3504,
    "g6e.xlarge": 1.861,
    "g6e.2xlarge": 2.24208,
    "g6e.4xlarge": 3.00424,
    "g6e.12xlarge": 10.49264,
    "g6e.48xlarge": 30.13118,
}

#: What a spot node is counted at, of the price on demand.
SPOT_SHARE = 0.45

SPOT = " spot"

HERE = "this machine"


@dataclass(frozen=True)
class Prices:
    """USD an hour by kind of machine.

    Fields:
        hours: the table.
        own: what the user's file says; goes first.
        spot_share: of the price on demand, where a spot price is not named.
        date: as of when; empty where nobody says.
        source: whose they are.
    """

    hours: dict[str, float] = field(default_factory=lambda: dict(HOURS))
    own: dict[str, float] = field(default_factory=dict)
    spot_share: float = SPOT_SHARE
    date: str = DATE
    source: str = SOURCE

    def of(self, kind: str) -> float | None:
        """USD an hour; None: nobody has named its price."""
        for table in (self.own, self.hours):
            if kind in table:
                return table[kind]
            if kind.endswith(SPOT) and (on_demand := table.get(kind.removesuffix(SPOT))) is not None:
                return on_demand * self.spot_share
        return None

    def kind(self, names: tuple[str, ...]) -> str:
        """Which of a machine's names the account goes by: the first in the user's file, in the table, or at all."""
        own = [name for name in names if Prices(hours={}, own=self.own).of(name) is not None]
        return next(iter((*own, *(name for name in names if self.of(name) is not None), *names)))


def dated(date: str) -> str:
    """Of when prices are, in words."""
    return f"prices of {date}" if date else "prices without a date"


def load(store: Store, file: str | None) -> Prices:
    """The table, and over it what a file says.

    Raises:
        UserError: the file is not there, or not as the top of this module says.
    """
    if file is None:
        return Prices()
    try:
        told = json.loads(store.get(file))
    except UserError:
        raise
    except (GeobatchError, OSError, ValueError) as error:
        raise UserError(f"--prices {file} cannot be read as JSON ({_line(error)}); mend it") from error
    if not isinstance(told, dict) or not isinstance(told.get("hours"), dict):
        raise UserError(f'--prices {file} has no "hours"; write {{"hours": {{"g6.2xlarge": 0.98}}}}')
    if unknown := sorted(told.keys() - {"hours", "spot_share", "date", "source"}):
        raise UserError(f"--prices {file} holds {unknown[0]!r}; there are hours, spot_share, date and source")
    numbers = {**told["hours"], "spot_share": told.get("spot_share", SPOT_SHARE)}
    if wrong := [name for name, value in numbers.items() if not _price(value)]:
        raise UserError(f"--prices {file}: {wrong[0]!r} is {numbers[wrong[0]]!r}; give a number of USD, at least 0")
    return Prices(
        own={name: float(value) for name, value in told["hours"].items()},
        spot_share=float(numbers["spot_share"]),
        date=str(told.get("date", "")),
        source=str(told.get("source", file)),
    )


def _price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
