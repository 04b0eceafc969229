"""How the encoder learns: one worker's view, alone or as one of several that share each batch.

A step embeds B texts and their B tiles with one network, gathers the tiles of all workers with their gradients, and has each
text find its own (`geobatch.train.infonce.InfoNCE.towards`). With `micro_batch` a worker's part goes through the network in
pieces (`geobatch.train.caching`), at one more forward pass, so that memory bounds a piece and not the batch: the negatives are
what makes this loss work, and the paper's 10 is what one GPU held. Nothing is wrapped in DistributedDataParallel; gradients are
averaged once a step, and a weight that no vector depends on is left alone by the optimiser on any number of workers.

In float32, losses over four steps are those of a plain loop of torch and peft to 1e-6 (LoRA, DoRA, every weight), two workers
of 3 are one of 6 to 1e-6 in the losses and to 1e-6 of the largest gradient, pieces are the whole to 2e-6.

What a step does is a function of (seed, step, rank): pairs, texts, changes of tiles, dropout. So a killed training goes on bit
for bit. A checkpoint holds what is trained with its moments, the best weights, mined negatives, history; not the frozen base.

Not covered: networks that are spread over workers; dropout and changes of tiles that are the same for any number of workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geobatch.errors import UserError
from geobatch.methods.ngcg import held as validation_of
from geobatch.methods.ngcg.batches import Batches, Drawn, Order, Piece
from geobatch.methods.ngcg.config import Encoding, Tuning, Validation
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.mine import Mine
from geobatch.methods.ngcg.pairs import Pairs
from geobatch.train import caching, lora
from geobatch.train.finite import refuse_divergence
from geobatch.train.infonce import InfoNCE, Others, nested
from geobatch.train.loop import Worker

#: What `save` writes: the adapters, or every weight, and the list of step, loss, gradient norm, learning rate and temperature.
ADAPTER, MERGED, HISTORY = "adapter", "merged", "history.json"

_COLUMNS = ("step", "loss", "gradient_norm", "learning_rate", "temperature")


class Fit:
    """One worker's training; a `geobatch.train.loop.Trainee`.

    Args:
        base: folder or hub name of the base model.
        tuning: how to learn.
        validation: what is measured on the way, and what is kept.
        pairs: to learn from.
        held: pairs kept out, for validation; may be empty.
        encoding: what decides a vector beside the weights.
        worker: who this is among the others.

    Raises:
        UserError: the batch cannot be shared equally or filled, or settings and network do not fit each other.
    """

    def __init__(
        self,
        base: str,
        tuning: Tuning,
        validation: Validation,
        pairs: Pairs,
        held: Pairs,
        encoding: Encoding,
        worker: Worker | None = None,
    ) -> None:
        self.worker = worker or Worker()
        if tuning.batch % self.worker.world:
            raise UserError(f"{self.worker.world} workers cannot share a batch of {tuning.batch} equally; use a multiple")
        if self.worker.sharded:
            raise UserError("this encoder is not spread over workers; set --loop.parallel ddp")
        self.tuning, self.validation, self.pairs, self.held = tuning, validation, pairs, held
        self.order = Order(pairs.groups, tuning.batch, tuning.distinct, tuning.seed)
        ahead = Order(pairs.groups, tuning.batch, tuning.distinct, tuning.seed)
        self.mined = Mine(pairs, ahead, tuning.hard_every, tuning.hard_negatives, self.worker, tuning.distinct)
        self.device = torch.device(self.worker.device)
        self.encoder = Encoder.load(
            base,
            encoding=encoding,
            dtype="bfloat16" if tuning.bf16 and not tuning.whole else "float32",
            device=self.worker.device,
            lora=None if tuning.whole else tuning.lora,
            whole=tuning.whole,
            seed=tuning.seed,
        )
        if max(tuning.nested, default=0) >= self.encoder.dimension:
            raise UserError(
                f"vectors of {self.encoder.dimension} numbers cannot be cut to {tuning.nested}; nest fewer dimensions"
            )
        self.contrast = InfoNCE(tuning.contrast).to(self.device)
        self.trained = _trained(self.encoder, self.contrast)
        self._parameters = list(self.trained.values())
        self._optimiser = _optimiser(self._parameters, tuning)
        self.batches = Batches(pairs, self.encoder, self.order, tuning, self.worker)
        self.step = 0
        self.history: list[list[float]] = []
        self.measured: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        # The next step's tiles are decoded while this one is computed.
        self._reader = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[Drawn]] | None = None

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.tuning.steps or self.order.steps(self.tuning.epochs)

    def advance(self) -> float:
        """One step; returns the loss of the whole batch.

        Raises:
            UserError: the loss or its gradient is no number.
        """
        if self.mined.due(self.step):
            self._wait()
            self.encoder.eval()
            with self._arithmetic():
                self.mined.mine(self.encoder, self.step, self.steps, self.validation.batch)
        drawn = self._drawn()
        rate = self.tuning.rate(self.step, self.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.encoder.train()
        self._optimiser.zero_grad()
        with self._drawing():
            loss = float(self._backward(drawn))
        idle = [parameter for parameter in self._parameters if parameter.grad is None]
        caching.averaged(self._parameters)
        for parameter in idle:
            parameter.grad = None
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self.tuning.clip))
        refuse_divergence(self.step, loss, norm, "lower --tuning.learning-rate or set --tuning.no-bf16")
        self._optimiser.step()
        self.step += 1
        self.history.append([float(self.step), loss, norm, rate, self.temperature])
        if len(self.held) and (self.step == self.steps or self.step % (self.validation.every or self.order.steps(1)) == 0):
            self.validate()
        return loss

    @property
    def temperature(self) -> float:
        """What cosines are divided by."""
        return float(1 / self.contrast.scale().detach())

    def validate(self) -> dict[str, float]:
        """Figures on the pairs kept out (`held.measure`); keeps the weights if they are the best so far."""
        self._wait()
        self.encoder.eval()
        with self._arithmetic():
            self.measured = validation_of.measure(self.encoder, self.held, self.validation.batch, self.worker)
        found = validation_of.score(self.measured)
        if not self.best or found > self.best["score"]:
            self.best = {"score": found, "step": self.step, "figures": self.measured}
            if self.validation.keep == "best":
                self.best["weights"] = self._weights()
        return self.measured

    def figures(self) -> dict[str, float]:
        """What the report says: `validation_…` of what `save` writes, the step it is of, the pairs that wait in each pass."""
        best = self.best if self.validation.keep == "best" else {}
        figures: dict[str, float] = best.get("figures", self.measured)
        return {
            **{f"validation_{name}": value for name, value in figures.items()},
            "saved_step": float(best.get("step", self.step)),
            "temperature": self.temperature,
            "waiting": float(self.order.waiting),
            "loss_over_chance": validation_of.over_chance(self.history, self.tuning.batch),
        }

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "step": self.step,
            "weights": self._weights(),
            "optimiser": self._optimiser.state_dict(),
            "history": self.history,
            "measured": self.measured,
            "best": self.best,
            "mined": self.mined.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of the same base, pairs and tuning, of any number of workers.

        Raises:
            KeyError: it is of another base or tuning.
        """
        self._put(state["weights"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.mined.restore(state["mined"])
        self.step, self.history = int(state["step"]), list(state["history"])
        self.measured, self.best = dict(state["measured"]), dict(state["best"])
        if "weights" in self.best:  # they came to where the network is
            self.best["weights"] = {name: each.cpu() for name, each in self.best["weights"].items()}
        self._wait()
        self._ahead = None

    def save(self, folder: Path) -> None:
        """Writes the best weights or the last, as `Validation.keep` says, and the history."""
        now = self._weights()
        self._put(self.best.get("weights", now))
        if self.tuning.whole:
            self.encoder.save(folder / MERGED)
        else:
            lora.save(lora.tensors(self.encoder), lora.config_of(self.encoder), folder / ADAPTER)
        self._put(now)
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in self.history]
        (folder / HISTORY).write_text(json.dumps(rows) + "\n")

    def _drawn(self) -> Drawn:
        """This step's part; the next one's is read meanwhile, unless its negatives have to be mined first."""
        ahead, self._ahead = self._ahead, None
        drawn = ahead[1].result() if ahead and ahead[0] == self.step else self._read(self.step)
        after = self.step + 1
        if after < self.steps and not self.mined.due(after):
            self._ahead = after, self._reader.submit(self._read, after)
        return drawn

    def _read(self, step: int) -> Drawn:
        return self.batches.read(step, self.mined.of(step))

    def _wait(self) -> None:
        """Until nothing is read ahead: a tokenizer serves one thread at a time."""
        if self._ahead is not None:
            self._ahead[1].result()

    def _backward(self, drawn: Drawn) -> Tensor:
        """Adds this worker's part of the gradient; returns the loss of the whole batch."""
        if len(drawn.pieces) > 1:
            pieces: list[Callable[[], Piece]] = [partial(piece.on, self.device) for piece in drawn.pieces]
            return caching.backward(pieces, self._embed, partial(self._loss, drawn), self.device)
        loss = self._loss(drawn, self._embed(drawn.pieces[0].on(self.device)))
        loss.backward()
        return loss.detach()

    def _embed(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """(m, D) of the texts and (m, 1 + h, D) of each one's tiles."""
        with self._arithmetic():
            texts, tiles = self.encoder(piece.texts), self.encoder(piece.tiles)
        return texts, tiles.reshape(len(texts), -1, tiles.shape[1])

    def _loss(self, drawn: Drawn, vectors: Sequence[Tensor]) -> Tensor:
        texts, tiles = vectors
        groups, others = drawn.groups.to(self.device), drawn.others.to(self.device)
        same = drawn.words.to(self.device) if self.tuning.distinct else None  # its places are distinct as it is
        said = drawn.said.flatten(0, 1).to(self.device)

        def loss(texts: Tensor, own: Tensor, hard: Tensor) -> Tensor:
            more = Others(hard.flatten(0, 1), others.flatten(), groups, said, same) if others.numel() else None
            value = self.contrast.towards(texts, own, same, more)
            return (value + self.contrast.towards(own, texts, same)) / 2 if self.tuning.symmetric else value

        return nested(loss, [texts, tiles[:, 0], tiles[:, 1:]], self.tuning.nested)

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.tuning.bf16)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Dropout as a function of (seed, step, rank)."""
        words = np.random.SeedSequence([self.tuning.seed, self.step, self.worker.rank, 1]).generate_state(1)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(words[0]))
            yield

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.trained.items()}

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        if odd := weights.keys() ^ self.trained.keys():
            raise KeyError(f"the checkpoint and the network differ in {sorted(odd)[0]}")
        for name, parameter in self.trained.items():
            parameter.copy_(weights[name])


def _trained(encoder: Encoder, contrast: InfoNCE) -> dict[str, nn.Parameter]:
    """What is trained, by name, in an order that depends on names alone."""
    named = [*encoder.named_parameters(), *contrast.named_parameters()]
    return {name: parameter for name, parameter in sorted(named) if parameter.requires_grad}


def _optimiser(parameters: list[nn.Parameter], tuning: Tuning) -> torch.optim.AdamW:
    """Weight decay for matrices only: biases, norms, DoRA's lengths and the temperature are lines or numbers."""
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": tuning.weight_decay},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=tuning.learning_rate, fused=True)
