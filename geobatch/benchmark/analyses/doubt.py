"""Whether stated probabilities are true, by radius: calibration in a sentence.

The numbers are `metrics.calibration`'s; what is shown is how far the mean that is stated lies from the share that is true, and
whether knowing an image's probability says more than knowing the share of all.
"""

from __future__ import annotations

from geobatch.benchmark.analyses.case import Case, Finding


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
        }
        for one in case.calibration
    ]
    worst = max(case.calibration, key=lambda one: one.error)
    better = [one.km for one in case.calibration if one.log_loss < one.constant_loss]
    side = "too sure" if worst.stated > worst.true else "too timid"
    figures = {"worst_radius_km": worst.km, "worst_error": worst.error, "radii_better_than_a_constant": better}
    sentence = (
        f"Stated probabilities are farthest from the truth at {worst.km:g} km, where {100 * worst.stated:.1f} % is stated and "
        f"{100 * worst.true:.1f} % true ({side}; expected calibration error {100 * worst.error:.1f} points), and say more "
        f"of an "
        f"image than the best constant does at {len(better)} "
        f"of {len(rows)} radii."
    )
    return Finding(name="doubt", title="Calibration", sentence=sentence, figures=figures, rows=rows)
