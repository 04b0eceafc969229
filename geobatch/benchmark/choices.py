"""What ways to choose a place are called wherever they are printed, written or looked up.

A row of a table offers several: the place it chose, the first neighbour, the likeliest draw, and, for one who knows the truth,
the nearest of all draws.
"""

from __future__ import annotations

CHOSEN = "chosen"
NEIGHBOUR = "nearest neighbour"
BETWEEN = "place between neighbours"
SCORE = "log-probability"
ORACLE = "oracle of the samples"
POOL = "oracle of the pool"

#: In the order in which they are told; others follow.
ORDER = (CHOSEN, NEIGHBOUR, BETWEEN, SCORE, ORACLE, POOL)
