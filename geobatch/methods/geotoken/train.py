"""How the network learns: the same steps alone, or as one of several workers that share each batch.

`Fit` is one worker's view of training. It needs nothing but torch: whoever runs several workers passes `wrap` (such as
DistributedDataParallel, which averages their gradients), `rank` and `world`. A step's images, which neighbours are hidden
and every dropout are functions of (seed, step, rank), so a fit restored from `state` goes on as if it had never stopped, and
a batch is the same set of images however many workers share it: the mean of W equal workers' gradients is the gradient of
one (the tests compute both).

The gallery is held once, and examples name their neighbours by row: with 15 neighbours of 2304 floats each, an array of
neighbours' vectors would be 15 times the gallery. Whoever makes the rows leaves each image itself out.

Measured: 700 steps of 256 images with the demo's network take 235 core-seconds in bfloat16 (AVX-512, EPYC); in float32 the
matrix products alone run at half the speed. On a gallery whose nearest image lies within 25 km for 26 % of held-out
pictures, greedy places then do for 27 % and 81 % within 200 km.

Not covered: mixed shards of different length a worker (each step needs `batch` images, the last incomplete batch of an
epoch is left out), gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobatch.errors import UserError
from geobatch.geo import distance, point
from geobatch.methods.geotoken.config import GeoToken, Training
from geobatch.methods.geotoken.draws import greedy
from geobatch.methods.geotoken.inputs import Context, codes_of, places_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.schema import RADII_KM

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gallery:
    """G images that may be neighbours.

    Args:
        vectors: (G, V·D), the views of each image one after another.
        latitude: (G,) degrees.
        longitude: (G,) degrees.
    """

    vectors: npt.NDArray[np.float32]
    latitude: Array
    longitude: Array


@dataclass(frozen=True)
class Examples:
    """N images with known places and their neighbours.

    Args:
        vectors: (N, V·D).
        latitude: (N,) degrees.
        longitude: (N,) degrees.
        neighbours: (N, M') rows of the gallery, nearest first, the image itself left out, -1 where there is none; the
            config's first M are read.
        gallery: what `neighbours` points into.
    """

    vectors: npt.NDArray[np.float32]
    latitude: Array
    longitude: Array
    neighbours: npt.NDArray[np.int64]
    gallery: Gallery


class Batches:
    """Examples as tensors, places as codes, computed once."""

    def __init__(self, config: GeoToken, examples: Examples) -> None:
        width = len(config.views) * config.vector_size
        if examples.vectors.shape[1:] != (width,) or examples.gallery.vectors.shape[1:] != (width,):
            raise UserError(f"training vectors are not {width} long; set views and vector_size to the encoder's")
        if examples.neighbours.shape[1] < config.neighbours:
            raise UserError(f"the model reads {config.neighbours} neighbours; retrieve that many or lower `neighbours`")
        self.config = config
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples.vectors)

    @cached_property
    def codes(self) -> npt.NDArray[np.int16]:
        """(N, T) what the decoder is to write."""
        return codes_of(self.examples.latitude, self.examples.longitude, self.config).astype(np.int16)

    @cached_property
    def gallery_codes(self) -> npt.NDArray[np.int16]:
        """(G, T)."""
        gallery = self.examples.gallery
        return codes_of(gallery.latitude, gallery.longitude, self.config).astype(np.int16)

    @cached_property
    def gallery_points(self) -> npt.NDArray[np.float32]:
        """(G, 3) unit vectors."""
        gallery = self.examples.gallery
        return point.unit_vectors(gallery.latitude, gallery.longitude).astype(np.float32)

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[Context, Tensor]:
        """(B,) rows -> the batch and its codes (B, T)."""
        views = (len(self.config.views), self.config.vector_size)
        near = self.examples.neighbours[rows, : self.config.neighbours]
        present = near >= 0
        near = np.where(present, near, 0)
        context = Context(
            torch.from_numpy(self.examples.vectors[rows]).unflatten(-1, views),
            torch.from_numpy(self.examples.gallery.vectors[near]).unflatten(-1, views),
            torch.from_numpy(self.gallery_codes[near].astype(np.int64)),
            torch.from_numpy(self.gallery_points[near]),
            torch.from_numpy(present),
        )
        return context, torch.from_numpy(self.codes[rows].astype(np.int64))


class Fit:
    """One worker's training.

    Args:
        wrap: what makes the workers one, called once with the model on its device; its `forward` is the loss.
    """

    def __init__(
        self,
        config: GeoToken,
        training: Training,
        examples: Examples,
        *,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.batches = Batches(config, examples)
        if training.batch % world:
            raise UserError(f"a batch of {training.batch} cannot be shared equally by {world} workers; use a multiple")
        if len(self.batches) < training.batch:
            raise UserError(f"{len(self.batches)} training images are less than one batch; lower it from {training.batch}")
        self.training, self.rank, self.world, self.device = training, rank, world, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = GeoTokenModel(config).to(self.device)
        self.wrapped = wrap(self.model) if wrap else self.model
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.step = 0

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
        order = np.random.default_rng([self.training.seed, epoch]).permutation(len(self.batches))
        return order[at * self.training.batch : (at + 1) * self.training.batch][self.rank :: self.world]

    def batch(self, step: int) -> tuple[Context, Tensor]:
        """This worker's part of a step's batch, some neighbours hidden where `neighbour_dropout` says so."""
        context, codes = self.batches.take(self.rows(step))
        if self.training.neighbour_dropout > 0:
            generator = np.random.default_rng([self.training.seed, step, 1])
            kept = generator.random((self.training.batch, context.present_BM.shape[1])) >= self.training.neighbour_dropout
            hidden = torch.from_numpy(kept[self.rank :: self.world])
            context = replace(context, present_BM=context.present_BM & hidden)
        return context.to(self.device), codes.to(self.device)

    def advance(self) -> float:
        """One step; returns this worker's loss."""
        self.wrapped.train()
        context, codes = self.batch(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.training.seed, self.step, self.rank]).generate_state(1)[0]))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.bf16):
                loss: Tensor = self.wrapped(context, codes)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on from here."""
        return {"step": self.step, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of a fit of the same config, training and examples."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])


@torch.inference_mode()
def evaluate(model: GeoTokenModel, examples: Examples, batch: int = 256) -> dict[str, float]:
    """Figures on images kept out of training.

    Returns:
        `loss` (nats, weighted as in training), `token_T` the share of images whose token T is right given the right ones
        before it, and `greedy_Rkm` the share of greedy places within R km.
    """
    batches = Batches(model.config, examples)
    device = model.offsets.device
    model.eval()
    losses, right, written = [], [], []
    for start in range(0, len(batches), batch):
        context, codes = batches.take(np.arange(start, min(start + batch, len(batches))))
        context, codes = context.to(device), codes.to(device)
        logits = model.logits(model.encode(context), codes)
        tokens = [nn.functional.cross_entropy(x, codes[:, t], reduction="none") for t, x in enumerate(logits)]
        losses.append(torch.stack(tokens, dim=1) @ model.weights / model.weights.sum())
        right.append(torch.stack([x.argmax(-1) == codes[:, t] for t, x in enumerate(logits)], dim=1))
        written.append(greedy(model, context)[0])
    latitude, longitude = places_of(torch.cat(written).cpu().numpy(), model.config)
    off = distance.haversine_km(latitude, longitude, examples.latitude, examples.longitude)
    shares = torch.cat(right).double().mean(0).tolist()
    return {
        "loss": float(torch.cat(losses).mean()),
        **{f"token_{t}": share for t, share in enumerate(shares)},
        **{f"greedy_{km}km": float(distance.within(off, km).mean()) for km in RADII_KM},
    }
