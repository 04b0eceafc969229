"""The student looks at a picture and answers, as often as it is asked to.

A single answer is greedy, the paper's way. With K answers the first is still the greedy one and K - 1 are drawn beside it at a
temperature, in a second request whose prompt the engine has computed already (`geobatch.methods.geolocsft.agree` weighs the
first more). An image of which no reply gives a place is asked again, warmer each time, as often as the ladder has rungs; what
gives none even then is rejected with the reason of its first reply. Replies that give none beside others that do are passed
over.

One request that the model refuses, does not answer in time or dies of is one rejection (`geobatch.engine.generator`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from geobatch.engine.answer import Answer, Unparsed, parse
from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.pixels import pictures_of
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sample, Sampling, engines_fault, hotter
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.methods.geolocsft.agree import ANSWERS
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, REASONED_TAG_PATTERN, Form, messages, student
from geobatch.stage import Stage, rejected


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a picture is asked about."""

    answers: int = 1
    """Answers an image (K; 10 in the paper's multi-candidate reasoning): one greedy, the rest drawn beside it."""
    temperature: float = 1.0
    """Temperature of the drawn answers."""
    top_p: float = 1.0
    """Nucleus they are drawn from; 1 is all of the distribution."""
    tokens: int = 2048
    """Tokens a reply may take before it is cut off."""
    guided: bool = False
    """Whether replies are held to the answer's form token by token; a tuned model needs it less than a zero-shot one."""
    attempts: int = 3
    """How often an image is asked of which no reply gives a place."""
    warmer: float = 0.4
    """What each further attempt adds to the temperature."""
    seed: int = 0
    """With the image's name it decides every draw."""

    def __post_init__(self) -> None:
        if self.answers < 1 or self.tokens < 1 or self.attempts < 1:
            raise UserError("answers, tokens and attempts are at least 1 each")
        if self.temperature <= 0 or not 0 < self.top_p <= 1 or self.warmer < 0:
            raise UserError("the temperature of drawn answers lies above 0, top-p in (0, 1], warmer is not negative")


class Ask(Stage):
    """Adds what the student answered, and drops the picture.

    Args:
        base: folder or hub name of a vision-language model, or a folder with a `scripted.json`.
        adapter: folder of a PEFT adapter on it, or None.
        form: how it was taught to answer.
        asking: see `Asking`.
        generator: how the model is served.

    Raises:
        UserError: the model cannot be served here.
        MachineError: it does not start.
    """

    drops = ("picture", "picture_width", "picture_height", "hints")
    adds = (pa.field("answers", ANSWERS),)

    def __init__(
        self,
        base: str,
        adapter: str | None = None,
        form: Form = "tag",
        asking: Asking | None = None,
        generator: GeneratorConfig | None = None,
    ) -> None:
        self.form, self.asking = form, asking or Asking()
        self.generator: Generator = serve(base, generator, Path(adapter) if adapter else None)

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns; `hints`, a list of texts an image, if there is such a column.

        Raises:
            MachineError: every one of several requests failed, and not for what they are.
        """
        hints = table["hints"].to_pylist() if "hints" in table.column_names else [()] * len(table)
        asked = [
            Request(name, messages(student(self.form, told or ())), picture)
            for name, told, picture in zip(table["image_id"].to_pylist(), hints, pictures_of(table), strict=True)
        ]
        found: list[_Found] = [_Found() for _ in asked]
        for attempt in range(self.asking.attempts):
            rows = [row for row, each in enumerate(found) if each.open]
            if not rows:
                break
            for sampling in self._samplings(attempt):
                sound = [row for row in rows if found[row].fault is None]  # what killed the greedy request is not asked again
                replies = self.generator.ask([asked[row] for row in sound], sampling)
                for row, reply in zip(sound, replies, strict=True):
                    found[row].take(reply, greedy=sampling.temperature <= 0)
        if fault := engines_fault([each.fault for each in found]):
            raise MachineError(f"the engine fails at every one of {len(found)} images: {fault.detail}")
        answers = pa.array([each.answers or None for each in found], ANSWERS)
        fates = {row: each.fate() for row, each in enumerate(found) if not each.answers}
        return rejected(table.append_column(self.adds[0], answers), "ask", fates)

    def close(self) -> None:
        """Stops the model."""
        self.generator.close()

    def _samplings(self, attempt: int) -> list[Sampling]:
        """What one attempt asks for: the greedy reply, and the draws beside it."""
        asking = self.asking
        guide: dict[str, Any] = {}
        if asking.guided:
            guide = {"pattern": REASONED_TAG_PATTERN} if self.form == "tag" else {"schema": json.dumps(GEO_CAPTION)}
        greedy = Sampling(max_tokens=asking.tokens, seed=asking.seed, top_p=asking.top_p, **guide)
        if asking.answers == 1:
            return [hotter(greedy, attempt, asking.warmer)]
        drawn = hotter(replace(greedy, draws=asking.answers - 1, temperature=asking.temperature), attempt, asking.warmer)
        return [drawn] if attempt else [greedy, drawn]


class _Found:
    """What is known of one image so far."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.fault: Rejection | None = None
        self.why: Rejection | None = None

    @property
    def open(self) -> bool:
        """Whether it is worth asking again: replies came, and none gave a place."""
        return not self.answers and self.fault is None

    def take(self, reply: Reply, greedy: bool) -> None:
        """Adds the answers of a reply; the first reason why there was none is kept."""
        if reply.fault is not None:
            self.fault = self.fault or reply.fault
            return
        for sample in reply.samples:
            answer = answered(sample)
            if isinstance(answer, Rejection):
                self.why = self.why or answer
            else:
                self.answers.append({**answer, "greedy": greedy})

    def fate(self) -> Rejection:
        """Why it has no place."""
        return self.fault or self.why or Rejection("unparsed", "no reply at all")


def answered(sample: Sample) -> dict[str, Any] | Rejection:
    """One reply as a struct of `ANSWERS`, or why it is none."""
    try:
        found = parse(sample.text, finished=sample.finish != "length")
    except Exception as error:  # noqa: BLE001  raised, it would have the whole batch asked again
        return Rejection("failed", f"reading its reply: {type(error).__name__}: {error}")
    if isinstance(found, Answer):
        return {
            "latitude": found.latitude,
            "longitude": found.longitude,
            "logprob": sample.span_logprob(found.start, found.end),
            "sequence": sample.logprob,
            "tokens": len(sample.logprobs),
        }
    return _reason(found, sample.text)


def _reason(found: Unparsed, text: str) -> Rejection:
    said: Sequence[str] = text.split()
    return Rejection(found.reason, f"{found.detail}; it said: {' '.join(said)[:160]}")
