"""Curated captions, ours or another trainer's, as the examples a student learns from.

Two inputs are read. Parquet, one file or a folder of them, with the columns image_id, latitude, longitude (the truth), image
(encoded bytes) and caption (geo-caption as JSON, or null for an answer without reasoning): what the caption job curates. And
the ShareGPT-style JSON of other trainers, a list of {"images": [path], "conversations": [{"from": "human"}, {"from": "gpt"}]}
with paths relative to the file: there the truth is the place that the answer names.

The answer a student learns is a function of the caption and the form. Its coordinates are the truth's, whatever the teacher
wrote. A question in a ShareGPT file is not kept: what is asked in training is what the main job asks.

Every picture is decoded once before training begins, in the sandbox of `geobatch.image`, where nothing it does can stop or kill
the job. What cannot be used is a `Fault` with its image's name; the caller says whether that ends the job. Examples go to
an Arrow file as they come, so that memory holds a batch of them; workers map that file.

Not covered: ShareGPT examples of several pictures or several turns.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geobatch.engine.answer import Answer, parse
from geobatch.errors import GeobatchError, UserError
from geobatch.image import Decode, DecodeConfig
from geobatch.methods.geolocsft.data import EXAMPLES, Encoder
from geobatch.methods.geolocsft.forms import Form, caption_text, degrees, tag
from geobatch.schema import IMAGE, empty_columns
from geobatch.store import Store, join

#: Columns that a Parquet file of captions must have.
COLUMNS = ("image_id", "latitude", "longitude", "image", "caption")

#: Examples decoded and written together.
BATCH = 64


@dataclass(frozen=True)
class Fault:
    """An example that cannot be used, and why."""

    image_id: str
    reason: str


@dataclass(frozen=True)
class Example:
    """A row of `EXAMPLES`, not yet measured."""

    image_id: str
    latitude: float
    longitude: float
    image: bytes
    answer: str


def read(store: Store, uri: str, form: Form) -> Iterator[Example | Fault]:
    """What lies at `uri`, in a stable order.

    Args:
        uri: a Parquet file, a folder or prefix of them, the output of a caption job, or a .json file.

    Raises:
        UserError: there is nothing, or a file is not what its name says.
    """
    if uri.endswith((".json", ".jsonl")):
        yield from _sharegpt(store, uri, form)
        return
    files, curated = [uri], join(uri, "curated/captions.parquet")
    if not uri.endswith(".parquet"):
        files = [item.uri for page in store.objects(uri) for item in page if item.uri.endswith(".parquet")]
        files = [curated] if curated in files else [file for file in files if not file.endswith("/dropped.parquet")]
    if not files:
        raise UserError(f"there is no Parquet file in {uri}; give what jobs/geolocsft_caption.py curated, or a sharegpt.json")
    for file in files:
        yield from _parquet(store, file, form)


def _parquet(store: Store, uri: str, form: Form) -> Iterator[Example | Fault]:
    try:
        file = pq.ParquetFile(io.BytesIO(store.get(uri)))
    except pa.ArrowInvalid as error:
        raise UserError(f"{uri} is no Parquet file ({str(error).splitlines()[0]}); check the path") from error
    missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"{uri} has no column {missing[0]}; captions need {', '.join(COLUMNS)}")
    for batch in file.iter_batches(BATCH, columns=list(COLUMNS)):
        for row in batch.to_pylist():
            name = str(row["image_id"])
            if row["image"] is None or row["latitude"] is None or row["longitude"] is None:
                yield Fault(name, "has no picture or no coordinates")
                continue
            try:
                yield Example(name, row["latitude"], row["longitude"], row["image"], answer_of(**_answer(row), form=form))
            except ValueError as error:
                yield Fault(name, f"its caption cannot be used: {error}")


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("latitude", "longitude", "caption")}


def answer_of(latitude: float, longitude: float, caption: str | None, form: Form) -> str:
    """What a student learns to write.

    Args:
        caption: a geo-caption as JSON, or None for an answer alone.

    Raises:
        ValueError: coordinates out of range, or the caption is none.
    """
    if caption is not None:
        found = json.loads(caption)
        if not isinstance(found, dict) or not isinstance(found.get("answer"), dict):
            raise ValueError("it is no geo-caption")
        places = found["answer"].get("coordinates")
        if not isinstance(places, dict):
            raise ValueError("it has no answer.coordinates")
        truth = {**places, "latitude": latitude, "longitude": longitude}
        return caption_text({**found, "answer": {**found["answer"], "coordinates": truth}}, form)
    if form == "tag":
        return tag(latitude, longitude)
    lat, lon = degrees(latitude, longitude)
    return f'{{"answer":{{"coordinates":{{"latitude":{lat},"longitude":{lon}}}}}}}'


def _sharegpt(store: Store, uri: str, form: Form) -> Iterator[Example | Fault]:
    text = store.get(uri).decode()
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if uri.endswith(".jsonl") else json.loads(text)
    except ValueError as error:
        raise UserError(f"{uri} is no JSON ({error}); check the path") from error
    if not isinstance(rows, list):
        raise UserError(f"{uri} holds no list of examples; give a ShareGPT-style JSON")
    folder = uri.rpartition("/")[0] or "."
    known = [_turns(row) for row in rows]
    found = store.get_many(_at(folder, path) for path, _ in (each for each in known if each is not None))
    for number, turns in enumerate(known):
        if turns is None:
            yield Fault(f"{uri}#{number}", "needs one image, and one turn of human and of gpt")
            continue
        image = next(found)
        yield _shared(turns, image, form)


def _turns(row: Any) -> tuple[str, str] | None:
    """The picture's path and the answer, or None where an example is another kind."""
    try:
        (path,) = row["images"]
        turns = [(turn["from"], turn["value"]) for turn in row["conversations"] if turn["from"] != "system"]
        ((asks, _), (answers, text)) = turns
    except (KeyError, TypeError, ValueError):
        return None
    return (path, text) if (asks, answers) == ("human", "gpt") and isinstance(path, str) and isinstance(text, str) else None


