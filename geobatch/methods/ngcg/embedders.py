"""The two ways an encoder runs: `transformers` in this process, or vLLM's engine behind the desk; `serve` chooses.

One text or picture never takes another with it. Here, a batch that fails is halved until the one that fails alone is found; at
the desk, what kills the engine is found in the same way (`geobatch.engine.generator`). Where every one of several fails, and
not for what it is, the machine is at fault and it is raised. So it is here where, behind a row that fails, not even a text of
one letter gets through: a GPU that is lost in the middle of a slice must not make rejections of the slice's rest.

Not covered: an engine that several processes share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geobatch.engine.generator import Generator
from geobatch.engine.pooled import Pooled
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sampling, engines_fault
from geobatch.errors import MachineError, Rejection, UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.inputs import Batch, Inputs

Vector = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

#: Errors that are never a text's or a picture's fault.
_MACHINE = (MachineError, UserError, MemoryError, OSError)

#: Errors after which a GPU computes nothing for this process any more.
_LOST = (torch.AcceleratorError,)

#: A text that every encoder can embed: where it cannot, the machine is at fault.
_KNOWN = "a"

#: Tokens of context beyond the longest prompt: vLLM wants room for one more.
_SPARE = 16


class Direct:
    """`transformers` in this process; see `geobatch.methods.ngcg.serve.Embedder`.

    Args:
        encoder: as it computes: its device, dtype and weights.
        batch: pictures at a time.
        tokens: of texts at a time, padding counted.
    """

    def __init__(self, encoder: Encoder, batch: int, tokens: int) -> None:
        self.encoder, self.batch, self.tokens = encoder, batch, tokens
        self.dimension = encoder.dimension

    def texts(self, keys: Sequence[str], texts: Sequence[str]) -> list[Vector | Rejection]:
        """Vectors of texts, in order; batches are of like lengths."""
        inputs = self.encoder.processor
        rows = tokens_of(inputs, texts)
        read = {at: row for at, row in enumerate(rows) if not isinstance(row, Rejection)}
        order = sorted(read, key=lambda at: (-len(read[at]), at))  # the longest first: memory runs out at once or never
        found: dict[int, Vector | Rejection] = {at: row for at, row in enumerate(rows) if isinstance(row, Rejection)}
        while order:
            count = max(1, self.tokens // len(read[order[0]]))
            self._fill(found, order[:count], lambda some: inputs.padded([read[at] for at in some]))
            order = order[count:]
        return _settled([found[at] for at in range(len(texts))])

    def pictures(self, keys: Sequence[str], pictures: Sequence[Picture]) -> list[Vector | Rejection]:
        """Vectors of upright RGB pictures (H, W, 3), in order."""
        found: dict[int, Vector | Rejection] = {}
        order = list(range(len(pictures)))
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            self._fill(found, some, lambda part: self.encoder.pictures([sound(pictures[at]) for at in part]))
        return _settled([found[at] for at in order])

    def close(self) -> None:
        """Nothing runs."""

    def _fill(self, found: dict[int, Vector | Rejection], rows: list[int], batch: Callable[[list[int]], Batch]) -> None:
        """Embeds rows together; where that fails, in halves, down to the one that cannot be."""
        try:
            with torch.inference_mode():
                vectors = self.encoder(batch(rows)).cpu().numpy()
        except _MACHINE:
            raise
        except Exception as error:
            if isinstance(error, _LOST) or (len(rows) == 1 and not isinstance(error, Rejection) and not self._works(error)):
                raise MachineError(f"the encoder's machine fails: {type(error).__name__}: {error}") from error
            if len(rows) == 1:
                found[rows[0]] = _fault(error)
                return
            self._fill(found, rows[: len(rows) // 2], batch)
            self._fill(found, rows[len(rows) // 2 :], batch)
            return
        for row, vector in zip(rows, vectors, strict=True):
            finite = np.isfinite(vector).all()
            found[row] = vector if finite else Rejection("failed", "its vector has numbers that are not finite")

    def _works(self, error: Exception) -> bool:
        """Whether what a row failed by is the row's: another text gets through, and it was not memory, which bounds no row."""
        if isinstance(error, torch.OutOfMemoryError):
            return False
        try:
            with torch.inference_mode():
                self.encoder(self.encoder.texts([_KNOWN])).cpu()
        except Exception:  # noqa: BLE001  whatever it is, it is no text's fault
            return False
        return True


