"""Training on any number of workers with Ray Train, taken up again where it stopped.

Whatever is trained is a `Trainee`: it makes its own steps, and each step is a function of (seed, step,
rank), so that going on from a checkpoint is going on as if nothing had happened. `fit` starts the workers,
joins them (gloo between CPUs, nccl between GPUs), restores the newest checkpoint under the same name,
steps, saves, reports, and copies the trained model out.

Resuming is by name and storage, the only way Ray Train V2 has: the same call after a crash of the driver
goes on, after a finished run it trains nothing and copies the model again. The name therefore carries a
fingerprint of everything that decides the result. A worker that dies takes the group down and Ray starts it
again from the newest *committed* checkpoint, which is the one before if it died right after reporting;
steps are then simply made again.

Ray's report is a barrier of 20 to 50 ms, so progress goes another way: rank 0 tells an actor every half
second, which the driver asks while it waits. Start-up of two workers on two cores takes about 10 s, most of
it importing torch and transformers twice.

Before it starts, and on every node that a worker starts on later, `geobatch.train.ready` asks whether workers find room and
see the same disk. A node that an autoscaler brings may take an hour to come; the group waits for it.

Workers hold the same parameters and average gradients (DDP), or each holds a part of every layer and borrows the rest
while it computes (`parallel="fsdp"`, see `shard`). What a checkpoint holds is the trainee's choice: a trainee of adapters
saves no frozen base.

Not covered: elastic groups (the batch is shared equally, so another number of workers is another partition of it).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import ray
import torch
from ray import train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from geobatch.errors import MachineError, UserError
from geobatch.nodes import brought
from geobatch.store.travel import travelling
from geobatch.train.handed import MODEL, take_out
from geobatch.train.ready import enough, marked, mounted
from geobatch.train.shard import shard
from geobatch.train.watch import POLL_SECONDS, Board, Halt, cause_of, users_fault, watched

_STATE = "state.pt"

#: Seconds that a group waits for its nodes before Ray asks for them anew; it asks again and again.
NODES_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How many workers train, and what they keep."""

    workers: int = 2
    """Workers that share each batch."""

    gpu: bool = False
    """Whether each worker gets a GPU of its own."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Whether each worker holds the whole model, or a part of each layer, for models that no single GPU can train."""

    accelerator: str = ""
    """Type of each worker's GPU as Ray names it, such as L4 or A100; default: any."""

    cpus: float = 1.0
    """CPUs, and threads, of each worker."""

    checkpoint_steps: int = 500
    """Steps between checkpoints; the last step always makes one."""

    keep: int = 2
    """Checkpoints kept."""

    failures: int = 3
    """How often the group of workers is started again after one died."""

    storage: str = ""
    """Folder (shared by all machines) or s3:// prefix for checkpoints; default: beside the model."""

    def __post_init__(self) -> None:
        for name in ("workers", "checkpoint_steps", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"loop.{name} is {getattr(self, name)}; give at least 1")
        if self.failures < -1 or self.cpus < 0:  # Ray takes -1 failures for any number
            raise UserError("loop.failures and loop.cpus are no negative numbers; correct them")

    @property
    def each(self) -> dict[str, float]:
        """What a worker asks of its node, as Ray names it."""
        gpu = {"GPU": 1.0} if self.gpu else {}
        return {"CPU": self.cpus, **gpu, **({f"accelerator_type:{self.accelerator}": 0.001} if self.accelerator else {})}

    def kept(self, output: Path) -> str:
        """Where the checkpoints of a model at `output` lie."""
        return self.storage or str((output.parent / f".{output.name}.training").resolve())


@dataclass(frozen=True)
class Worker:
    """Who a worker is."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda module: module)
    sharded: bool = False  # `wrap` spreads the parameters: hand it a model in host memory
    local_rank: int = 0
    local_world: int = 1


class Trainee(Protocol):
    """What can be trained. `advance` is one step of this worker, collective calls included."""

    step: int

    @property
    def steps(self) -> int:
        """Steps in all."""

    def advance(self) -> float:
        """Makes one step; returns its loss."""

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, tensors and plain values.

        Called on every rank at once if the trainee is sharded, so that it may gather; else on rank 0 alone.
        """

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""

    def save(self, folder: Path) -> None:
        """Writes the trained model; called on rank 0 after the last step, straight after `state`."""


@runtime_checkable
class Measured(Protocol):
    """A trainee that knows more of itself than its loss."""

    def figures(self) -> dict[str, float]:
        """Named figures for the report and for what `fit` returns."""


