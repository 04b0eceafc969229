"""The teacher writes a geo-caption for a picture whose place is known (GeoLocSFT, section 3).

The teacher sees the picture and its coordinates and argues towards them in the published JSON schema. Guided by that schema
its reply parses unless the token limit cuts it off, which is a rejection of its own ("cut_off"); an endpoint that ignores the
schema is asked again, warmer each time, and what still does not parse is "unparsed", what declines "refused". Nothing is
mended: a caption lacks no field and names a place on Earth, or its image is rejected with the beginning of what was replied.

The picture goes on as the file students are trained on, re-encoded at the size the teacher saw, so that teacher and student
look at the same pixels and the archive is not needed again. Its difference hash finds near-duplicates later.

Without a teacher a row is an example of an answer alone: no caption, and the truth as its answer.

Not covered: whether a caption is any good, which is `curate`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from geobatch.engine.answer import Unparsed, parse
from geobatch.engine.encode import encoded
from geobatch.engine.opening import desk
from geobatch.engine.pixels import pictures_of
from geobatch.engine.remote import Endpoint
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sampling, engines_fault, hotter
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.methods.geolocsft.curate import dhash
from geobatch.methods.geolocsft.prompts import GEO_CAPTION, caption_text, messages, teacher
from geobatch.schema import CAPTIONS
from geobatch.stage import Stage, rejected


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How the teacher writes."""

    tokens: int = 4096
    """Tokens of a caption at most; the schema's longest is about 3,500 of English, what is cut off is rejected."""
    temperature: float = 0.0
    """Temperature of the first attempt; 0 is greedy."""
    attempts: int = 3
    """How often a picture is asked about whose reply does not parse."""
    warmer: float = 0.3
    """What each further attempt adds to the temperature."""
    seed: int = 0
    """With the image's name it decides every draw."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.attempts < 1 or self.temperature < 0 or self.warmer < 0:
            raise UserError("a teacher needs at least 1 token and 1 attempt, and no negative temperature")

    def sampling(self) -> Sampling:
        """The first attempt."""
        schema = json.dumps(GEO_CAPTION)
        return Sampling(temperature=self.temperature, max_tokens=self.tokens, seed=self.seed, schema=schema)


class Caption(Stage):
    """Adds the picture as a file, its difference hash, and what the teacher wrote; drops the picture.

    Args:
        teacher: folder of a vision-language model, or None.
        endpoint: a service to ask instead, or None.
        writing: see `Writing`.
        generator: how the folder's model is served.

    Raises:
        UserError: the teacher cannot be served, or the endpoint cannot be used.
        MachineError: it does not start.
    """

    drops = ("picture", "picture_width", "picture_height")
    adds = tuple(CAPTIONS.field(name) for name in ("image", "dhash", "caption", "answer_latitude", "answer_longitude"))

    def __init__(
        self,
        teacher: str | None = None,
        endpoint: Endpoint | None = None,
        writing: Writing | None = None,
        generator: GeneratorConfig | None = None,
    ) -> None:
        self.writing = writing or Writing()
        self.endpoint = endpoint if endpoint is not None and endpoint.url else None
        told = self.endpoint or Endpoint()
        self.generator = desk(teacher or "", told, generator or GeneratorConfig()) if teacher or told.url else None

    def work(self, table: pa.Table) -> pa.Table:
        """Needs PICTURE's columns, and `latitude` and `longitude`, the truth.

        Raises:
            UserError: the endpoint refuses every picture of several for what is no fault of theirs.
            MachineError: the teacher fails at every one of several, or is too late.
        """
        pictures = pictures_of(table)
        latitude, longitude = (table[name].to_pylist() for name in ("latitude", "longitude"))
        if self.generator is None:
            written: list[Written | Rejection] = [Written(None, *place) for place in zip(latitude, longitude, strict=True)]
        else:
            names = table["image_id"].to_pylist()
            asked = [
                Request(name, messages(teacher(lat, lon, name)), picture)
                for name, lat, lon, picture in zip(names, latitude, longitude, pictures, strict=True)
            ]
            written = self._written(asked)
        alive = [None if isinstance(each, Rejection) else each for each in written]
        columns: list[list[Any]] = [
            [None if each is None else encoded(picture)[0] for each, picture in zip(alive, pictures, strict=True)],
            [None if each is None else dhash(picture) for each, picture in zip(alive, pictures, strict=True)],
            *[[None if each is None else getattr(each, name) for each in alive] for name in ("text", "latitude", "longitude")],
        ]
        for field, values in zip(self.adds, columns, strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        return rejected(table, "caption", {row: each for row, each in enumerate(written) if isinstance(each, Rejection)})

    def close(self) -> None:
        """Stops the teacher."""
        if self.generator is not None:
            self.generator.close()

    def _written(self, asked: Sequence[Request]) -> list[Written | Rejection]:
        """What comes of each request, after as many attempts as it needs and has."""
        assert self.generator is not None
        found: dict[int, Written | Rejection] = {}
        open_rows = list(range(len(asked)))
        for attempt in range(self.writing.attempts):
            sampling = hotter(self.writing.sampling(), attempt, self.writing.warmer)
            replies = self.generator.ask([asked[row] for row in open_rows], sampling)
            for row, reply in zip(open_rows, replies, strict=True):
                found[row] = outcome(reply, asked[row].key)
            open_rows = [row for row in open_rows if _unparsed(found[row])]
            if not open_rows:
                break
        written = [found[row] for row in range(len(asked))]
        self._stop_at(engines_fault([each if isinstance(each, Rejection) else None for each in written]), written)
        return written

    def _stop_at(self, fault: Rejection | None, written: Sequence[Written | Rejection]) -> None:
        if fault is None:
            return
        late = any(isinstance(each, Rejection) and each.reason == "timeout" for each in written)
        if self.endpoint is None or late:
            raise MachineError(f"the teacher fails at every one of {len(written)} images: {fault.detail}")
        raise UserError(
            f"{self.endpoint.url} refuses all of {len(written)} pictures ({fault.detail}); check that --endpoint.model "
            "takes pictures and JSON schemas"
        )


@dataclass(frozen=True)
class Written:
    """A caption and the answer in it.

    Fields:
        text: the JSON, or None where there is no reasoning.
        latitude, longitude: of the answer, degrees.
    """

    text: str | None
    latitude: float
    longitude: float


def outcome(reply: Reply, image_id: str) -> Written | Rejection:
    """What a reply is worth."""
    if reply.fault is not None:
        return reply.fault
    sample = reply.samples[0]
    if sample.finish == "length":
        return Rejection("cut_off", f"after {len(sample.logprobs) or 'all its'} tokens: {_beginning(sample.text)}")
    try:
        return read_caption(sample.text, image_id)
    except Rejection as fault:
        return fault
    except Exception as error:  # noqa: BLE001  raised, it would have the whole batch written once more
        return Rejection("failed", f"{type(error).__name__}: {error}; it said: {_beginning(sample.text)}")


def read_caption(text: str, image_id: str) -> Written:
    """A geo-caption from what a teacher replied: the JSON object alone, fenced, or with words around it.

    Args:
        image_id: what the caption shall say it is of, whatever the teacher copied.

    Raises:
        Rejection: "unparsed", "refused" or "out_of_range".
    """
    found = parse(text)
    if isinstance(found, Unparsed):
        raise Rejection("unparsed" if found.reason == "cut_off" else found.reason, f"{found.detail}: {_beginning(text)}")
    if found.caption is None:
        raise Rejection("unparsed", f"coordinates without a geo-caption: {_beginning(text)}")
    caption = {**found.caption, "image_id": image_id}
    try:
        caption_text(caption, "json")
    except ValueError as error:
        raise Rejection("unparsed", str(error)) from None
    where = caption["answer"]["coordinates"]
    whole = json.dumps(caption, ensure_ascii=False, separators=(",", ":"))
    return Written(whole.encode(errors="replace").decode(), float(where["latitude"]), float(where["longitude"]))


def _unparsed(found: Written | Rejection) -> bool:
    return isinstance(found, Rejection) and found.reason == "unparsed"


def _beginning(text: str) -> str:
    return " ".join(text.split())[:160]
