"""How the network learns: the same steps alone, or as one of several workers that share each batch.

`Fit` is one worker's view of training. It needs nothing but torch: whoever runs several workers passes `wrap` (such as
DistributedDataParallel, which averages their gradients), `rank` and `world`. A step's images, which neighbours are hidden
and every dropout are functions of (seed, step, rank), so a fit restored from `state` goes on as if it had never stopped, and
a batch is the same set of images however many workers share it: the mean of W equal workers' gradients is the gradient of
one (the tests compute both).

A worker's images go through the network `micro_batch` at a time, and their gradients are summed before one step is made, so
that the paper's batch of 2048 runs on any card; workers talk once a step. Without dropout the result is the plain step's to
rounding; with it, the masks differ, which is why a resumed training keeps the size it began with.

On images kept out, rank 0 measures every `validate_steps` steps and at the end; the others wait for it at their next exchange.

Measured: 700 steps of 256 images with the demo's network take 235 core-seconds in bfloat16 (AVX-512, EPYC); in float32 the
matrix products alone run at half the speed. On a gallery whose nearest image lies within 25 km for 26 % of held-out
pictures, greedy places then do for 27 % and 81 % within 200 km.

Not covered: mixed shards of different length a worker (each step needs `batch` images, the last incomplete batch of an
epoch is left out).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobatch.errors import UserError
from geobatch.methods.geotoken.capacity import Capacity, agreed, largest_micro_batch
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.examples import Batches, Examples, blackout_radii, dropped
from geobatch.methods.geotoken.held import evaluate
from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.smoothing import targets
from geobatch.train.finite import refuse_divergence

#: What the network is called with: a context, codes, and what else its loss needs, all with one row an image.
Batch = tuple[Context, *tuple[Tensor, ...]]

#: Images kept out that are looked at during training: 2,000 give a loss to about 1 %.
WATCHED = 2000


class Fit:
    """One worker's training.

    Args:
        held: images kept out of training, measured as it goes on; only rank 0 needs them.
        local_world: workers of this machine, which share its memory.
        wrap: what makes the workers one, called once with the model on its device; its `forward` is the loss.
    """

    remedy = "lower --learning-rate or set --bf16 False"

    def __init__(
        self,
        config: GeoToken,
        training: Training,
        examples: Examples,
        *,
        held: Examples | None = None,
        rank: int = 0,
        world: int = 1,
        local_world: int = 1,
        device: str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.batches = Batches(config, examples)
        if training.batch % world:
            raise UserError(f"a batch of {training.batch} cannot be shared equally by {world} workers; use a multiple")
        if len(self.batches) < training.batch:
            raise UserError(f"{len(self.batches)} training images are less than one batch; lower it from {training.batch}")
        self.training, self.rank, self.world, self.device = training, rank, world, torch.device(device)
        self.local_world = local_world
        self.held: Examples | None = None
        if held is not None and len(held):
            self.held = held.some(np.linspace(0, len(held) - 1, min(WATCHED, len(held))).astype(np.int64))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model: nn.Module = self.built(config).to(self.device)
        self.wrapped = wrap(self.model) if wrap else self.model
        self.optimiser = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.step = 0
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self.micro_batch = training.micro_batch
        self.capacity: Capacity | None = None
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}

    def built(self, config: GeoToken) -> nn.Module:
        """The network at its first step; its `forward` takes what `batch` gives and is the loss."""
        return GeoTokenModel(config)

    @property
    def steps_an_epoch(self) -> int:
        """Whole batches in a pass over the images."""
        return len(self.batches) // self.training.batch

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.training.steps or self.training.epochs * self.steps_an_epoch

    def learning_rate(self, step: int) -> float:
        """Of step `step`, counted from 0."""
        rate = self.training.learning_rate * min(1.0, (step + 1) / max(self.training.warm_up, 1))
        if self.training.schedule == "cosine":
            return rate * 0.5 * (1 + float(np.cos(np.pi * step / self.steps)))
        return rate * self.training.gamma ** (step // self.steps_an_epoch)

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """This worker's rows of a step."""
        epoch, at = divmod(step, self.steps_an_epoch)
        if self._order[0] != epoch:  # for 4 million images 0.1 s, which every step would pay
            self._order = epoch, np.random.default_rng([self.training.seed, epoch]).permutation(len(self.batches))
        return self._order[1][at * self.training.batch : (at + 1) * self.training.batch][self.rank :: self.world]

    def seen(self, step: int) -> tuple[Context, Tensor]:
        """This worker's images of a step on its device, neighbours hidden as the training asks, and their codes."""
        rows, training = self.rows(step), self.training
        hidden = None
        if training.blackout > 0:
            hidden = self.batches.blackout(rows, blackout_radii(training, step)[self.rank :: self.world])
        context, codes = self.batches.take(rows, hidden)
        if training.neighbour_dropout > 0:
            kept = ~dropped(training, step, context.present_BM.shape[1])[self.rank :: self.world]
            context = replace(context, present_BM=context.present_BM & torch.from_numpy(kept))
        return context.to(self.device), codes.to(self.device)

    def batch(self, step: int) -> Batch:
        """This worker's part of a step's batch: what the network is called with."""
        context, codes = self.seen(step)
        if self.training.smoothing_km <= 0:
            return context, codes
        places = self.batches.places(self.rows(step))
        soft = targets(codes.cpu().numpy(), *places, self.batches.config, self.training.smoothing_km)
        return context, codes, soft.to(self.device)

    def advance(self) -> float:
        """One step; returns this worker's loss.

        Raises:
            UserError: the loss or its gradient is no number.
        """
        self.wrapped.train()
        batch = self.batch(self.step)
        if not self.micro_batch:
            self.capacity = largest_micro_batch(self.model, batch, self.training.bf16, self.local_world)
            self.micro_batch = agreed(self.capacity.images, self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.optimiser.zero_grad()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.training.seed, self.step, self.rank]).generate_state(1)[0]))
            loss = self._accumulated(batch)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip))
        refuse_divergence(self.step, loss, norm, self.remedy)
        self.optimiser.step()
        self.step += 1
        every = self.training.validate_steps
        if self.held is not None and (self.step == self.steps or (every and self.step % every == 0)):
            self._measure()
        return loss

    def _accumulated(self, batch: Batch) -> float:
        """Gradients of the batch's mean loss, and that loss."""
        images = len(batch[0])
        loss = torch.zeros((), device=self.device)
        for at in range(0, images, self.micro_batch):
            part: Batch = tuple(value[at : at + self.micro_batch] for value in batch)  # type: ignore[assignment]
            last = at + self.micro_batch >= images
            with nullcontext() if last else self._alone():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.bf16):
                    mine = self.wrapped(*part) * (len(part[0]) / images)
                mine.backward()
            loss += mine.detach()
        return float(loss)

    def _alone(self) -> AbstractContextManager[None]:
        """Without talking to the other workers, where the wrapper can do so."""
        found: AbstractContextManager[None] = getattr(self.wrapped, "no_sync", nullcontext)()
        return found

    def _measure(self) -> None:
        """Figures on the images kept out; the weights too where they are the best so far and are to be kept."""
        if self.rank or self.held is None:
            return
        figures = {"step": float(self.step), **self.measured(self.held)}
        if self.training.keep == "best" and figures["loss"] < min((each["loss"] for each in self.history), default=np.inf):
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.history.append(figures)

    def measured(self, held: Examples) -> dict[str, float]:
        """Figures on images kept out, `loss` among them."""
        assert isinstance(self.model, GeoTokenModel)
        return evaluate(self.model, held)

    def figures(self) -> dict[str, float]:
        """For the report: size of the micro-batch and what an image took of memory, and the best of the measurements."""
        said = {"micro_batch": float(self.micro_batch)}
        if self.capacity is not None:
            said["mib_an_image"] = self.capacity.bytes_an_image / 2**20
        if self.history:
            best = min(self.history, key=lambda each: each["loss"])
            said |= {"best_step": best["step"], "best_loss": best["loss"]}
        return said

    def weights(self) -> dict[str, Tensor]:
        """What becomes the model: the last step's weights, or the best ones."""
        return self.best or self.model.state_dict()

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on from here."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "micro_batch": self.micro_batch,
            "history": self.history,
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of a fit of the same config, training and examples."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.micro_batch = int(state["step"]), int(state["micro_batch"])
        self.history = list(state["history"])
        self.best = {name: value.cpu() for name, value in state["best"].items()}