class Desk:
    """vLLM's engine behind the desk; see `geobatch.methods.ngcg.serve.Embedder`.

    Args:
        weights: folder or hub name of the whole weights.
        encoding: see `Encoding`.
        config: how it is served; its context is set here.

    Raises:
        UserError: vLLM does not serve this model.
        MachineError: it does not start.
    """

    def __init__(self, weights: str, encoding: Encoding, config: GeneratorConfig) -> None:
        self.inputs = Inputs(weights, encoding)
        self.dimension = encoding.dimensions or int(self.inputs.config.get_text_config().hidden_size)
        config = replace(config, context=max(encoding.text_tokens, len(self.inputs.prompt)) + _SPARE)
        backend = Pooled(weights, config, encoding.pooling, processor_settings(self.inputs))
        self.generator = Generator(backend, in_flight=config.in_flight, deadline_s=config.deadline_s)
        self.bare = bare_prompt(self.inputs)

    def texts(self, keys: Sequence[str], texts: Sequence[str]) -> list[Vector | Rejection]:
        """Vectors of texts, in order."""
        rows = zip(keys, tokens_of(self.inputs, texts), strict=True)
        return self._ask([row if isinstance(row, Rejection) else Request(key, prompt=tuple(row)) for key, row in rows])

    def pictures(self, keys: Sequence[str], pictures: Sequence[Picture]) -> list[Vector | Rejection]:
        """Vectors of upright RGB pictures (H, W, 3), in order."""
        return self._ask([self._tile(key, picture) for key, picture in zip(keys, pictures, strict=True)])

    def close(self) -> None:
        """Stops the engine."""
        self.generator.close()

    def _tile(self, key: str, picture: Picture) -> Request | Rejection:
        try:
            return Request(key, picture=self.inputs.squared(sound(picture)), prompt=self.bare)
        except Exception as error:  # noqa: BLE001  Pillow's, of this picture alone
            return _fault(error)

    def _ask(self, asked: list[Request | Rejection]) -> list[Vector | Rejection]:
        replies = iter(self.generator.ask([each for each in asked if isinstance(each, Request)], Sampling()))
        return _settled([each if isinstance(each, Rejection) else self._vector(each, next(replies)) for each in asked])

    def _vector(self, request: Request, reply: Reply) -> Vector | Rejection:
        if reply.fault is not None or reply.vector is None:
            return reply.fault or Rejection("failed", "vLLM gave no vector")
        meant = len(self.inputs.prompt if request.picture is not None else request.prompt or ())
        if reply.prompt_tokens != meant:
            raise MachineError(f"vLLM read {reply.prompt_tokens} tokens where training read {meant}; "
                               "serve this model with --serving.backend transformers, and report it")  # fmt: skip
        short = reply.vector[: self.dimension]
        return np.asarray(short / np.linalg.norm(short), np.float32)


def processor_settings(inputs: Inputs) -> dict[str, Any]:
    """What keeps a family's own processor from splitting or resizing a picture that `Inputs.squared` made."""
    side = inputs.side
    if "internvl" in inputs.family.kinds:
        return {"crop_to_patches": False, "size": {"height": side, "width": side}}
    if "smolvlm" in inputs.family.kinds:
        return {"do_image_splitting": False, "size": {"longest_edge": side}, "max_image_size": {"longest_edge": side}}
    return {"size": {"shortest_edge": side * side, "longest_edge": side * side}}


def bare_prompt(inputs: Inputs) -> tuple[int, ...]:
    """A tile's prompt as vLLM takes it: one image token, whose run and, but for Qwen, whose marks its processor writes."""
    image = int(inputs.config.image_token_id)
    first, count = inputs.prompt.index(image), inputs.prompt.count(image)
    if "qwen2_5_vl" in inputs.family.kinds:
        return (*inputs.prompt[: first + 1], *inputs.prompt[first + count :])
    ends = len(inputs.prompt) - inputs.encoding.end
    return (image, *inputs.prompt[ends:])


def tokens_of(inputs: Inputs, texts: Sequence[str]) -> list[list[int] | Rejection]:
    """The tokens of each text, or why it has none."""
    try:
        return list(inputs.tokens(texts)) if texts else []
    except Exception:  # noqa: BLE001  of one of them, found below
        found: list[list[int] | Rejection] = []
        for text in texts:
            try:
                found += inputs.tokens([text])
            except Exception as error:  # noqa: BLE001  of this text alone
                found.append(_fault(error))
        return found


def sound(picture: Picture) -> Picture:
    """The picture itself; Pillow would resize nearly anything.

    Raises:
        Rejection: it is no (H, W, 3) of uint8.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise Rejection("broken", f"{picture.dtype} numbers of shape {picture.shape} are no picture")
    return picture


def _fault(error: Exception) -> Rejection:
    return error if isinstance(error, Rejection) else Rejection("failed", f"{type(error).__name__}: {error}")


def _settled(found: list[Vector | Rejection]) -> list[Vector | Rejection]:
    """What was found.

    Raises:
        MachineError: every one of several failed, and not for what they are.
    """
    if fault := engines_fault([each if isinstance(each, Rejection) else None for each in found]):
        raise MachineError(f"every one of {len(found)} fails to be embedded: {fault.detail}")
    return found
