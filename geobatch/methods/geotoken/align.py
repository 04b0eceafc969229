"""Geo-Alignment, phase 1 of GeoToken: an image encoder learns that near places look alike.

The paper trains heads on a frozen CLIP by InfoNCE between image and GPS, and image and text (arXiv
2511.01082, section 3.1; the recipe is G3's). `Align.paper()` is the GPS part of it. A small encoder from
random weights learns faster from images alone: in a batch of clusters, each picture is to find those near
it ("places"), with targets that fall with distance. Both losses can be summed.

A batch is `clusters` runs of neighbours on S2's Hilbert curve, which are near each other without any
search: sorting is all the preparation, for thousands of images or millions. Far clusters are the easy
negatives, the rest of a cluster the hard ones.

Each step's rows and changes are a function of (seed, step, rank), so a fit that is taken up again goes on
as if it had never stopped. With batch normalisation two workers are not exactly one (each normalises its
half); with any other network they are.

Not covered: text (no captions yet); GradCache for batches beyond memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.engine.vision import HeadConfig, ImageNetwork, bf16_pays, network
from geobatch.errors import UserError
from geobatch.geo import point
from geobatch.methods.geotoken.pack import PICTURES, PLACES, pack, write_small
from geobatch.train import loop as training
from geobatch.train.augment import Augment
from geobatch.train.infonce import Contrast, InfoNCE

__all__ = ["Align", "Alignment", "align", "pack", "write_small"]


@dataclass(frozen=True, kw_only=True)
class Align:
    """How the encoder learns."""

    head: HeadConfig = field(default_factory=lambda: HeadConfig(size=128, grid=3))
    """The head that is trained onto the encoder."""

    frozen: bool = False
    """Whether the encoder below the head keeps its weights (paper)."""

    against: Literal["places", "gps", "both"] = "places"
    """What pictures are compared with: pictures of near places, their own coordinates (paper), or both."""

    contrast: Contrast = field(default_factory=lambda: Contrast(scale=16.0, soft_km=40.0))
    """The loss between pictures."""

    gps_contrast: Contrast = field(default_factory=Contrast)
    """The loss between pictures and coordinates."""

    gps: Gps = field(default_factory=lambda: Gps(size=128, width=256))
    """The location encoder; its vectors are as long as the head's."""

    augment: Augment = field(default_factory=Augment)
    """How training pictures are changed."""

    batch: int = 512
    """Pictures a step, over all workers together."""

    clusters: int = 64
    """Runs of near pictures in a batch; 0: all pictures are drawn at random."""

    window: int = 32
    """Length of the piece of the Hilbert curve that a run is drawn from, in pictures."""

    steps: int = 350
    """Steps in all."""

    learning_rate: float = 3e-3
    """AdamW's learning rate at its highest; it falls to zero along a half cosine."""

    weight_decay: float = 0.02
    """AdamW's weight decay."""

    warm_up: int = 20
    """Steps over which the learning rate rises linearly."""

    seed: int = 0
    """Seed of the first weights, the batches and the changes."""

    @classmethod
    def paper(cls) -> Align:
        """Heads on a frozen encoder against coordinates, as in G3: 768 numbers, batch 256, AdamW 3e-5."""
        return cls(
            head=HeadConfig(size=768),
            frozen=True,
            against="gps",
            gps=Gps(size=768),
            batch=256,
            clusters=0,
            learning_rate=3e-5,
            weight_decay=1e-6,
        )


class _Losses(nn.Module):
    """Network and losses in one module, whose forward is the loss: what DistributedDataParallel wraps."""

    def __init__(self, config: Align, encoder: ImageNetwork) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.contrast = InfoNCE(config.contrast) if config.against != "gps" else None
        self.gps = LocationEncoder(config.gps) if config.against != "places" else None
        self.gps_contrast = InfoNCE(config.gps_contrast) if config.against != "places" else None

    def forward(self, values: Tensor, places: Tensor, points: Tensor) -> Tensor:
        """Pictures as the network reads them (B, 3, H, W), (B, 2) degrees, (B, 3) unit vectors -> loss."""
        vectors = self.encoder(values)
        with torch.autocast(values.device.type, enabled=False):
            loss = vectors.new_zeros(())
            if self.contrast is not None:
                loss = loss + self.contrast.between(vectors, points)
            if self.gps is not None and self.gps_contrast is not None:
                loss = loss + self.gps_contrast(vectors, self.gps(places[:, 0], places[:, 1]), points)
            return loss


