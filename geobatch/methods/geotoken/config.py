"""Every number of GeoToken that is a choice, with the paper's values and the demo's.

`GeoToken` is the network and what it reads and writes; `Training` how it learns; `Sampling` and `Selection` how one place is
made of its distribution. `GeoToken.paper()` and `Training.paper()` are arXiv 2511.01082, sections 3 and 4; where paper and
released code differ the paper is followed. `GeoToken.small()` is what two CPU cores train in two minutes.

Four settings are not in the paper, and `paper()` has them off:

- `prefix`: a token of a neighbour is worth copying only if the neighbour agrees with everything decoded so far. A plain
  transformer has to compare two sequences to know; a summary of the prefix, added to the embedding on both sides, turns
  that into one inner product.
- `order`: the Hilbert position of a child says where it lies only together with the parent's orientation, so "the western
  half" is a different token from cell to cell. "quadrant" numbers children by row and column of the cube face instead.
  Both orders name the same cells.
- `relative`: what decides the next token is where the neighbours lie as seen from the cell so far; see `relative`.
- `similarity`: the cosine of each neighbour to the query as a number, which attention can otherwise only approximate.

Nor are `neighbour_dropout`, `blackout` (`examples`) and `smoothing_km` (`smoothing`) in training, which both presets leave off.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from geobatch.errors import UserError

Decode = Literal["sample", "beam", "greedy"]
Selector = Literal["log_probability", "similarity", "expected_distance", "expected_share", "reward", "judge"]


@dataclass(frozen=True, kw_only=True)
class GeoToken:
    """The network: what it reads, its size, what it writes."""

    level: int = 20
    """S2 level of the cells that are decoded, 1 to 30."""
    group_size: int = 1
    """Levels a token stands for: 1 makes 4-way tokens, 2 makes 16-way ones; the face is always a token of its own."""
    tokens: Literal["cells", "regions"] = "cells"
    """What a place's tokens are: S2 cells (paper), or the country, region and name of the nearest town."""
    regions: tuple[int, ...] = ()
    """Countries, most regions of one and most towns of a region in the gazetteer; given where tokens are regions."""
    order: Literal["hilbert", "quadrant"] = "hilbert"
    """How children are numbered: by position on S2's Hilbert curve (paper), or by row and column of the cube face."""
    views: tuple[str, ...] = ("image", "location", "text")
    """Names of the vectors each image has, in the order they are concatenated."""
    vector_size: int = 768
    """Length of each of these vectors."""
    view_sizes: tuple[int, ...] = ()
    """Lengths of these vectors where they differ, none above `vector_size`; empty: all are that long."""
    neighbours: int = 15
    """Retrieved neighbours that the encoder reads."""
    neighbour_places: tuple[Literal["tokens", "fourier"], ...] = ("tokens",)
    """How the encoder is told where neighbours are: their tokens (paper), Fourier features of the point, or both."""
    prefix: Literal["none", "sum", "hash"] = "none"
    """Summary of the tokens before each token: none (paper), sum of their embeddings, or of hashed prefixes' embeddings."""
    prefix_buckets: int = 4096
    """Rows of the table that hashed prefixes share."""
    between: bool = False
    """Whether the first neighbour is no image but the place between images that `geobatch.engine.surface` finds."""
    similarity: bool = False
    """Whether each neighbour's cosine to the query is given as a number."""
    relative: bool = False
    """Whether each step of the decoder is told where neighbours lie in the cell so far; takes order "quadrant"."""
    width: int = 512
    """Width of the transformer (d_model)."""
    encoder_layers: int = 10
    """Layers of the encoder."""
    decoder_layers: int = 10
    """Layers of the decoder."""
    heads: int = 8
    """Attention heads of every layer."""
    feed_forward: int = 1024
    """Hidden width of the feed-forward layers."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    first_weight: float = 2.0
    """Weight of the first token's cross-entropy; falls linearly to `last_weight`."""
    last_weight: float = 1.0
    """Weight of the last token's cross-entropy."""

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 30:
            raise UserError(f"level {self.level} is no S2 level; use 1 to 30")
        if self.group_size < 1:
            raise UserError(f"a token stands for at least one level, not {self.group_size}; use 1 or 2")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is no multiple of {self.heads} heads; change one of them")
        if self.relative and self.order != "quadrant":
            raise UserError("relative places take children numbered by quadrant; set order to quadrant")
        if self.tokens == "regions" and (len(self.regions) != 3 or self.order != "hilbert"):
            raise UserError("tokens of regions take their three sizes and order hilbert; take them from hierarchy(()).sizes")
        if not self.views or self.neighbours < 0:
            raise UserError("a model needs at least one view and no negative number of neighbours; correct the config")
        if self.view_sizes and (len(self.view_sizes) != len(self.views) or max(self.view_sizes) > self.vector_size):
            raise UserError("view_sizes wants one length for each view, at most vector_size; correct the config")

    @property
    def vector_length(self) -> int:
        """Length of an image's vector: all its views one after another."""
        return sum(self.view_sizes) or len(self.views) * self.vector_size

    @property
    def groups(self) -> tuple[int, ...]:
        """Levels that each token after the face stands for; the last holds the rest."""
        whole, rest = divmod(self.level, self.group_size)
        return (self.group_size,) * whole + ((rest,) if rest else ())

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Number of values of each token: 6 faces, then 4 to the power of its levels; or those of the gazetteer."""
        if self.tokens == "regions":
            return self.regions
        return (6, *(4**levels for levels in self.groups))

    @property
    def length(self) -> int:
        """Tokens of a place."""
        return len(self.vocabularies)

    @property
    def weights(self) -> tuple[float, ...]:
        """Loss weight of each token, w_t = 2 - t/20 in the paper."""
        step = (self.last_weight - self.first_weight) / max(self.length - 1, 1)
        return tuple(self.first_weight + step * t for t in range(self.length))

    @classmethod
    def read(cls, fields: dict[str, Any]) -> GeoToken:
        """From what a JSON file made of its fields."""
        plain: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()}
        return cls(**plain)

    @classmethod
    def paper(cls) -> GeoToken:
        """The paper's network, about 55 million parameters."""
        return cls()

    @classmethod
    def small(cls, vector_size: int = 128) -> GeoToken:
        """The demo's network, about a million parameters: one vector an image, 3.5 km cells."""
        return cls(
            level=12, group_size=2, order="quadrant", views=("image",), vector_size=vector_size, neighbours=5,
            neighbour_places=("tokens",), prefix="sum", between=True, similarity=True, relative=True, width=128,
            encoder_layers=2, decoder_layers=2, heads=4, feed_forward=512, dropout=0.0,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the network learns."""

    batch: int = 2048
    """Images a step, over all workers together."""
    micro_batch: int = 0
    """Images that go through a worker's network at a time, their gradients summed; 0: as many as its memory holds."""
    epochs: int = 50
    """Passes over the training images, unless `steps` is given."""
    steps: int | None = None
    """Steps in all; overrides `epochs`."""
    learning_rate: float = 5e-5
    """AdamW's learning rate at its highest."""
    weight_decay: float = 1e-6
    """AdamW's weight decay."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate: times `gamma` after each epoch (paper), or a half cosine down to zero."""
    gamma: float = 0.9
    """Factor of the learning rate after each epoch, for schedule "step"."""
    warm_up: int = 0
    """Steps over which the learning rate rises linearly from zero."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    neighbour_dropout: float = 0.0
    """Share of neighbours hidden at random in training, one by one."""
    blackout: float = 0.0
    """Share of images for which all neighbours within a random radius are hidden, as if the gallery knew nothing near."""
    smoothing_km: float = 0.0
    """Distance over which a token's target is shared with its siblings, by where their cells lie; 0: the right one alone."""
    validate_steps: int = 500
    """Steps between measurements on images kept out of training, where there are any; 0 measures only at the end."""
    keep: Literal["last", "best"] = "last"
    """Whether the last step's weights become the model, or those with the least loss on the images kept out."""
    bf16: bool = True
    """Whether matrix products run in bfloat16."""
    seed: int = 0
    """Seed of the first weights, the order of images and every dropout."""

    def __post_init__(self) -> None:
        least = {"batch": 1, "epochs": 1, "steps": 1, "micro_batch": 0, "warm_up": 0, "validate_steps": 0, "seed": 0}
        for name, limit in least.items():
            if (given := getattr(self, name)) is not None and given < limit:
                raise UserError(f"{name} is {given}; give at least {limit}")
        if not (0 <= self.neighbour_dropout <= 1 and 0 <= self.blackout <= 1):
            raise UserError("neighbour_dropout and blackout are shares of images and neighbours; give each from 0 to 1")
        if not (self.smoothing_km >= 0 and self.learning_rate > 0):
            raise UserError("smoothing_km is no negative distance, and learning_rate is above 0; correct them")

    @classmethod
    def paper(cls) -> Training:
        """The paper's training."""
        return cls()

    @classmethod
    def small(cls) -> Training:
        """The demo's training."""
        return cls(batch=256, steps=500, learning_rate=2e-3, weight_decay=0.01, schedule="cosine", warm_up=50)


@dataclass(frozen=True, kw_only=True)
class Rewarding:
    """The paper's second network, which tells candidates near the truth from others."""

    samples: int = 10
    """Draws for each training image that it learns from."""
    temperature: float = 0.7
    """Of these draws."""
    within_km: float = 200.0
    """Distance up to which a draw is right."""
    hidden: int = 2048
    """Hidden width of the head."""
    training: Training = field(default_factory=lambda: Training(batch=256, epochs=5, schedule="cosine"))
    """How it learns, beginning with the trained network; the paper says nothing of it."""

    @classmethod
    def small(cls) -> Rewarding:
        """The demo's."""
        training = Training(batch=128, steps=200, learning_rate=3e-4, weight_decay=0.01, schedule="cosine", warm_up=20)
        return cls(training=training)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How candidates are drawn."""

    decode: tuple[Decode, ...] = ("sample",)
    """What makes candidates, one or several: draws, beam search, or the likeliest token at each step."""
    samples: int = 30
    """Draws for each image (K)."""
    temperature: float = 0.7
    """Divides the logits before a draw; below 1 it sharpens the distribution."""
    seed: int = 0
    """With the image's id, decides the draws."""
    beam: int = 5
    """Width of the beam."""
    batch: int = 0
    """Images that go through the network together; 0: 64 on a CPU, as many as free memory allows on a GPU."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the matrix products."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the decoder's steps are compiled to fewer, larger kernels; auto: on a GPU."""

    def __post_init__(self) -> None:
        if not self.decode or self.samples < 1 or self.beam < 1:
            raise UserError("decode names one way at least, samples and beam are 1 at least; correct sampling")
        if not self.temperature > 0:
            raise UserError(f"nothing is drawn at temperature {self.temperature}; for the likeliest place decode greedy")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How one candidate becomes the place."""

    selector: Selector = "expected_share"
    """What decides."""
    calibrated: bool = True
    """Whether the model's calibration, where it has one, says what the pool is worth and how probable places are."""
    neighbour_mass: float | None = None
    """Share of the posterior given to the neighbours' places where there is no calibration, 0 leaves them out of the pool;
    default: what suits the model, 0.7 where it reads the place between images, else 0.5."""
    neighbour_temperature: float | None = None
    """Temperature of the softmax over similarities that splits this share among the neighbours; default: what suits the
    model, 0.01 where it reads the place between images, else 0.05."""
    neighbours: int = 5
    """Neighbours that are taken into the pool, nearest first; with a calibration as many as it was fitted with."""

    def __post_init__(self) -> None:
        if self.neighbour_temperature is not None and not self.neighbour_temperature > 0:
            raise UserError(f"no softmax has temperature {self.neighbour_temperature}; raise neighbour_temperature above 0")

    @property
    def pooled(self) -> Literal["expected_distance", "expected_share"]:
        """The selector itself if it needs the pool alone, else the one that others fall back on."""
        return "expected_distance" if self.selector == "expected_distance" else "expected_share"

    def suited(self, between: bool) -> Selection:
        """With what suits the model in place of what was left open.

        Chosen on 2,000 validation crops of the embedded world: mass 0.3/0.5/0.7 at temperature 0.01 had 82/85/86 % within 25 km
        with the place between images; without it 0.5 at 0.05 was best.
        """
        mass, temperature = (0.7, 0.01) if between else (0.5, 0.05)
        return replace(
            self,
            neighbour_mass=mass if self.neighbour_mass is None else self.neighbour_mass,
            neighbour_temperature=temperature if self.neighbour_temperature is None else self.neighbour_temperature,
        )
