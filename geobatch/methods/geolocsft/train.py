"""How a student learns: one worker's view, alone or as one of several that share each batch.

The loss of a step is the weighted sum of its answer tokens' losses over the sum of their weights, both over the whole batch:
the workers add up their weights before anyone goes backward. A mean of each worker's (or micro-batch's) mean would count a
token of a short answer more than one of a long answer, and another number of workers would train another model. With it, two
workers' losses over 20 steps are one worker's to 4e-7 in float32, and those of a plain peft loop to 5e-7.

What is checkpointed is the adapters, their two moments and the history of losses, whole tensors by name: 2.7 GB for Gemma 3 27B
at rank 32, and any number of workers takes them up, since the order of examples knows nothing of workers.

Validation writes answers greedily, as the main job does, and measures how far off they are; an answer that names no place
counts as wrong at every radius. Sharded models write in step: a worker whose answers are done goes on computing for the others.

Not covered: dropout that is the same for any number of workers (it is a function of seed, step and rank).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geobatch.engine.answer import Answer, parse
from geobatch.errors import UserError
from geobatch.geo.distance import haversine_km, within
from geobatch.methods.geolocsft.config import Tuning, Validation
from geobatch.methods.geolocsft.data import Encoded, Encoder, Examples, Order, batch, joined
from geobatch.methods.geolocsft.student import Student, load
from geobatch.schema import RADII_KM
from geobatch.train import lora
from geobatch.train.finite import refuse_divergence
from geobatch.train.loop import Worker
from geobatch.train.shard import gathered, in_turn, lend, parted, summed, whole

#: The file beside the adapter that lists step, loss, gradient norm and learning rate.
HISTORY = "history.json"


class Fit:
    """One worker's training.

    Args:
        base: folder or hub name of the base model.
        examples: to train on.
        held: examples kept out, for validation; may be empty.
        encoder: made from the base's processor.
        worker: who this is among the others.

    Raises:
        UserError: the batch cannot be shared equally.
    """

    def __init__(
        self,
        base: str,
        tuning: Tuning,
        validation: Validation,
        examples: Examples,
        held: Examples,
        encoder: Encoder,
        worker: Worker | None = None,
    ) -> None:
        self.worker = worker or Worker()
        if tuning.batch % self.worker.world:
            raise UserError(
                f"a batch of {tuning.batch} cannot be shared equally by {self.worker.world} workers; use a multiple"
            )
        self.tuning, self.validation, self.examples, self.held, self.encoder = tuning, validation, examples, held, encoder
        self.device = torch.device(self.worker.device)
        self.student, self.wrapped = self._built(base)
        self.parameters = dict(sorted(lora.trainable(self.student)))
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=tuning.learning_rate, weight_decay=tuning.weight_decay, foreach=True
        )
        self.order = Order(examples.lengths, tuning.batch, self.steps, tuning.bucket, tuning.seed)
        self.step = 0
        self.history: list[list[float]] = []
        self.measured: dict[str, float] = {}
        self.adapters: dict[str, Tensor] = {}
        # Pictures of the next step are decoded while this one is computed.
        self._reader = ThreadPoolExecutor(1)
        self._ahead: Future[list[Encoded]] | None = None
        self._next = -1

    def _built(self, base: str) -> tuple[Student, nn.Module]:
        sharded = self.worker.sharded
        with in_turn(self.worker.local_rank, self.worker.local_world) if sharded else nullcontext():
            model = lora.attach(
                load(base, self.tuning, "cpu" if sharded else str(self.device)), self.tuning.lora, self.tuning.seed
            )
        ends = cast(Any, model).get_base_model().generation_config.eos_token_id
        ends = [each for each in (ends if isinstance(ends, list) else [ends]) if each is not None]
        self.ends = torch.tensor(ends, dtype=torch.int64)
        if self.encoder.end_ids[-1] not in ends:
            raise UserError(
                f"generation_config.json of {base} does not stop at token {self.encoder.end_ids[-1]}; add it to eos_token_id"
            )
        if self.tuning.checkpointing:
            cast(Any, model).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        student = Student(model)
        if not sharded:
            student.to(self.device)
        wrapped = self.worker.wrap(student)
        if sharded:
            lend(student, "write")
        return student, wrapped

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.tuning.steps or max(1, math.ceil(self.tuning.epochs * len(self.examples) / self.tuning.batch))

    def learning_rate(self, step: int) -> float:
        """Of step `step`, counted from 0."""
        warm = self.tuning.warm_up
        if step < warm:
            return self.tuning.learning_rate * (step + 1) / (warm + 1)
        if self.tuning.schedule == "constant":
            return self.tuning.learning_rate
        return self.tuning.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def parts(self, step: int) -> list[Encoded]:
        """This worker's micro-batches of a step."""
        rows = self.order.rows(step)[self.worker.rank :: self.worker.world]
        size = self.tuning.micro_batch
        return [self._encoded(self.examples, rows[at : at + size].tolist()) for at in range(0, len(rows), size)]

    def _encoded(self, examples: Examples, rows: list[int]) -> Encoded:
        return batch([self.encoder.example(examples.picture(row), examples.answer(row)) for row in rows], self.encoder.pad_id)

    def advance(self) -> float:
        """One step; returns the loss of the whole batch.

        Raises:
            UserError: the loss or its gradient is no number.
        """
        self.wrapped.train()
        parts = self._ahead.result() if self._ahead is not None and self._next == self.step else self.parts(self.step)
        if self.step + 1 < self.steps:
            self._ahead, self._next = self._reader.submit(self.parts, self.step + 1), self.step + 1
        total = float(summed(sum(float(part.weights[:, 1:].sum()) for part in parts), self.device))
        rate = self.learning_rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with self._drawing():
            for number, part in enumerate(parts):
                with self._joining(number == len(parts) - 1):
                    with self._arithmetic():
                        each: Tensor = self.wrapped(_moved(part, self.device))
                    # The wrappers take the mean over workers of what each worker adds here.
                    (each * (self.worker.world / total)).backward()
                loss += each.detach()
        norm = float(whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.tuning.clip)))
        mean = float(summed(loss, self.device)) / total
        refuse_divergence(self.step, mean, norm, "lower --tuning.learning-rate or set --tuning.no-bf16")
        self.optimiser.step()
        self.step += 1
        self.history.append([float(self.step), mean, norm, rate])
        every = self.validation.every
        if len(self.held) and (self.step == self.steps or (every and self.step % every == 0)):
            self.measured = self.validate()
        return mean

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.tuning.bf16)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Dropout as a function of (seed, step, rank)."""
        words = np.random.SeedSequence([self.tuning.seed, self.step, self.worker.rank]).generate_state(1)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(words[0]))
            yield

    @contextmanager
    def _joining(self, last: bool) -> Iterator[None]:
        """Workers exchange gradients once a step, at its last micro-batch."""
        wrapped: Any = self.wrapped
        if self.worker.sharded:
            wrapped.set_requires_gradient_sync(last)
            yield
        elif self.worker.world > 1 and not last:
            with wrapped.no_sync():
                yield
        else:
            yield

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures on the examples kept out; the same on every worker.

        Returns:
            `loss` (nats a token), `median_km` (infinite where half the answers name no place), `answered` (the share that
            names one), and `within_Rkm`, the share of all within R km.
        """
        self.wrapped.eval()
        count, world = len(self.held), self.worker.world
        # As many rows on every worker, so that sharded ones stay in step; those past the end are computed and not counted.
        rows = [self.worker.rank + world * turn for turn in range(math.ceil(count / world))]
        texts: list[tuple[int, tuple[str, bool]]] = []
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for at in range(0, len(rows), self.validation.batch):
            some = rows[at : at + self.validation.batch]
            real = [row % count for row in some]
            encoded = self._encoded(self.held, real)
            encoded.weights[[place for place, row in enumerate(some) if row >= count]] = 0.0
            with self._arithmetic():
                if world > 1 or encoded.weights.any():
                    loss = self.wrapped(_moved(encoded, self.device))
                    sums += torch.stack([loss.double(), encoded.weights[:, 1:].sum().double().to(self.device)])
                written = self.written([self.held.picture(row) for row in real])
            texts += [(row, text) for row, text in zip(some, written, strict=True) if row < count]
        sums = summed(sums, self.device)
        everyone = dict(pair for part in gathered(texts) for pair in part)
        return {"loss": float(sums[0] / sums[1]), **self._distances([everyone[row] for row in range(count)])}

    def written(self, pictures: list[Any]) -> list[tuple[str, bool]]:
        """Greedy answers to some pictures, and whether the model ended each; on every worker at once if it is sharded."""
        asked = joined([self.encoder.question(picture) for picture in pictures], self.encoder.pad_id, left=True)
        moved = {name: each.to(self.device) for name, each in asked.items()}
        ids = self.student.write(moved, self.validation.tokens, self.worker.sharded and self.worker.world > 1).cpu()
        ended = torch.isin(ids, self.ends).any(dim=1).tolist()
        return [(self.encoder.chat.decode(each.tolist())[0], end) for each, end in zip(ids, ended, strict=True)]

    def _distances(self, texts: list[tuple[str, bool]]) -> dict[str, float]:
        found = [parse(text, finished) for text, finished in texts]
        latitude = np.array([each.latitude if isinstance(each, Answer) else np.nan for each in found])
        longitude = np.array([each.longitude if isinstance(each, Answer) else np.nan for each in found])
        off = haversine_km(latitude, longitude, *self.held.places(list(range(len(texts)))))
        off = np.where(np.isnan(off), np.inf, off)
        return {
            "median_km": float(np.median(off)),
            "answered": float(np.isfinite(off).mean()),
            **{f"within_{km}km": float(within(off, km).mean()) for km in RADII_KM},
        }

    def figures(self) -> dict[str, float]:
        """The newest validation, by names that begin with `validation_`."""
        return {f"validation_{name}": value for name, value in self.measured.items()}

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, whole on every worker; sharded workers must all ask."""
        moments = {
            name: {key: whole(value) for key, value in self.optimiser.state[parameter].items()}
            for name, parameter in self.parameters.items()
        }
        self.adapters = lora.tensors(self.student, whole)
        return {
            "step": self.step,
            "adapters": self.adapters,
            "moments": moments,
            "history": self.history,
            "measured": self.measured,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of the same base, examples and tuning, of any number of workers."""
        self.adapters = state["adapters"]
        lora.put(self.student, self.adapters, parted)
        for name, parameter in self.parameters.items():
            self.optimiser.state[parameter] = {
                key: value.cpu() if key == "step" else parted(value, parameter) for key, value in state["moments"][name].items()
            }
        self.step, self.history, self.measured = int(state["step"]), list(state["history"]), dict(state["measured"])

    def save(self, folder: Path) -> None:
        """Writes the adapters of the newest `state` and the history of losses."""
        lora.save(self.adapters, lora.config_of(self.student), folder)
        rows = [dict(zip(("step", "loss", "gradient_norm", "learning_rate"), row, strict=True)) for row in self.history]
        (folder / HISTORY).write_text(json.dumps(rows) + "\n")


def _moved(encoded: Encoded, device: torch.device) -> Encoded:
    return Encoded({name: each.to(device) for name, each in encoded.inputs.items()}, encoded.weights.to(device))
