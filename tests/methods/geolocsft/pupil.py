"""A small world for fine-tuning: crops with their places, and tiny bases that can learn them in seconds.

Random weights as `tests.engine.tiny` has them answer everything alike: tied embeddings of 0.02 leave no word more likely than
another whatever the layers say, and Gemma's projector begins at zero, so that no picture is seen. `base` scales the first and
fills the second. And each line of the student's prompt becomes a token of its own: letter by letter it is 750 tokens, in which
sixteen of a picture drown, and attention over them is nine tenths of a step's time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken

from geobatch.benchmark.world import World
from geobatch.engine.chat import Chat
from geobatch.image import DecodeConfig
from geobatch.methods.geolocsft.data import Encoder, Examples
from geobatch.methods.geolocsft.examples import Example, write
from geobatch.methods.geolocsft.prompts import student, tag

DECODE = DecodeConfig(side=896)


def base(make: Callable[..., Path], folder: Path, **sizes: int) -> str:
    """A tiny model that sees and can be sure."""
    make(folder, **sizes)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    told = student("tag")
    lines = {line for line in f"{told.system}\n{told.question}".splitlines() if len(line) > 12 and "<" not in line}
    processor.tokenizer.add_tokens([AddedToken(line, normalized=False) for line in sorted(lines)])
    torch.manual_seed(2)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    processor.save_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(6.0)
        if hasattr(model.model, "multi_modal_projector"):
            weight = model.model.multi_modal_projector.mm_input_projection_weight
            weight.normal_(std=weight.shape[0] ** -0.5, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    return str(folder)


def crops(count: int, seed: int = 5) -> list[Example]:
    """Crops as PNG, answers as tags; every third answer reasons at length, so that lengths differ."""
    world = World()
    latitude, longitude = world.scatter(count, seed=seed)
    out = []
    for number, pixels in enumerate(world.cut(latitude, longitude)):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        place = float(latitude[number]), float(longitude[number])
        answer = "terrain, climate, roads. " * (number % 3 == 2) + tag(*place)
        out.append(Example(f"crop/{number}", *place, encoded.getvalue(), answer))
    return out


def examples(folder: Path, model: str, found: list[Example], weight: float = 1.0) -> tuple[Path, Encoder]:
    """The examples' file, and the encoder of the model."""
    encoder = Encoder(Chat(model), "tag", weight)
    path = folder / "examples.arrow"
    written = write(iter(found), path, encoder, DECODE, 10_000)
    assert (written.examples, written.long, written.faults) == (len(found), [], [])
    return path, encoder


def opened(path: Path) -> Examples:
    """All of them."""
    return Examples(path, DECODE)


def captions(path: Path, found: list[Example]) -> Path:
    """The crops as a Parquet file of curated captions without reasoning."""
    names = ("image_id", "latitude", "longitude", "image")
    table = pa.table({name: [getattr(each, name) for each in found] for name in names})
    pa.parquet.write_table(table.append_column("caption", pa.nulls(len(found), pa.string())), path)
    return path