class Alignment:
    """One worker's alignment; a `geobatch.train.loop.Trainee`."""

    def __init__(self, config: Align, encoder: str, data: Path, worker: training.Worker | None = None) -> None:
        worker = worker or training.Worker()
        self.config, self.worker = config, worker
        self.device = torch.device(worker.device)
        self.bf16 = bf16_pays(self.device)
        self._pictures = np.load(data / PICTURES, mmap_mode="r")
        self._places = np.load(data / PLACES)
        if config.batch % worker.world:
            raise UserError(f"a batch of {config.batch} cannot be shared by {worker.world} workers; use a multiple")
        if len(self._places) < config.batch:
            raise UserError(f"{len(self._places)} training pictures are less than one batch; lower it from {config.batch}")
        self.encoder = network(encoder, config.head, config.seed)
        losses = _Losses(config, self.encoder).to(self.device)
        if config.frozen:
            self.encoder.trunk.requires_grad_(False)
        self.step = 0
        self._drop_idle(losses)
        self._losses = worker.wrap(losses)
        self._parameters = [parameter for parameter in losses.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
        )

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.config.steps

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of a step's whole batch, the same on every worker; no row twice."""
        config, count = self.config, len(self._places)
        rng = np.random.default_rng([config.seed, step])
        if not config.clusters:
            return rng.choice(count, config.batch, replace=False)
        anchors = rng.choice(count, config.clusters, replace=False)
        size = -(-config.batch // config.clusters)
        nearby = rng.random((config.clusters, config.window)).argsort(axis=1)[:, :size]
        drawn = np.unique((anchors[:, None] + nearby - config.window // 2) % count)
        missing = config.batch - len(drawn)
        if missing > 0:  # two runs overlapped, or the window is short
            others = np.setdiff1d(rng.choice(count, min(count, 2 * config.batch), replace=False), drawn)
            drawn = np.concatenate([drawn, rng.permutation(others)[:missing]])
        return rng.permutation(drawn)[: config.batch]

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.rows(step)[self.worker.rank :: self.worker.world]
        seed = np.random.SeedSequence([self.config.seed, step, self.worker.rank]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        levels = torch.from_numpy(self._pictures[rows]).to(self.device).permute(0, 3, 1, 2).float()
        values = self.encoder.reads.normalise(self.config.augment(levels, generator))
        places = self._places[rows]
        points = point.unit_vectors(places[:, 0], places[:, 1])
        degrees, vectors = (torch.from_numpy(each).float().to(self.device) for each in (places, points))
        return values, degrees, vectors

    def _drop_idle(self, losses: nn.Module) -> None:
        """Parameters no gradient reaches (CLIP's text half) would make DistributedDataParallel wait for ever."""
        state = {name: value.clone() for name, value in losses.state_dict().items()}
        losses(*(each[:8] for each in self._batch(0))).backward()
        for parameter in losses.parameters():
            if parameter.grad is None:
                parameter.requires_grad_(False)
            parameter.grad = None
        losses.load_state_dict(state)

    def advance(self) -> float:
        """One step; returns the loss."""
        config = self.config
        rising = min(1.0, (self.step + 1) / max(config.warm_up, 1))
        falling = 0.5 * (1 + float(np.cos(np.pi * self.step / config.steps)))
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * rising * falling
        self._losses.train()
        if config.frozen:
            self.encoder.trunk.eval()
        batch = self._batch(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss: Tensor = self._losses(*batch)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self.step += 1
        return float(loss.detach())

    def _module(self) -> nn.Module:
        module: nn.Module = getattr(self._losses, "module", self._losses)
        return module

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"step": self.step, "model": self._module().state_dict(), "optimiser": self._optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state` of the same config, encoder and data."""
        self._module().load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def save(self, folder: Path) -> None:
        """The encoder as a folder that `geobatch.engine.vision` reads."""
        self.encoder.save(folder)


def align(
    config: Align,
    encoder: str,
    data: Path,
    output: Path,
    *,
    name: str,
    loop: training.Loop | None = None,
    watch: Callable[[int, int, float], None] | None = None,
) -> dict[str, float]:
    """Trains an encoder on packed pictures and writes its folder; the figures are those of
    `geobatch.train.loop.fit`.

    Args:
        encoder: transformers folder or name to begin with; a folder with a `config.json` and no weights begins at random.
        data: folder that `pack` wrote, readable by every worker.
        output: folder of the trained encoder.
        name: what decides the result, as a name; the same name takes the same training up again.
    """
    return training.fit(lambda worker: Alignment(config, encoder, data, worker), output, name=name, loop=loop, watch=watch)
