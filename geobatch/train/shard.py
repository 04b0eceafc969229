"""A model whose layers are spread over the workers (FSDP2), and tensors whole again.

Each worker keeps 1/W of every parameter; before a layer computes, forward and backward, the workers lend each other their
parts of it, and give them back after. A 27 B model in bfloat16 is then 6.9 GB on each of 8 GPUs plus one layer. Frozen bfloat16
and trainable float32 parameters live in one group, since FSDP2 shards each parameter on its own.

`fully_shard` asks for parameters in host memory and moves each layer's part to the device as it goes, so a worker needs the
whole model in host memory once, at start. `in_turn` lets the workers of one machine do that one after another.

On gloo (CPU) two workers' losses over 20 steps are one worker's to 3e-7, and a restored training is the unbroken one to the
bit. Sharded models write text only through a method named to `lend`: `generate` calls the inner model, which finds its
embedding in parts.

Not covered: CPU offload, two-dimensional meshes, reading each worker's part straight from the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module) -> nn.Module:
    """Spreads `module` over all workers, in place: each layer it names as indivisible is a group, the rest another.

    The layers are those `_no_split_modules` of any of its parts names, which models of `transformers` have.
    """
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    for part in [part for part in module.modules() if type(part).__name__ in names]:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def lend(module: nn.Module, method: str) -> None:
    """Has a sharded `module` come together for `method` as it does for `forward`; does nothing for others."""
    register_fsdp_forward_method(module, method)


def whole(tensor: Tensor) -> Tensor:
    """The tensor of all parts, detached, on the CPU; every worker must ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def parted(full: Tensor, like: Tensor) -> Tensor:
    """This worker's part of `full`, spread as `like` is; no communication."""
    full = full.to(device=like.device, dtype=like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
    return full


@contextmanager
def in_turn(position: int, count: int) -> Iterator[None]:
    """The `count` workers of one machine enter one after another; every worker of every machine must come."""
    for turn in range(max(gathered(count))):
        if turn == position:
            yield
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.barrier()


def summed(value: float | Tensor, device: str | torch.device) -> Tensor:
    """A float64 sum over all workers; alone, the value itself."""
    total = torch.as_tensor(value, dtype=torch.float64, device=device).detach().clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total


def gathered(value: Any) -> list[Any]:
    """What every worker brought, by rank; alone, a list of one."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
