"""The card that makes a folder an NGCG model: what was trained of what, by which settings, and what came of it.

method, base, base_fingerprint     the base, by name and by content
adapter, merged                    folders beside the card; null where there is none
encoding                           what a vector is (`geobatch.methods.ngcg.config.Encoding`)
temperature                        what cosines were divided by at the end
pairs, validation, training        how many pairs, what was found on those kept out, what the training said of itself
config, asked, name                the settings, and the two names under which nothing is trained twice
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from geobatch.methods.ngcg.train import ADAPTER, MERGED
from geobatch.pipeline.folder import CARD
from geobatch.pipeline.ngcg_model import METHOD
from geobatch.pipeline.pairs import Prepared
from geobatch.progress import say

#: Share of ln B at which a loss has learnt nothing. A collapsed training stays at 1.00 for good; one of 400 steps that worked
#: ended at 0.4.
COLLAPSED = 0.98


def card_of(about: dict[str, Any], prepared: Prepared, pairs: tuple[int, int], spent: dict[str, float]) -> dict[str, Any]:
    """A card.

    Args:
        about: what the job knows of the base, the encoding and the settings.
        pairs: how many were trained on and kept out.
        spent: what the training said of itself.
    """
    figures = {key: round(value, 6) if math.isfinite(value) else None for key, value in spent.items()}
    measured = {name.removeprefix("validation_"): value for name, value in figures.items() if name.startswith("validation_")}
    tuning, written = about["config"]["tuning"], prepared.written
    return {
        "method": METHOD,
        "adapter": None if tuning["whole"] else ADAPTER,
        "merged": MERGED if tuning["whole"] else None,
        "temperature": figures["temperature"],
        "pairs": {
            "trained": pairs[0],
            "texts": written.texts,
            "places": written.groups,
            "images": prepared.read,
            "rejected": prepared.rejected,
            "missing": prepared.missing,
        },
        "validation": {"pairs": pairs[1], **measured} if measured else {},
        "training": {name: value for name, value in figures.items() if not name.startswith("validation_")},
        **about,
    }


def write(output: Path, card: dict[str, Any]) -> None:
    """Puts the card into the model's folder."""
    (output / CARD).write_text(json.dumps(card, indent=1) + "\n")


def made(output: Path, key: str, value: str) -> dict[str, Any] | None:
    """The card of a training that has ended already, so that the same command does not begin it again."""
    path = output / CARD
    card: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    weights = card.get("adapter") or card.get("merged") or ""
    return card if card.get(key) == value and weights and (output / weights).is_dir() else None


def tell(output: Path, card: dict[str, Any]) -> None:
    """Says what came of it."""
    say(f"model {output}: {card['training']['steps']:,.0f} steps, loss {card['training']['loss']}")
    over = card["training"].get("loss_over_chance") or 0.0
    if over > COLLAPSED:
        say(
            f"warning: the loss ended at {100 * over:.0f} % of ln {card['config']['tuning']['batch']}, a model that tells "
            "nothing apart has that; train longer, or with a lower --tuning.learning-rate and a longer --tuning.warm-up"
        )
    figures = {name: value for name, value in card["validation"].items() if name != "pairs"}
    if figures:
        said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in figures.items() if value is not None)
        say(f"on {card['validation']['pairs']:,} pairs kept out, at step {card['training']['saved_step']:,.0f}: {said}")
