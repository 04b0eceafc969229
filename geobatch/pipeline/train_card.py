"""The card of a GeoToken model: which images its network was not trained on, and what it does on them.

split          validation, seed and batch, by which images were kept out, and of how many; the reward model keeps to it
validation     figures of the network on the images kept out
calibration    figures of the calibration that was fitted to them
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from geobatch.errors import UserError
from geobatch.geo import s2
from geobatch.methods.geotoken.calibrate import LEAST, learn
from geobatch.methods.geotoken.calibration import Calibration
from geobatch.methods.geotoken.held import evaluate
from geobatch.methods.geotoken.locate import ENCODER, NETWORK
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import REWARD
from geobatch.pipeline.folder import CARD
from geobatch.pipeline.trainees import part
from geobatch.progress import say
from geobatch.train.split import LEVEL

#: Images kept out that the card's figures are of, at most: a share among 4,096 is known to 1.6 points.
MEASURED = 4096

#: Places that images kept out must be of, at least, for a calibration: what holds for one camera's says nothing of the Earth.
PLACES = 20


def read(output: Path) -> dict[str, Any]:
    """The card of the model at `output`, empty where there is none."""
    found: dict[str, Any] = json.loads((output / CARD).read_text()) if (output / CARD).is_file() else {}
    return found


def write(output: Path, card: dict[str, Any]) -> None:
    """Writes it."""
    (output / CARD).write_text(json.dumps(card, indent=1) + "\n")


def ours(output: Path, encoder: str) -> bool:
    """Whether nothing of anybody else's lies where the model's parts go.

    Args:
        encoder: folder of the encoder, as the user named it; a copy of it would replace itself.
    """
    if found := read(output):
        return bool(found.get("method") == "geotoken")
    if (output / NETWORK / "config.json").is_file():  # its driver died before the card
        return True
    there = [output / name for name in (NETWORK, ENCODER, REWARD) if (output / name).exists()]
    return all(each.resolve() == Path(encoder.removeprefix("file://")).resolve() for each in there)


def kept_to(card: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The split that the network was trained with, for its reward model; `asked` where its card is older than that.

    Raises:
        UserError: there is no such network, or another share of images is asked for.
    """
    if not card:
        raise UserError("--output holds no model whose reward model could be trained; train one with --reward also")
    found: dict[str, Any] = card.get("split", {})
    if not found:
        say("the model does not say which images its network was not trained on: those kept out now may be among them")
        return asked
    if found["validation"] != asked["validation"]:
        raise UserError(
            f"the network kept {found['validation']:g} of its images out and its reward model is measured on the same; give "
            f"--validation {found['validation']:g}"
        )
    return found


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures as a card has them."""
    return {key: round(value, 5) for key, value in figures.items()}


def measured(output: Path, arrays: Path, held: int, card: dict[str, Any]) -> None:
    """Adds to the card what it does not have: figures and calibration, each written when it is there."""
    if "validation" not in card:
        card["validation"] = _figures(output / NETWORK, arrays) if held else {}
        write(output, card)
    if "calibration" not in card:
        fitted = Calibration.load(output)
        card["calibration"] = _calibrated(output, arrays, held) if fitted is None else rounded(fitted.figures)
        write(output, card)


def _figures(network: Path, arrays: Path) -> dict[str, float]:
    held = part(arrays, "held")
    held = held.some(np.linspace(0, len(held) - 1, min(MEASURED, len(held))).astype(np.int64))
    found = evaluate(GeoTokenModel.load(network), held)
    say(f"on {len(held):,} training images kept out greedy is within 25 km for {100 * found['greedy_25km']:.1f} %, "
        f"within 200 km for {100 * found['greedy_200km']:.1f} %")  # fmt: skip
    return {"images": len(held), **rounded(found)}


def _calibrated(output: Path, arrays: Path, held: int) -> dict[str, float]:
    """Fits the model's calibration on images kept out of its training; returns the fit's figures, none of too few images."""
    if held < LEAST:
        say(f"{held:,} images kept out are too few to calibrate on, {LEAST} are needed; geotoken_calibrate.py does it later")
        return {}
    images = part(arrays, "held")
    places = len(np.unique(s2.cell_ids(*images.places(), LEVEL)))
    if places < PLACES:
        say(f"images kept out of {places} places do not calibrate, {PLACES} are needed; geotoken_calibrate.py does it later")
        return {}
    fitted = learn(output / NETWORK, images)
    fitted.save(output)
    near, far = (100 * fitted.figures[f"error_{km}km"] for km in (25, 200))
    say(f"calibrated on {fitted.images:,} of them: what it states is off by {near:.1f} % at 25 km, {far:.1f} % at 200 km")
    return rounded(fitted.figures)
