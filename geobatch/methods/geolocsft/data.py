"""An example as tokens: what is read, what is learnt, and in which order.

The prompt is tokenised as it is at inference, picture tokens included, and the answer on its own behind it: what the model
continues in training is then, token for token, what it is given when it locates. (Tokenising the whole chat at once may join
the prompt's last character and the answer's first into one token that no prompt ever ends with.) Learnt are the answer's tokens
and the token that ends the turn; what the template writes after that, a newline for both families, no model is ever asked for.

`Order` is a function of (seed, step): a stream of permutations of the examples, cut into blocks of `bucket` batches; a block is
sorted by length, cut into batches, and the batches are shuffled. Every example of an epoch is seen once in it, and the set of a
step's examples is the same however many workers share it. The last batch of a training is filled from one more permutation.

Not covered: packing several examples into one sequence. Gemma 3 lets the tokens of a picture see each other in both
directions and Qwen2.5-VL counts positions in three dimensions, so each would need masks of its own. With lengths spread evenly
over 1,000 to 1,600 tokens and batches of 16, buckets of 50 leave 0.5 % of padding where a random order leaves 17 %.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from geobatch.engine.chat import Chat
from geobatch.errors import UserError
from geobatch.image.config import DecodeConfig
from geobatch.image.picture import Decoder
from geobatch.methods.geolocsft.config import Validation
from geobatch.methods.geolocsft.prompts import Form, messages, student
from geobatch.train.split import split

#: One training example; `tokens` is its length.
EXAMPLES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("latitude", pa.float64(), nullable=False),
        pa.field("longitude", pa.float64(), nullable=False),
        pa.field("image", pa.large_binary(), nullable=False),  # encoded bytes
        pa.field("answer", pa.large_string(), nullable=False),  # what the student shall write
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)

#: Latitudes and longitudes, degrees.
Places = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

_COORDINATE = re.compile(r"\b(?:lat|lon)(?:itude|gitude)?\"?\s*:\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Encoded:
    """Sequences for the model, one or a padded batch.

    Args:
        inputs: what the model's forward takes, `input_ids` (B, T) and all; B is 1 for one example.
        weights: (B, T) float32, of each token as a target: 0 for prompt, picture and padding.
    """

    inputs: dict[str, Tensor]
    weights: Tensor

    def __len__(self) -> int:
        return self.weights.shape[1]


class Encoder:
    """A model's own chat and the student's prompt.

    Args:
        chat: the one that renders prompts at inference.
        form: how answers are written.
        coordinate_weight: of the tokens that write the answer's coordinates.

    Raises:
        UserError: the chat template does not write an answer where it has one generated, or ends it with no special token.
    """

    def __init__(self, chat: Chat, form: Form, coordinate_weight: float = 1.0) -> None:
        self.chat, self.processor, self.tokenizer = chat, chat.processor, chat.tokenizer
        self.coordinate_weight = coordinate_weight
        prompt = student(form)
        self.prompt = chat.render(messages(prompt))
        self.pad_id = int(self.tokenizer.pad_token_id or 0)
        self.end_ids = self._end(self.processor.apply_chat_template(messages(prompt, "answer"), tokenize=False))

    def _end(self, chat: str) -> list[int]:
        begins = self.prompt + "answer"
        if not chat.startswith(begins):
            raise UserError("this chat template writes an answer elsewhere than it has one generated; use the model's own")
        ids = self._ids(chat[len(begins) :])
        special = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        found = [place for place, number in enumerate(ids) if number in special]
        if not found:
            raise UserError("this chat template ends an answer with no special token; use the model's own")
        return ids[: found[0] + 1]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def question(self, picture: Image.Image) -> dict[str, Tensor]:
        """The prompt and the picture, as the model's forward and `generate` take them; B is 1."""
        made = self.processor(text=[self.prompt], images=[[picture]], add_special_tokens=False, return_tensors="pt")
        return dict(made)

    def example(self, picture: Image.Image, answer: str) -> Encoded:
        """The prompt, the picture and the answer with its end."""
        inputs = self.question(picture)
        asked = inputs["input_ids"].shape
        text = answer.strip()
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=self.coordinate_weight != 1)
        written = [*found.input_ids, *self.end_ids]
        learnt = torch.ones(1, len(written))
        if self.coordinate_weight != 1:
            spans = [match.span(1) for match in list(_COORDINATE.finditer(text))[-2:]]
            for place, (start, end) in enumerate(found.offset_mapping):
                if any(start < last and end > first for first, last in spans):
                    learnt[0, place] = self.coordinate_weight
        for name, each in inputs.items():
            if each.shape == asked and not each.is_floating_point():
                tail = {"input_ids": torch.tensor([written]), "attention_mask": torch.ones(1, len(written))}.get(name)
                tail = torch.zeros(1, len(written)) if tail is None else tail
                inputs[name] = torch.cat([each, tail.to(each.dtype)], dim=1)
        return Encoded(inputs, torch.cat([torch.zeros(asked), learnt], dim=1))

    def length(self, width: int, height: int, answer: str) -> int:
        """Tokens of an example, without a look at the picture's pixels.

        Args:
            width: of the picture, pixels.
            height: of the picture, pixels.
        """
        pictures = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        return self._asked + int(pictures["num_image_tokens"][0]) + len(self._ids(answer.strip())) + len(self.end_ids)

    @property
    def _asked(self) -> int:
        """Tokens of the prompt around its picture."""
        if not hasattr(self, "_around"):
            size = 224
            tokens = self.question(Image.new("RGB", (size, size)))["input_ids"].shape[1]
            pictures = self.processor._get_num_multimodal_tokens(image_sizes=[(size, size)])
            self._around: int = tokens - int(pictures["num_image_tokens"][0])
        return self._around


