"""A multimodal LLM that answers from a table: for tests of whole runs without weights, yours as well as ours.

A folder with a `scripted.json` is a model:

    {"replies": {"*/paris/*.jpg": ["<answer>\\nlat: 48.85840\\nlon: 2.29450\\n</answer>"], "*": ["I cannot tell."]}}

Each name is a glob over the request's key (the image_id), the first that matches answers. Its list holds the replies in the
order they are drawn, starting over when more are asked for; greedy gets the first, each further attempt of the retry ladder
(a hotter one) begins one reply later, whatever the seed. A reply is a text, {"text": …, "logprob": …}, or what goes wrong:
{"dies": true} takes the engine down with everything that is under way, {"stalls": true} never answers, {"refuses": reason}
rejects the request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from geobatch.engine.request import Dead, Reply, Request, Sample, Sampling
from geobatch.errors import Rejection, UserError

FILE = "scripted.json"


class Scripted:
    """The backend.

    Args:
        replies: globs and what they answer; see the top of this file.
        seconds: each answer takes.
    """

    def __init__(self, replies: Mapping[str, Sequence[Any]], seconds: float = 0.0) -> None:
        self.replies, self.seconds = replies, seconds
        self.opened = 0
        self._death = asyncio.Event()

    @staticmethod
    def load(folder: Path) -> Scripted:
        """The table of a folder.

        Raises:
            UserError: it is no JSON object with "replies".
        """
        try:
            told = json.loads((folder / FILE).read_text())
            return Scripted(dict(told["replies"]), float(told.get("seconds", 0.0)))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{folder / FILE} is no table ({error}); write {{"replies": {{"*": ["a reply"]}}}}') from None

    async def open(self) -> None:
        """See `Backend`."""
        self._death = asyncio.Event()
        self.opened += 1

    async def close(self) -> None:
        """See `Backend`."""
        self._death.set()

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`."""
        death, answers = self._death, self._answers(request.key)
        hot = sampling.temperature > 0
        first = sampling.attempt if hot else 0
        chosen = [answers[(first + draw) % len(answers)] for draw in range(sampling.draws if hot else 1)]
        wait: float | None = self.seconds
        for each in chosen:
            if isinstance(each, Mapping) and each.get("dies"):
                death.set()
            if isinstance(each, Mapping) and each.get("stalls"):
                wait = None
            if isinstance(each, Mapping) and each.get("refuses"):
                raise Rejection(each["refuses"], "the table says so")
        try:
            await asyncio.wait_for(death.wait(), wait)
        except TimeoutError:
            if death.is_set():
                raise Dead("the table says so") from None
            return Reply(tuple(_sample(each, sampling.max_tokens) for each in chosen))
        raise Dead("the table says so")

    def _answers(self, key: str) -> Sequence[Any]:
        for glob, answers in self.replies.items():
            if answers and fnmatchcase(key, glob):
                return answers
        return [""]


def _sample(told: Any, limit: int) -> Sample:
    """Each character is a token; without a log-probability of its own a reply has 0.1 nat a character."""
    text = told if isinstance(told, str) else str(told.get("text", ""))
    finish, text = ("stop", text) if len(text) < limit else ("length", text[:limit])
    total = -0.1 * len(text) if isinstance(told, str) or "logprob" not in told else float(told["logprob"])
    each = total / max(len(text), 1)
    return Sample(text, total, (each,) * len(text), tuple(range(len(text))), finish)
