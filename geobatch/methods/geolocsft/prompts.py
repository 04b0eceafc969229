"""What the student and the teacher are told, and the chat it is told in (GeoLocSFT, section 3; the words are our own).

Everything fixed lies in the system text, which chat templates put before the image: engines with prefix caching compute it once
for all images. What differs between images (hints, the teacher's truth) follows the image.

The truth reaches the teacher's question and nothing else: `student` takes no coordinates. The teacher is told to reason as if
it had only the picture; whether it did is for `leaks` to say.

The answer forms are `geobatch.methods.geolocsft.forms`; its names are here, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geobatch.methods.geolocsft.forms import (
    GEO_CAPTION,
    IMAGE_ID,
    REASONED_TAG_PATTERN,
    TAG_PATTERN,
    Form,
    caption_text,
    degrees,
    leaks,
    tag,
)

__all__ = [
    "GEO_CAPTION",
    "IMAGE_ID",
    "REASONED_TAG_PATTERN",
    "TAG_PATTERN",
    "Form",
    "Prompt",
    "caption_text",
    "leaks",
    "messages",
    "student",
    "tag",
    "teacher",
]


@dataclass(frozen=True)
class Prompt:
    """The fixed instructions, which stand before the image, and the short text after it."""

    system: str
    question: str


_LOOK = (
    "You are a geographer who finds out where a photograph was taken from what can be seen in it.\n"
    "Work from the large to the small, and name what you see before what it means:\n"
    "1. Within 25 km: terrain, climate, how the region is developed.\n"
    "2. Within 1 km: road engineering (surface, line markings, guardrails, lighting, drainage) and vegetation (trees, herbs, "
    "how they are kept); then buildings, signs and scripts, vehicles and traffic, ground and soil.\n"
    "3. Elimination: name at least two regions that look alike, and for each three visible signs that speak against it.\n"
    "4. Only then the place: the single most likely point, never a country's middle when signs narrow it down, and never none: "
    "when signs are few, still give your best point and say how uncertain it is.\n"
    "Where the picture does not show something, say so in a few words; invent nothing."
)

_TAGGED = (
    "Write this as a short outline under those headings, without the character '<'. Then end with the answer in exactly this "
    "form, decimal degrees with five decimals, south and west negative, and nothing after it:\n"
    "<answer>\nlat: LATITUDE\nlon: LONGITUDE\n</answer>"
)

_JSON_ONLY = (
    "Write one JSON object and nothing else, with exactly these fields in this order; each value below says what belongs "
    "there. Coordinates are numbers in decimal degrees with five decimals, south and west negative.\n"
)

_TEACH = (
    "You write worked examples for students of this craft. With each photograph you are told where it was taken. The truth is "
    "for you alone: it keeps you from arguing towards a wrong place.\n"
    "- Reason as if you had only the picture. Every statement must rest on something a student can see in it.\n"
    "- Never say or hint that coordinates or a location were given, known or checked, and never write a coordinate anywhere "
    "but in answer.coordinates; nor anything the image's name tells.\n"
    "- The regions you eliminate must be ones a good student could take the picture for.\n"
    "- answer.coordinates repeats the coordinates you were told, to the last decimal; accuracy_assessment says how precisely "
    "the visible signs alone would place it.\n"
)


def student(form: Form, hints: Sequence[str] = ()) -> Prompt:
    """What the model that locates is told.

    Args:
        form: how it shall answer.
        hints: places that similar pictures were taken at, one line each, in the question since they differ by image.
    """
    ending = _TAGGED if form == "tag" else f'{_JSON_ONLY}"image_id" is always "{IMAGE_ID}".\n{_skeleton()}'
    question = "Where was this photograph taken?"
    if hints:
        lines = "\n".join(f"- {' '.join(hint.split())}" for hint in hints)
        known = (
            "Similar pictures were taken at these places; use them only as far as this picture agrees, they may all be wrong:"
        )
        question = f"{known}\n{lines}\n{question}"
    return Prompt(f"{_LOOK}\n\n{ending}", question)


def teacher(latitude: float, longitude: float, image_id: str) -> Prompt:
    """What the model that writes geo-captions is told: the student's craft, and the truth in the question.

    Raises:
        ValueError: coordinates out of range.
    """
    lat, lon = degrees(latitude, longitude)
    named = json.dumps(image_id, ensure_ascii=False)
    question = f"image_id: {named}\nTaken at latitude {lat}, longitude {lon}.\nWrite its geo-caption."
    return Prompt(f"{_LOOK}\n\n{_TEACH}\n{_JSON_ONLY}{_skeleton()}", question)


def messages(prompt: Prompt, answer: str | None = None) -> list[dict[str, Any]]:
    """The chat: system, user with the image before the question, and the assistant's answer where one is given."""
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.question}]},
    ]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


def _skeleton() -> str:
    return json.dumps(_described(GEO_CAPTION), indent=1, ensure_ascii=False)


def _described(schema: dict[str, Any]) -> Any:
    """The schema as an example of itself: each value is its description."""
    if schema["type"] == "object":
        return {name: _described(inner) for name, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [_described(schema["items"])] * schema["minItems"]
    return schema["description"]
