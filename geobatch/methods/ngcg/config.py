"""Every number of NGCG that is a choice.

`Encoding` is what decides a vector beside the weights. It is written into a trained model's card and read from there by all
who embed with it, so training, galleries and queries cannot differ in it. The base's own choices (tokens of a picture, mean
and deviation of its colours, the filter that resizes it) are read from the base's files.

`Tuning` is the paper's training (arXiv 2604.10721 and its code): LoRA with DoRA on language model and vision tower, AdamW at
3e-5 down a straight line, batches of 10, 20 epochs, InfoNCE from text to tile at τ = 0.03 (the code's default is 0.02). Where
it deviates: `distinct` is on, for which the code has a sampler that it never calls. `augment` is off, since the changes that
the code names apply to paths of pictures, and its pictures are open by then. `nested`, `hard_every`, `symmetric`, a learnt
temperature and `whole` are ours, and off.

`Validation` keeps whole places out of the training data. The code chooses its checkpoint on the test data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from geobatch.errors import UserError
from geobatch.train.augment import Augment
from geobatch.train.infonce import Contrast
from geobatch.train.lora import LoRA

Pooling = Literal["last", "mean"]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What a text or a tile is to the network, and what of its output is the vector."""

    pooling: Pooling = "last"
    """The hidden state of the last token that is no padding (paper), or the mean over all that are none."""
    text_tokens: int = 300
    """Tokens of a text that are read; a longer one is cut there."""
    end: bool = False
    """Whether texts and tiles end with the tokenizer's end-of-text token; the paper speaks of one, its code adds none."""
    side: int = 0
    """Pixels a tile is resized to, both ways; 0: the base's own, 448 for InternVL and Qwen2.5-VL, 512 for SmolVLM."""
    dimensions: int = 0
    """First numbers of the vector that are kept, and normalised again; 0 keeps all."""

    def __post_init__(self) -> None:
        if self.text_tokens < 1 + self.end or self.side < 0 or self.dimensions < 0:
            raise UserError(
                f"{self.text_tokens} tokens, {self.side} pixels and {self.dimensions} dimensions encode nothing; give at least "
                "one token (two where the end-of-text token is one of them), and 0 for the base's own side and dimensions"
            )


def published() -> LoRA:
    """The paper's adapters: 9,027,584 numbers on InternVL3.5-1B."""
    return LoRA(rank=16, alpha=128, dropout=0.1, vision=True, targets="ngcg", dora=True, gaussian=True)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How an encoder learns from pairs of text and tile."""

    lora: LoRA = field(default_factory=published)
    """The adapters."""
    whole: bool = False
    """Whether every weight is trained instead of adapters, for small models that begin at random."""
    batch: int = 10
    """Pairs a step, over all workers together; each text's negatives are the tiles of all of them."""
    micro_batch: int = 0
    """Pairs that a worker puts through the network at a time, so that memory is of these and not of all its part; 0: all."""
    epochs: float = 20.0
    """Times that as many pairs are seen as there are, unless `steps` is given."""
    steps: int | None = None
    """Steps in all; overrides `epochs`."""
    learning_rate: float = 3e-5
    """AdamW's learning rate at its highest."""
    warm_up: float = 0.01
    """Share of the steps over which the learning rate rises from zero; over the others it falls to zero, both straight."""
    weight_decay: float = 0.01
    """AdamW's weight decay; biases, norms, DoRA's lengths and the temperature have none."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    bf16: bool = True
    """Whether the network computes in bfloat16, and a frozen base is held in it; what is trained and the loss are float32."""
    temperature: float = 0.03
    """What cosines are divided by in the loss (τ)."""
    learn_temperature: bool = False
    """Whether the temperature is trained, down to 0.01 at the least."""
    symmetric: bool = False
    """Whether tiles are to find their texts as well, rather than only texts their tiles."""
    nested: tuple[int, ...] = ()
    """Numbers of dimensions that vectors may be cut to later; the loss is taken of each, too."""
    augment: Augment | None = None
    """How training tiles are changed; None: not at all."""
    distinct: bool = True
    """Whether no batch shows a place twice, nor tells texts apart that read alike; without it such tiles are negatives."""
    hard_every: int = 0
    """Steps between searches for the tiles most like each text, which become its negatives beside the batch's; 0: none."""
    hard_negatives: int = 1
    """Such tiles for each text."""
    seed: int = 0
    """Seed of the first adapters, the order of pairs, the changes of tiles and every dropout."""

    def __post_init__(self) -> None:
        if self.batch < 2 or self.hard_negatives < 1:
            raise UserError("a text is found among two tiles at least; give a batch of at least 2 and at least 1 hard negative")
        for name in ("micro_batch", "weight_decay", "hard_every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 0")
        for name in ("epochs", "learning_rate", "clip", "temperature"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name} is {getattr(self, name)}; give more than 0")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"{self.steps} steps teach nothing; give at least 1")
        if not 0 <= self.warm_up < 1:
            raise UserError(f"warm_up is a share of the steps, not {self.warm_up}; give 0 or more, and less than 1")
        if any(size < 1 for size in self.nested) or len(set(self.nested)) != len(self.nested):
            raise UserError(f"vectors cannot be cut to {self.nested} numbers; name each of them once, and at least 1")

    @property
    def contrast(self) -> Contrast:
        """How vectors are compared."""
        scale = 1 / self.temperature
        return Contrast(scale=scale, learn_scale=self.learn_temperature, largest_scale=max(100.0, scale))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, of so many."""
        warm = min(math.ceil(self.warm_up * steps), steps - 1)
        if step < warm:
            return self.learning_rate * (step + 1) / (warm + 1)
        return self.learning_rate * (steps - step) / (steps - warm)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is measured on pairs kept out of training, and which checkpoint that chooses."""

    share: float = 0.05
    """Share of the pairs kept out of training, by whole places."""
    pairs: int = 1000
    """Pairs kept out at most."""
    every: int = 0
    """Steps between measurements; 0: as many as show every pair once. The last step is always measured."""
    keep: Literal["best", "last"] = "best"
    """What is saved: the weights with the highest mean of text-to-tile R@1, R@5 and R@10, or the last."""
    batch: int = 32
    """Tiles that are embedded at once; four times as many texts."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.pairs < 0 or self.every < 0 or self.batch < 1:
            raise UserError("validation needs a share below 1, no negative numbers, and at least 1 tile a batch")