def joined(examples: list[dict[str, Tensor]], pad_id: int, left: bool = False) -> dict[str, Tensor]:
    """Several inputs as one padded batch: on the right to learn from, on the left to generate from.

    What has a value for each token is padded, everything else (pixels, sizes of pictures) put one behind the other.
    """
    longest = max(each["input_ids"].shape[1] for each in examples)

    def padded(tensor: Tensor, fill: float) -> Tensor:
        missing = longest - tensor.shape[1]
        return torch.nn.functional.pad(tensor, (missing, 0) if left else (0, missing), value=fill)

    out = {}
    for name, first in examples[0].items():
        a_token_each = first.shape == examples[0]["input_ids"].shape and not first.is_floating_point()
        parts = [padded(each[name], pad_id if name == "input_ids" else 0) if a_token_each else each[name] for each in examples]
        out[name] = torch.cat(parts)
    return out


def batch(examples: list[Encoded], pad_id: int) -> Encoded:
    """Several examples as one padded batch."""
    longest = max(len(each) for each in examples)
    weights = [torch.nn.functional.pad(each.weights, (0, longest - len(each))) for each in examples]
    return Encoded(joined([each.inputs for each in examples], pad_id), torch.cat(weights))


class Examples:
    """N examples of an Arrow file of `EXAMPLES`, mapped into memory; pictures are decoded as they are asked for.

    Args:
        rows: of the file, in the order they are numbered here; default: all.
    """

    def __init__(self, path: Path, decode: DecodeConfig, rows: npt.NDArray[np.int64] | None = None) -> None:
        whole = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self.rows = np.arange(len(whole)) if rows is None else rows
        self.pictures = whole["image"]
        self.table = whole.drop_columns(["image"]).take(pa.array(self.rows))
        self.lengths: npt.NDArray[np.int64] = self.table["tokens"].to_numpy().astype(np.int64)
        self.decoder = Decoder(decode)

    def __len__(self) -> int:
        return len(self.table)

    def picture(self, row: int) -> Image.Image:
        """Upright RGB of bounded size, as the main job makes it."""
        found = self.decoder.decode(self.pictures[int(self.rows[row])].as_buffer().to_pybytes())
        return Image.frombytes("RGB", (found.picture_width, found.picture_height), bytes(found.pixels))

    def answer(self, row: int) -> str:
        """What the student shall write."""
        return str(self.table["answer"][row].as_py())

    def places(self, rows: list[int] | None = None) -> Places:
        """Those of the truth; default: of all."""
        taken = self.table if rows is None else self.table.take(pa.array(rows, pa.int64()))
        return taken["latitude"].to_numpy(), taken["longitude"].to_numpy()


def halves(places: Places, validation: Validation, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to train on and rows kept out, by whole places (`geobatch.train.split`); one at least is trained on."""
    count = len(places[0])
    return split(*places, min(round(count * validation.share), validation.images, count - 1), seed)


@dataclass(frozen=True)
class Order:
    """Which examples make up each step; see the top.

    Args:
        lengths: (N,) tokens of each example.
        size: examples a step.
        steps: in all.
        bucket: batches of a block.
    """

    lengths: npt.NDArray[np.int64]
    size: int
    steps: int
    bucket: int = 50
    seed: int = 0

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """(size,) examples of a step, the longest first."""
        block, at = divmod(step, self.bucket)
        first = block * self.bucket
        last = min(first + self.bucket, self.steps)
        stream = self._stream(first * self.size, last * self.size)
        stream = stream[np.argsort(-self.lengths[stream], kind="stable")]
        shuffled = np.random.default_rng([self.seed, block, 1]).permutation(last - first)
        return stream.reshape(last - first, self.size)[shuffled[at]]

    def _stream(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Positions [first, last) of the endless stream of permutations."""
        count = len(self.lengths)
        epochs = range(first // count, (last - 1) // count + 1)
        several = np.concatenate([np.random.default_rng([self.seed, epoch]).permutation(count) for epoch in epochs])
        return several[first - epochs[0] * count : last - epochs[0] * count]