def fit(
    make: Callable[[Worker], Trainee],
    output: Path,
    *,
    name: str,
    loop: Loop | None = None,
    watch: Callable[[int, int, float], None] | None = None,
) -> dict[str, float]:
    """Trains on a running Ray cluster and writes the model to `output`.

    Args:
        make: makes one worker's trainee; it travels to the workers, so it should hold paths, not arrays.
        output: folder of the model; replaced if it exists.
        name: what decides the result, as a name: the same name takes the same training up again.
        watch: called in this process with (step, steps, loss) about twice a second.

    Returns:
        "loss" of the last step, "steps", "seconds" of stepping, "seconds_a_step", "start_seconds",
        "peak_mib" of rank 0, and what a `Measured` trainee says at the end.

    Raises:
        UserError: Ray is not running, it has fewer CPUs or GPUs than the workers ask for, or the trainee raised one.
        MachineError: workers kept dying, or the trainee kept raising.
    """
    loop = loop or Loop()
    if not ray.is_initialized():
        raise UserError("training needs Ray; call geobatch.actors.start first, or set RAY_ADDRESS")
    enough(loop)
    storage = loop.kept(output)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(NODES_SECONDS))
    make = travelling(make, mounted=True)
    mounted(make)
    with marked(storage) as mark:
        result = _fitted({"make": make, "mark": mark, "loop": loop}, name, watch)
    if result.checkpoint is None:
        raise MachineError(f"training {name} ended without a checkpoint; delete {storage}/{name} and start again")
    take_out(result.checkpoint, output)
    if not loop.storage:
        shutil.rmtree(Path(storage) / name, ignore_errors=True)
    return {key: value for key, value in (result.metrics or {}).items() if isinstance(value, (int, float))}


def _fitted(told: dict[str, Any], name: str, watch: Callable[[int, int, float], None] | None) -> Any:
    """Ray Train's result of a training."""
    loop: Loop = told["loop"]
    # On this node: one that is taken away must not take the word of how far training is with it.
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=beside).remote()
    trainer = TorchTrainer(
        _train,
        train_loop_config={**told, "board": board, "called": time.time()},
        torch_config=TorchConfig(backend="nccl" if loop.gpu else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=loop.workers,
            use_gpu=loop.gpu,
            resources_per_worker={kind: amount for kind, amount in loop.each.items() if kind in ("CPU", "GPU")},
            accelerator_type=loop.accelerator or None,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=told["mark"].folder,
            failure_config=FailureConfig(max_failures=loop.failures),
            checkpoint_config=CheckpointConfig(num_to_keep=loop.keep),
            callbacks=[Halt()],
        ),
    )
    try:
        return watched(trainer, board, watch)
    except Exception as error:
        if fault := users_fault(error):
            raise fault from None
        raise MachineError(f"training {name} failed: {cause_of(error)}") from error
    finally:
        ray.kill(board)


def _train(told: dict[str, Any]) -> None:
    """One worker, from its first line to its last."""
    loop: Loop = told["loop"]
    told["mark"].here()
    context = train.get_context()
    rank = context.get_world_rank()
    if not loop.gpu:
        torch.set_num_threads(max(1, int(loop.cpus)))
    device = train.torch.get_device()
    trainee: Trainee = brought(told["make"])(_worker(loop, context, str(device)))
    checkpoint = train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainee.restore(torch.load(Path(folder) / _STATE, map_location=device, weights_only=True))
    started, first, told_at, loss = time.time(), trainee.step, 0.0, float("nan")
    while trainee.step < trainee.steps:
        loss = trainee.advance()
        if rank == 0 and time.time() - told_at > POLL_SECONDS:
            told_at = time.time()
            told["board"].write.remote(trainee.step, trainee.steps, loss)
        if trainee.step % loop.checkpoint_steps == 0 or trainee.step == trainee.steps:
            spent = time.time() - started
            metrics = {
                "loss": loss,
                "steps": trainee.step,
                "seconds": spent,
                "seconds_a_step": spent / max(trainee.step - first, 1),
                "start_seconds": started - told["called"],
                "peak_mib": _peak_mib(),
                **(trainee.figures() if isinstance(trainee, Measured) else {}),
            }
            _report(trainee, metrics, rank, loop.parallel == "fsdp")


def _worker(loop: Loop, context: Any, device: str) -> Worker:
    if context.get_world_size() == 1 and loop.parallel == "ddp":
        return Worker(device=device)
    return Worker(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        shard if loop.parallel == "fsdp" else nn.parallel.DistributedDataParallel,
        loop.parallel == "fsdp",
        context.get_local_rank(),
        context.get_local_world_size(),
    )


def _report(trainee: Trainee, metrics: dict[str, float], rank: int, sharded: bool) -> None:
    """A barrier: every worker reports, rank 0 with the checkpoint."""
    state = trainee.state() if sharded or not rank else {}
    if rank:
        train.report(metrics, checkpoint=None)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / _STATE)
        if trainee.step == trainee.steps:
            trainee.save(Path(folder) / MODEL)
        train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
