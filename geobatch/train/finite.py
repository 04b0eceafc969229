"""Whether a step may be taken: one whose loss or gradient is no number would make every weight NaN, and every later loss."""

from __future__ import annotations

import math

from geobatch.errors import UserError


def refuse_divergence(step: int, loss: float, norm: float, remedy: str) -> None:
    """Raises UserError where a step's loss or the norm of its gradient is not finite; comes before the optimiser's step.

    Args:
        step: counted from 0.
        norm: of the gradient that all workers share, so that all of them refuse the same steps.
        remedy: what the user can do.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(f"the loss of step {step + 1} is {loss}, its gradient {norm}; {remedy}")
