"""Every number of the fine-tuning that is a choice, with the paper's values.

arXiv 2506.01277 trains Gemma 3 27B and Qwen2.5-VL 3B by LoRA of rank 32 for one epoch: AdamW at 2e-5 on a cosine with 20
steps of warm-up, batches of 16, sequences of at most 10,000 tokens, clipped gradients. It does not state LoRA's alpha (ours:
twice the rank), the norm gradients are clipped to (1, what trainers take by default) or the weight decay (0, likewise).

Two settings are not in the paper. `coordinate_weight`, off by default: of an answer's thousand tokens some twenty are its
coordinates, and only they are scored. `bucket`: examples of like length share a batch, which changes no batch's size, only how
much of it is padding.

A preset names a base and what one 80 GB GPU can hold of it; sizes are read from the base's own `config.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from geobatch.errors import UserError
from geobatch.train.lora import LoRA


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a base model is fine-tuned on curated answers."""

    lora: LoRA = field(default_factory=LoRA)
    """The adapters."""
    batch: int = 16
    """Images a step, over all workers together."""
    micro_batch: int = 1
    """Images that go through the model at once on each worker; the rest of its share follows one after another."""
    epochs: float = 1.0
    """Passes over the training images, unless `steps` is given."""
    steps: int | None = None
    """Steps in all; overrides `epochs`."""
    learning_rate: float = 2e-5
    """AdamW's learning rate at its highest."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How it goes on after the warm-up: a half cosine down to zero, or as it is."""
    warm_up: int = 20
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 0.0
    """AdamW's weight decay of the adapters."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    cutoff: int = 10_000
    """Longest example in tokens, picture and prompt included; longer ones are left out, since cutting them loses the answer."""
    coordinate_weight: float = 1.0
    """Weight in the loss of the tokens that write the answer's coordinates; every other answer token has 1."""
    bucket: int = 50
    """Batches among which examples of like length are put together, which saves padding; 1 leaves the order random."""
    bf16: bool = True
    """Whether the base is held and computed in bfloat16; adapters and their optimiser are float32 either way."""
    checkpointing: bool = True
    """Whether activations are computed again in the backward pass, which costs a third more time and saves most memory."""
    seed: int = 0
    """Seed of the first adapters, the order of examples and every dropout."""

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch", "cutoff", "bucket"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("epochs", "learning_rate", "clip", "coordinate_weight"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; give more than 0")
        if (self.steps is not None and self.steps < 1) or self.warm_up < 0:
            raise UserError(f"{self.steps} steps with {self.warm_up} of warm-up cannot be made; give at least 1 and 0")


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What is measured on images kept out of training."""

    share: float = 0.05
    """Share of the images kept out of training, by whole places."""
    images: int = 64
    """Images kept out at most; each costs an answer written token by token."""
    every: int = 0
    """Steps between measurements while training; 0 measures only at the end."""
    tokens: int = 1500
    """Tokens an answer may take before it is cut off and counts as unparsed."""
    batch: int = 8
    """Images answered at once on each worker."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1 or self.images < 0 or self.every < 0 or self.tokens < 1 or self.batch < 1:
            raise UserError("validation needs a share below 1, no negative numbers, and at least 1 token and 1 image a batch")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published base and how it is trained on 80 GB GPUs."""

    base: str
    """Name on the Hugging Face hub."""
    tuning: Tuning = field(default_factory=Tuning)
    """Adapters and training."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Whether a GPU holds the whole base or a part of it."""


def gemma3_27b() -> Preset:
    """The paper's student: 55 GB of bfloat16 weights, so its layers are spread over the workers."""
    return Preset(base="google/gemma-3-27b-it", parallel="fsdp")


def gemma3_12b() -> Preset:
    """The released code's student, with the paper's training: 24 GB of weights, a copy on each GPU."""
    return Preset(base="google/gemma-3-12b-it")


def qwen25vl_3b() -> Preset:
    """The paper's small student: 7.5 GB of weights."""
    return Preset(base="Qwen/Qwen2.5-VL-3B-Instruct")


#: By the name that a command line gives.
PRESETS = {"gemma3_27b": gemma3_27b, "gemma3_12b": gemma3_12b, "qwen25vl_3b": qwen25vl_3b}
