"""Every number of GeoCLIP that is a choice.

The network's own sizes are not among them: they are read off the shapes of the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geobatch.errors import UserError

Chooser = Literal["similarity", "expected_distance", "expected_share"]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How a picture's vector becomes a place."""

    choose: Chooser = "similarity"
    """The most similar place (paper), or, of the likeliest `pool`, the one with the least expected distance to them, or with
    the most of their probability within the published radii."""
    candidates: int = 10
    """Likeliest places that are written to the table."""
    pool: int = 256
    """Likeliest places that expected losses are taken over; "similarity" does not read it."""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.pool < 1:
            raise UserError(f"{self.candidates} candidates of a pool of {self.pool} are no choice; give at least 1 of both")