def _shared(turns: tuple[str, str], image: bytes | GeobatchError, form: Form) -> Example | Fault:
    path, text = turns
    if isinstance(image, GeobatchError):
        return Fault(path, f"its picture cannot be read: {image}")
    answer = parse(text)
    if not isinstance(answer, Answer):
        return Fault(path, f"its answer names no place: {answer.detail}")
    if answer.caption is not None:
        try:
            text = caption_text(answer.caption, form)
        except ValueError as error:
            return Fault(path, f"its caption cannot be used: {error}")
    elif answer.form != form:
        return Fault(path, f"its answer is written as {answer.form}, not as {form}; train with --form {answer.form}")
    return Example(path, answer.latitude, answer.longitude, image, text.strip())


def _at(folder: str, path: str) -> str:
    return path if "://" in path or path.startswith("/") else join(folder, path)


@dataclass(frozen=True)
class Written:
    """What `write` found.

    Args:
        examples: in the file.
        digest: SHA-256 over all that is in it.
        long: names of examples left out since they are longer than the cut-off.
        faults: examples that cannot be used.
    """

    examples: int
    digest: str
    long: list[str]
    faults: list[Fault]


def write(
    found: Iterator[Example | Fault],
    path: Path,
    encoder: Encoder,
    decode: DecodeConfig,
    cutoff: int,
    watch: Callable[[int], None] = lambda _: None,
) -> Written:
    """Writes the examples whose pictures decode to an Arrow file of `EXAMPLES`.

    Args:
        cutoff: tokens of the longest example kept.
        watch: called with the number of examples looked at, a batch at a time.

    Raises:
        MachineError: no decoder process can be started.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    stage, count, long, faults, seen = Decode(decode), 0, list[str](), list[Fault](), set[str]()
    try:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, EXAMPLES) as out:
            while some := list(islice(found, BATCH)):
                watch(len(some))
                faults += [each for each in some if isinstance(each, Fault)]
                examples = [each for each in some if isinstance(each, Example)]
                fresh = {each.image_id: each for each in reversed(examples) if each.image_id not in seen}
                faults += [Fault(each.image_id, "occurs twice") for each in examples if fresh.get(each.image_id) is not each]
                examples = [each for each in examples if fresh.get(each.image_id) is each]
                seen.update(fresh)
                rows = []
                for each, picture in zip(examples, _decoded(stage, examples), strict=True):
                    if picture["reason"] is not None:
                        faults.append(Fault(each.image_id, f"its picture is {picture['reason']} ({picture['detail']})"))
                        continue
                    tokens = encoder.length(picture["picture_width"], picture["picture_height"], each.answer)
                    if tokens > cutoff:
                        long.append(each.image_id)
                        continue
                    rows.append({**vars(each), "tokens": tokens})
                for row in rows:
                    parts = (row["image_id"], row["latitude"], row["longitude"], row["answer"])
                    total.update(repr(parts).encode() + hashlib.sha256(row["image"]).digest())
                out.write_table(pa.Table.from_pylist(rows, EXAMPLES))
                count += len(rows)
    finally:
        stage.close()
    return Written(count, total.hexdigest(), long, faults)


def _decoded(stage: Decode, examples: list[Example]) -> list[dict[str, Any]]:
    if not examples:
        return []
    names = [each.image_id for each in examples]
    columns = {
        **empty_columns(list(IMAGE), len(examples)),
        "image_id": pa.array(names),
        "uri": pa.array(names),
        "bytes": pa.array([each.image for each in examples], pa.large_binary()),
    }
    done = stage(pa.table(columns).cast(IMAGE))
    return done.select(["reason", "detail", "picture_width", "picture_height"]).to_pylist()
