"""Whether stated probabilities are true, by radius: calibration in a sentence.

The numbers are `metrics.calibration`'s; what is shown is how far the mean that is stated lies from the share that is true, and
whether knowing an image's probability says more than knowing the share of all: surely, where the paired interval of the losses'
difference leaves zero out. A side is named where the mean stated differs from the share by half the calibration error at least.
"""

from __future__ import annotations

from geobatch.benchmark.analyses.case import Case, Finding
from geobatch.benchmark.metrics import Calibration


def analyse(case: Case) -> Finding | str:
    """See above."""
    if not case.calibration:
        return "the table states no probabilities"
    rows = [
        {
            "radius_km": one.km,
            "images": one.images,
            "stated": one.stated,
            "true": one.true,
            "calibration_error": one.error,
            "brier": one.brier,
            "log_loss": one.log_loss,
            "log_loss_of_a_constant": one.constant_loss,
            "gain_nats": one.gain.value,
            "gain_low": one.gain.low,
            "gain_high": one.gain.high,
        }
        for one in case.calibration
    ]
    worst = max(case.calibration, key=lambda one: one.error)
    better = [one.km for one in case.calibration if one.gain.low > 0]
    figures = {"worst_radius_km": worst.km, "worst_error": worst.error, "radii_better_than_a_constant": better}
    sentence = (
        f"Stated probabilities are farthest from the truth at {worst.km:g} km, where {100 * worst.stated:.1f} % is stated and "
        f"{100 * worst.true:.1f} % true ({_side(worst)}; expected calibration error {100 * worst.error:.1f} points), and "
        f"surely say more of an image than the best constant does at {len(better)} of {len(rows)} radii."
    )
    return Finding(name="doubt", title="Calibration", sentence=sentence, figures=figures, rows=rows)


def _side(one: Calibration) -> str:
    if one.error < 0.0005:
        return "as stated"
    if abs(one.stated - one.true) < one.error / 2:
        return "off in both directions"
    return "too sure" if one.stated > one.true else "too timid"
