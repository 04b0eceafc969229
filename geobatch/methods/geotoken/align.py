"""Geo-Alignment, phase 1 of GeoToken: what is learnt, and the network that learns it.

The paper trains heads on a frozen CLIP by InfoNCE between image and GPS, and image and text (arXiv 2511.01082, section 3.1); it
publishes no recipe, so `Align.paper()` is G3's (NeurIPS 2024): a location head against a GPS encoder that begins as GeoCLIP's,
a text head against captions of city, state and country, learnable scales from exp(3.99), AdamW at 3e-5, times 0.87 an epoch,
ten epochs of 256. An image then has three vectors: the trunk's own, and the two heads'. A small encoder from random weights
learns faster from images alone: in a batch of clusters, each picture is to find those near it ("places"), with targets that
fall with distance. The losses are summed.

Where we deviate: pictures of the same S2 cell of level 13 (1.1 km) are no negatives of each other's coordinates, nor pictures
of the same town of each other's captions, since they would be told apart by chance; heads read the trunk's vector at one length
(`unit`), so that they are trained from a table of vectors; and GeoCLIP's 512 numbers become the head's 768 by an isometry in
the last layers (`widened`) instead of a head of its own, so that what is saved is one location encoder.

The trunk is frozen, or trained, or adapted by LoRA, the text trunk frozen or adapted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.engine.heads import IMAGE, HeadConfig
from geobatch.engine.text import TextNetwork
from geobatch.engine.vision import ImageNetwork, Precision
from geobatch.errors import UserError
from geobatch.train.augment import Augment
from geobatch.train.infonce import Contrast, InfoNCE

#: Names of the heads beside the trunk's own vector.
LOCATION, TEXT = "location", "text"


@dataclass(frozen=True, kw_only=True)
class Align:
    """How the encoder learns."""

    views: tuple[str, ...] = (IMAGE,)
    """The vectors of a picture: one, from a head; or "image", the encoder's own, with "location" and "text", or one of them."""

    head: HeadConfig = field(default_factory=lambda: HeadConfig(size=128, grid=3))
    """The heads that are trained onto the encoder."""

    frozen: bool = False
    """Whether the encoder below the heads keeps its weights (paper)."""

    lora_rank: int = 0
    """Rank of adapters in the frozen encoders of pictures and of text; 0: none."""

    against: Literal["places", "gps", "both"] = "places"
    """What pictures are compared with: pictures of near places, their own coordinates (paper), or both."""

    contrast: Contrast = field(default_factory=lambda: Contrast(scale=16.0, soft_km=40.0))
    """The loss between pictures."""

    gps_contrast: Contrast = field(default_factory=Contrast)
    """The loss between pictures and coordinates."""

    text_contrast: Contrast = field(default_factory=Contrast)
    """The loss between pictures and captions; pictures of one town are never negatives of each other."""

    gps: Gps = field(default_factory=lambda: Gps(size=128, width=256))
    """The location encoder; its vectors are as long as the head's."""

    caption: str = "A street view photo taken in {city}, {state}, {country}"
    """The caption of a place."""

    augment: Augment | None = field(default_factory=Augment)
    """How training pictures are changed; None: not at all."""

    batch: int = 512
    """Pictures a step, over all workers together."""

    micro_batch: int = 0
    """Pictures that a worker puts through the networks at a time, so that memory is of these and not of the batch; 0: all."""

    clusters: int = 64
    """Runs of near pictures in a batch; 0: all pictures are drawn at random."""

    window: int = 32
    """Length of the piece of the Hilbert curve that a run is drawn from, in pictures."""

    buffer: int = 32_768
    """Rows of a table of vectors that are shuffled in memory at a time."""

    steps: int | None = 350
    """Steps in all; None: `epochs`."""

    epochs: int = 10
    """Passes over the pictures where `steps` is None."""

    learning_rate: float = 3e-3
    """AdamW's learning rate at its highest."""

    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate: down to zero along a half cosine, or times `gamma` after each epoch (paper)."""

    gamma: float = 0.87
    """Factor of the learning rate after each epoch, for schedule "step"."""

    weight_decay: float = 0.02
    """AdamW's weight decay."""

    warm_up: int = 20
    """Steps over which the learning rate rises linearly."""

    precision: Precision = "auto"
    """Arithmetic of the networks; losses are float32 whatever it is."""

    seed: int = 0
    """Seed of the first weights, the batches and the changes."""

    def __post_init__(self) -> None:
        if len(self.views) > 1 and (self.views[0] != IMAGE or set(self.views[1:]) - {LOCATION, TEXT}):
            raise UserError(f'views are "image" with "location", "text" or both, not {", ".join(self.views)}; correct them')
        if not self.views or self.batch < 2 or min(self.micro_batch, self.lora_rank, self.clusters) < 0:
            raise UserError("an alignment has at least a view, two pictures a step and no negative size; correct the settings")
        if self.epochs < 1 or (self.steps is not None and self.steps < 1) or not self.learning_rate > 0:
            raise UserError("an alignment has at least one step and one epoch and learns at some rate; correct the settings")
        if self.lora_rank and not self.frozen:
            raise UserError("adapters are for an encoder that keeps its weights; set frozen, or lora_rank to 0")

    @property
    def heads(self) -> HeadConfig | dict[str, HeadConfig | None]:
        """As `geobatch.engine.vision.network` takes them."""
        return self.head if len(self.views) == 1 else {name: None if name == IMAGE else self.head for name in self.views}

    @property
    def placed(self) -> str:
        """The view that is compared with places and coordinates."""
        return LOCATION if LOCATION in self.views else self.views[-1]

    @property
    def still(self) -> bool:
        """Whether an image's features are the same in every step, so that they can be computed once."""
        return self.frozen and not self.lora_rank and self.augment is None and self.head.unit and not self.head.grid

    def length(self, images: int) -> int:
        """Steps in all, over so many images."""
        return self.steps if self.steps is not None else self.epochs * max(1, images // self.batch)

    def rate(self, step: int, images: int) -> float:
        """The learning rate of a step."""
        rising = min(1.0, (step + 1) / max(self.warm_up, 1))
        if self.schedule == "step":
            return self.learning_rate * rising * self.gamma ** (step // max(1, images // self.batch))
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / self.length(images)))

    @classmethod
    def paper(cls, text: bool = True) -> Align:
        """Heads on a frozen encoder against coordinates and, with `text`, captions."""
        return cls(
            views=(IMAGE, LOCATION, TEXT) if text else (IMAGE, LOCATION),
            head=HeadConfig(size=768, hidden=768, unit=True),
            frozen=True,
            against="gps",
            gps_contrast=Contrast(same_cell=13),
            gps=Gps(size=768),
            augment=None,
            batch=256,
            clusters=0,
            steps=None,
            learning_rate=3e-5,
            schedule="step",
            weight_decay=1e-6,
            warm_up=0,
        )


