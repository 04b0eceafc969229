"""What the judge is told, the form of its reply, and what a reply says (GeoToken, section 3; the words are our own).

Two questions are published. "choose": which number of the pool; "free": where, with the pool as hints that may all be wrong.
What is the same for all images lies in the system text, before the picture, where engines compute it once; the pool follows
the picture. Replies are JSON, held to a schema token by token: the numbers of the very pool, or degrees within their range.

A service that ignores the schema is understood all the same: JSON amid prose, a number alone, and coordinates, which repeat a
listed place if they are within 2 m of it (five decimals are 1.1 m). The released code reads with a pattern that drops the
sign of integers and takes (0, 0) for a reply it cannot read; here such a reply is a `Rejection` with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from geobatch.engine.answer import Answer, parse, without_thinking
from geobatch.engine.lenient import Node, documents
from geobatch.engine.request import Reply, Sample
from geobatch.errors import Rejection
from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.options import Option

Mode = Literal["choose", "free"]

#: Coordinates this near to a listed place, in km, repeat it.
REPEATED_KM = 0.002

_CRAFT = (
    "You are a geographer who judges where a photograph was taken. A localisation model has looked at it before you and its "
    "guesses are listed after the picture, as latitude and longitude in decimal degrees, the likeliest first; south and west "
    "are negative.\n"
    "For each guess, recall what is there: country, town or landscape, climate and vegetation, how roads and buildings look, "
    "which scripts and languages signs have, on which side people drive. Hold that against what the picture shows. Signs, "
    "scripts, number plates, landmarks and plants decide; mood and light do not.\n"
)
_ENDINGS: dict[Mode, str] = {
    "choose": (
        "Choose the one guess that is nearest to where the picture was taken. If none fits well choose the one that fits least "
        'badly; you cannot abstain. Reply with JSON and nothing else: {"choice": NUMBER}'
    ),
    "free": (
        "Then say where the picture was taken. Take a guess as it stands if it fits, correct it if you can tell the place more "
        "precisely, and leave all of them if the picture speaks for another place. Always give your best point. Reply with "
        'JSON and nothing else, five decimals: {"latitude": DEGREES, "longitude": DEGREES}'
    ),
}
_QUESTIONS: dict[Mode, str] = {
    "choose": "Which of these {count} was this photograph taken nearest to?",
    "free": "Where was this photograph taken?",
}


def messages(mode: Mode, pool: Sequence[Option], draws: int = 0) -> list[dict[str, Any]]:
    """The chat about one picture: system, then user with the picture, the numbered pool and the question.

    Args:
        draws: of the model in all; above 0, each line says how many of them it stands for and how like the image of a
            neighbour is.
    """
    lines = "\n".join(f"{number}. {_told(option, draws)}" for number, option in enumerate(pool, 1))
    question = f"The guesses:\n{lines}\n{_QUESTIONS[mode].format(count=len(pool))}"
    return [
        {"role": "system", "content": [{"type": "text", "text": _CRAFT + _ENDINGS[mode]}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
    ]


def schema(mode: Mode, size: int) -> str:
    """The JSON schema that a reply is held to, of a pool of so many places, as text."""
    if mode == "choose":
        return _object(choice={"type": "integer", "enum": list(range(1, size + 1))})
    return _object(
        latitude={"type": "number", "minimum": -90, "maximum": 90},
        longitude={"type": "number", "minimum": -180, "maximum": 180},
    )


def verdict(mode: Mode, reply: Reply, pool: Sequence[Option]) -> Option | Rejection:
    """The place that a reply decides for, one of the pool itself wherever it repeats one; or why it decides nothing."""
    if reply.fault is not None:
        return reply.fault
    if not reply.samples:
        return Rejection("unparsed", "no reply at all")
    try:
        return _read(mode, reply.samples[0], pool)
    except Exception as error:  # noqa: BLE001  raised, it would have the whole slice asked again
        return Rejection("failed", f"reading the judge's reply: {type(error).__name__}: {error}")


def _read(mode: Mode, sample: Sample, pool: Sequence[Option]) -> Option | Rejection:
    finished = sample.finish != "length"
    if mode == "choose":
        chosen = _choice(without_thinking(sample.text)[0], finished, len(pool))
        if chosen is not None:
            return chosen if isinstance(chosen, Rejection) else pool[chosen - 1]
    found = parse(sample.text, finished)
    if not isinstance(found, Answer):
        return Rejection(found.reason, found.detail)
    far = haversine_km(found.latitude, found.longitude, [each.latitude for each in pool], [each.longitude for each in pool])
    if far.size and far.min() <= REPEATED_KM:
        return pool[int(np.argmin(far))]
    if mode == "choose":
        return Rejection("unparsed", f"{found.latitude}, {found.longitude} is none of the {len(pool)} places")
    return Option(found.latitude, found.longitude)


def _choice(said: str, finished: bool, size: int) -> int | Rejection | None:
    """The number that a reply names; None: it names none."""
    named = [node.value["choice"] for node in documents(said) if isinstance(node.value, dict) and "choice" in node.value]
    number = _integer(named[-1]) if named else None
    if named and not named[-1].whole:
        return Rejection("cut_off", "the reply ends within its choice")
    if number is None and (bare := re.fullmatch(r"\W*?([+-]?\d{1,9})\W*", said)):
        if not finished:
            return Rejection("cut_off", "the reply ends within its choice")
        number = int(bare[1])
    if number is not None and not 1 <= number <= size:
        return Rejection("out_of_range", f"number {number} of {size}")
    return number


def _integer(node: Node) -> int | None:
    value = node.value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,9}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _told(option: Option, draws: int) -> str:
    where = f"{_degrees(option.latitude)}, {_degrees(option.longitude)}"
    why = []
    if draws and option.draws:
        why.append(f"{option.draws} of the model's {draws} guesses")
    if draws and option.similarity is not None:
        why.append(f"a similar photograph was taken there, cosine {option.similarity:.2f}")
    return f"{where} ({'; '.join(why)})" if why else where


def _degrees(value: float) -> str:
    return f"{round(value, 5) + 0.0:.5f}"


def _object(**properties: Any) -> str:
    whole = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return json.dumps(whole)
