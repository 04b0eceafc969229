"""A photograph is put into the words that a tile of the same place would be found by.

A tile is seen from above, a photograph from the street: the encoder was trained on texts about tiles, so a vision-language
model is asked for what both show (land use, roads, buildings, water, vegetation), in the order and brevity of CVG-Text's
captions. It is told to leave out what passes (people, weather, cars), and place names that no sign shows: a guessed name would
search for the guess. What it wrote is searched for, and stands in the table as `text`.

The reply is taken as it is, without a thought that was written out, its blanks joined. What is no description is asked for
again, warmer, as often as `Describing.attempts` says, and then rejected: a reply that only refuses ("refused"), none at all
("unparsed"), one that was cut off before its first sentence ended ("cut_off"). Of one cut off later the whole sentences
count, since the encoder reads 300 tokens of it anyway.

Not covered: whether the description is true. A model that invents a river searches for a river.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.pixels import pictures_of
from geobatch.engine.request import GeneratorConfig, Request, Sample, Sampling, engines_fault, hotter
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.schema import SAID
from geobatch.stage import Stage, rejected

_SYSTEM = (
    "You describe photographs for a search among pictures of the ground taken from straight above. Write what of the scene "
    "would also be seen from there, and where it lies to each other.\n"
    "Go through: land use (dense city, suburb, industry, fields, forest, desert, coast); roads and railways (how many lanes, "
    "straight or bent, crossings, markings, parking); buildings (how large, how many floors, shape and colour of roofs, how "
    "close together); water (sea, river, lake, canal); vegetation (trees along a street, lawn, crops, bare soil); the shape "
    "of the land (flat, hills, mountains).\n"
    "Leave out people, vehicles that move, weather, light and the quality of the picture. Write no coordinates and guess no "
    "name of a place; a name that can be read on a sign may be quoted. Where something is not seen, say nothing of it."
)
_QUESTION = "Describe this place in three to five plain sentences, at most 80 words, and write nothing else."

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.IGNORECASE | re.DOTALL)
_THINKING = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
#: A reply that begins so describes nothing; "cannot be determined" further on is a remark within a description.
_REFUSAL = re.compile(
    r"\A\W*(?:i(?:'m| am)(?: \w+)? sorry\b|sorry\b|i (?:can ?not|can't|am unable|am not able|won't|must decline|decline)\b"
    r"|unfortunately, i\b|as an ai\b)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class Describing:
    """How a photograph is put into words."""

    tokens: int = 300
    """Tokens a description may take before it is cut off."""
    temperature: float = 0.0
    """Temperature of the first attempt; 0 is greedy."""
    attempts: int = 2
    """How often a photograph is asked about of which no reply describes anything."""
    warmer: float = 0.4
    """What each further attempt adds to the temperature."""
    seed: int = 0
    """With the image's name it decides every draw."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.attempts < 1 or self.temperature < 0 or self.warmer < 0:
            raise UserError("a description takes at least 1 token and 1 attempt; temperature and warmer are not negative")

    def decides(self) -> dict[str, Any]:
        """Of settings and prompt, what decides a description."""
        said = json.dumps(messages(), sort_keys=True)
        return {**asdict(self), "prompt": hashlib.sha256(said.encode()).hexdigest()}


class Describe(Stage):
    """Adds `text`, the description of a photograph, and drops the photograph.

    Args:
        model: folder or hub name of a vision-language model, or a folder with a `scripted.json`.
        describing: see `Describing`.
        generator: how the model is served.

    Raises:
        UserError: the model cannot be served here.
        MachineError: it does not start.
    """

    drops = ("picture", "picture_width", "picture_height")
    adds = (SAID[0],)

    def __init__(self, model: str, describing: Describing | None = None, generator: GeneratorConfig | None = None) -> None:
        self.describing = describing or Describing()
        self.generator: Generator = serve(model, generator)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns.

        Raises:
            MachineError: every one of several requests failed, and not for what they are.
        """
        asked = [
            Request(name, messages(), picture)
            for name, picture in zip(table["image_id"].to_pylist(), pictures_of(table), strict=True)
        ]
        told: list[str | Rejection | None] = [None] * len(asked)
        faults: list[Rejection | None] = [None] * len(asked)
        how = self.describing
        first = Sampling(max_tokens=how.tokens, temperature=how.temperature, seed=how.seed)
        for attempt in range(how.attempts):
            rows = [row for row, each in enumerate(told) if not isinstance(each, str) and faults[row] is None]
            if not rows:
                break
            for row, reply in zip(
                rows, self.generator.ask([asked[row] for row in rows], hotter(first, attempt, how.warmer)), strict=True
            ):
                faults[row] = reply.fault
                if reply.samples:
                    said = description(reply.samples[0])
                    told[row] = said if isinstance(said, str) or told[row] is None else told[row]  # the first reason stays
        if fault := engines_fault(faults):
            raise MachineError(f"the engine fails at every one of {len(faults)} images: {fault.detail}")
        texts = [each if isinstance(each, str) else None for each in told]
        fates = {
            row: next(each for each in (faults[row], told[row], _NOTHING) if isinstance(each, Rejection))
            for row, text in enumerate(texts)
            if text is None
        }
        return rejected(table.append_column(self.adds[0], pa.array(texts, pa.string())), "describe", fates)

    def close(self) -> None:
        """Stops the model."""
        self.generator.close()


_NOTHING = Rejection("unparsed", "no reply at all")


def messages() -> list[dict[str, Any]]:
    """The chat: what to write, the picture, and the question."""
    return [
        {"role": "system", "content": [{"type": "text", "text": _SYSTEM}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]},
    ]


def description(sample: Sample) -> str | Rejection:
    """A reply as a text to search for, or why it is none."""
    said = _THOUGHT.sub(" ", sample.text)
    cut = sample.finish == "length"
    if _THINKING.search(said):
        return Rejection("cut_off", "the reply ends while thinking")
    said = " ".join(said.split())
    if not any(letter.isalnum() for letter in said):
        return Rejection("unparsed", f"the reply describes nothing; it said: {said[:160]}")
    if _REFUSAL.match(said):
        return Rejection("refused", said[:160])
    if cut:
        ends = [end.end() for end in _SENTENCE_END.finditer(said)]
        if not ends:
            return Rejection("cut_off", f"the reply was cut off within its first sentence; it said: {said[:160]}")
        said = said[: ends[-1]]
    return said