class Batch(NamedTuple):
    """Pictures of one worker, or a piece of them, and what they are compared with.

    Fields:
        seen: (B, 3, H, W) as the trunk reads pictures, or (B, C), its own vectors.
        degrees: (B, 2) float32 latitudes and longitudes.
        points: (B, 3) unit vectors.
        cells: (B,) numbers of S2 cells, or None.
        towns: (B,) numbers of the nearest towns, or None.
        captions: (ids, mask) of the towns' captions, or (features,) of a text trunk that keeps its weights, or ().
    """

    seen: Tensor
    degrees: Tensor
    points: Tensor
    cells: Tensor | None = None
    towns: Tensor | None = None
    captions: tuple[Tensor, ...] = ()


class Towers(nn.Module):
    """Networks and losses in one module, whose forward is the loss: what DistributedDataParallel wraps."""

    def __init__(
        self, config: Align, encoder: ImageNetwork, gps: LocationEncoder | None = None, text: TextNetwork | None = None
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.gps, self.text = config, encoder, gps, text
        self.contrast = InfoNCE(config.contrast) if config.against != "gps" else None
        self.gps_contrast = InfoNCE(config.gps_contrast) if config.against != "places" else None
        self.text_contrast = InfoNCE(config.text_contrast) if text is not None else None

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a worker's batch."""
        return self.loss(self.embed(batch), batch)

    def embed(self, batch: Batch) -> list[Tensor]:
        """Unit vectors (B, D) float32: the view for places, then its coordinates', the view for text and its captions', as
        far as they are trained.
        """
        if batch.seen.ndim == 2:
            views = self.encoder.each(batch.seen)
        elif len(self.config.views) == 1:
            views = {self.config.placed: self.encoder(batch.seen)}
        else:
            views = self.encoder.each(self.encoder.features(batch.seen))
        found = [views[self.config.placed]]
        if self.gps is not None:
            with torch.autocast(batch.seen.device.type, enabled=False):
                found.append(self.gps(batch.degrees[:, 0], batch.degrees[:, 1]))
        if self.text is not None:
            said = batch.captions[0] if len(batch.captions) == 1 else self.text.features(*batch.captions)
            found += [views[TEXT], self.text(said)]
        return found

    def loss(self, vectors: list[Tensor], batch: Batch) -> Tensor:
        """The sum of the losses of what `embed` gave for all of a worker's pictures; of `batch` only the places are read."""
        view, *rest = vectors
        with torch.autocast(view.device.type, enabled=False):
            loss = view.new_zeros(())
            if self.contrast is not None:
                loss = loss + self.contrast.between(view, batch.points)
            if self.gps_contrast is not None:
                loss = loss + self.gps_contrast(view, rest.pop(0), batch.points, batch.cells)
            if self.text_contrast is not None:
                loss = loss + self.text_contrast(rest[0], rest[1], batch.points, batch.towns)
            return loss


def location_encoder(config: Gps, weights: Any = None) -> LocationEncoder:
    """A location encoder to begin with.

    Args:
        config: sizes, and the seed where weights are random.
        weights: path of GeoCLIP's location encoder, or None.
    """
    if weights is None:
        return LocationEncoder(config)
    return widened(LocationEncoder.geoclip(weights), config.size, config.seed)


@torch.no_grad()
def widened(encoder: LocationEncoder, size: int, seed: int = 0) -> LocationEncoder:
    """The same encoder with longer vectors: every cosine between two places stays as it was.

    The vectors are turned into `size` dimensions by a matrix with orthonormal columns, folded into the scales' last layers,
    all of whose weights can then be trained.

    Raises:
        UserError: its vectors are longer than that.
    """
    had = encoder.config.size
    if had == size:
        return encoder
    if had > size:
        raise UserError(f"the location encoder's vectors have {had} numbers; give heads of at least that size")
    found = LocationEncoder(replace(encoder.config, size=size))
    noise = torch.randn(size, had, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(noise).Q.float()
    state = encoder.state_dict()
    last = f"network.{2 * encoder.config.layers}"
    for name, value in state.items():
        if last in name:
            state[name] = turn @ value
    found.load_state_dict(state)
    return found
