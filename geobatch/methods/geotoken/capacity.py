"""How many images fit in memory: for a training step by counting or by trial, for sampling by the memory that is free.

What a step keeps for its backward pass is counted, not estimated: autograd hands every tensor it saves to a hook, and the
bytes of their distinct storages are added up for one image and for three. Both together give the bytes of one image and of
the step itself; on top come what the backward pass holds for a while (`_PASSING`), and per parameter 16 bytes for value,
gradient and AdamW's two moments. On CPUs the largest number whose sum stays below the share `FILLED` of what the machine, or
its control group, still has is the answer; a process that asks for more is killed without a word.

A GPU says when it has had enough, so there the count is only where the search begins: a whole forward and backward pass is
made, and the number is halved until one goes through.

Workers of one machine share its memory, so each counts on its part; a GPU is one worker's own. All take the least number that
any of them found (`agreed`): it changes no gradient, but it is part of the checkpoint that each of them goes on from.

Measured: the paper's network in float32 counts 300 MiB an image and 0.8 GiB for itself, so that 38 images fit where 17 GiB
are free. The benchmark `bench_decoder` prints the count beside what the process really took.

Not covered: activation checkpointing, which would trade a third more computing for ten times the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

#: Share of the memory that is free which a step may fill: allocators lose some, and others live on the machine.
FILLED = 0.7

#: Value, gradient and two moments of a parameter, float32.
_PARAMETER = 16

#: What backward holds beside what forward saved, as a share of it: gradients on their way through the widest layers.
_PASSING = 0.15


@dataclass(frozen=True)
class Capacity:
    """What a training step takes, and how many images may go through it together.

    Fields:
        images: at a time; what was asked for where it fits.
        bytes_an_image: that the step keeps for its backward pass.
        bytes_fixed: parameters, gradients, moments, and what a step keeps whatever its size.
        bytes_free: that were there for this worker.
        tried: whether a pass of that many images was made, as on GPUs, or only counted.
    """

    images: int
    bytes_an_image: int
    bytes_fixed: int
    bytes_free: int
    tried: bool

    def __str__(self) -> str:
        how, gib = "tried" if self.tried else "counted", 1 << 30
        return (
            f"{self.images:,} images at a time ({how}): {self.bytes_an_image / 2**20:,.1f} MiB an image, "
            f"{self.bytes_fixed / gib:.2f} GiB whatever their number, {self.bytes_free / gib:.1f} GiB free"
        )


def largest_micro_batch(model: nn.Module, batch: Sequence[Any], bf16: bool, sharing: int = 1) -> Capacity:
    """How many of a batch's images, at most all, go through a training step together on the device they are on.

    Args:
        model: its `forward` takes the parts of the batch and is the loss; its gradients are cleared.
        batch: a worker's whole batch.
        sharing: workers of this machine, which share its memory; each has a GPU of its own.

    Returns:
        At least one image, whatever the memory: less cannot be tried.
    """
    device = next(model.parameters()).device
    few, more = saved_bytes(model, _some(batch, 1), bf16), saved_bytes(model, _some(batch, 3), bf16)
    images = min(3, len(batch[0])) - 1
    each = round((more - few) / max(images, 1) * (1 + _PASSING)) or 1
    fixed = _PARAMETER * sum(parameter.numel() for parameter in model.parameters()) + max(few - each, 0)
    free = free_bytes(device) // (1 if device.type == "cuda" else sharing)
    fitting = max(1, min(len(batch[0]), int((FILLED * free - fixed) // each)))
    if device.type == "cuda":
        fitting = _tried(model, batch, bf16, min(len(batch[0]), 2 * fitting))
    model.zero_grad()
    return Capacity(fitting, each, fixed, free, device.type == "cuda")


def agreed(images: int, device: torch.device) -> int:
    """The least of what the workers found, where there are several; every one of them must call."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return images
    least = torch.tensor(images, device=device)
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return int(least)


def saved_bytes(model: nn.Module, batch: Sequence[Any], bf16: bool) -> int:
    """Bytes of the distinct storages, parameters aside, that a forward pass keeps for its backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    device = next(model.parameters()).device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
    ):
        loss = model(*batch)  # held, so that no storage is freed and counted under another's address
        total = sum(kept.values())
    del loss
    return total


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device: of the GPU, or of this machine and the process's control group."""
    if device.type == "cuda":
        return (
            int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    told = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith("kB")}
    free = told.get("MemAvailable", 4 << 30)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)


def _some(batch: Sequence[Any], images: int) -> list[Any]:
    return [value[:images] for value in batch]


def _tried(model: nn.Module, batch: Sequence[Any], bf16: bool, images: int) -> int:
    """The first of `images`, half of them, a quarter … that goes forward and backward on the GPU."""
    device = next(model.parameters()).device
    # The first step has no moments yet, and workers exchange gradients in buckets as large as these.
    ballast = [torch.empty(3 * parameter.numel(), device=device) for parameter in model.parameters()]
    while images > 1:
        try:
            with torch.random.fork_rng(devices=[device]), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                model(*_some(batch, images)).backward()
            return images
        except torch.OutOfMemoryError:
            images //= 2
        finally:
            model.zero_grad()
            torch.cuda.empty_cache()
    del ballast
    return 1
