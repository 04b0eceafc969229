"""What the workers of a training make of its files, and how it is watched: GeoToken's network and its reward model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geobatch.errors import UserError
from geobatch.methods.geotoken import arrays as files
from geobatch.methods.geotoken.config import GeoToken, Rewarding, Training
from geobatch.methods.geotoken.examples import Examples
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.reward import RewardModel
from geobatch.methods.geotoken.reward_train import RewardFit
from geobatch.methods.geotoken.train import Fit
from geobatch.progress import Progress, say
from geobatch.train.loop import Loop, Trainee, Worker, fit

#: Optimiser, figures and checkpoints are a whole network's.
WHOLE = "every worker of GeoToken holds the whole network; leave --loop.parallel at ddp"


@dataclass(frozen=True)
class Make:
    """Makes a worker's trainee from files: a value that travels instead of the arrays."""

    folder: str
    config: GeoToken
    training: Training

    def __call__(self, worker: Worker) -> Trainee:
        """The trainee of one worker."""
        return _Trainee(self.config, self.training, part(self.folder, "kept"), **_who(self.folder, worker))


@dataclass(frozen=True)
class MakeReward:
    """The same for the reward model of the network in `trained`."""

    folder: str
    rewarding: Rewarding
    trained: str

    def __call__(self, worker: Worker) -> Trainee:
        """The trainee of one worker."""
        network = GeoTokenModel.load(Path(self.trained))
        return _RewardTrainee(self.rewarding, network, part(self.folder, "kept"), **_who(self.folder, worker))


def part(folder: str | Path, name: str) -> Examples:
    """The images of a folder of arrays that `NAME.npy` lists, "kept" or "held"."""
    return files.read(Path(folder)).some(np.load(Path(folder) / f"{name}.npy"))


def _who(folder: str, worker: Worker) -> dict[str, Any]:
    if worker.sharded:
        raise UserError(WHOLE)
    held = part(folder, "held") if worker.rank == 0 else None
    return {
        "held": held,
        "rank": worker.rank,
        "world": worker.world,
        "local_world": worker.local_world,
        "device": worker.device,
        "wrap": worker.wrap,
    }


class _Trainee(Fit):
    def save(self, folder: Path) -> None:
        """Writes the network."""
        assert isinstance(self.model, GeoTokenModel)
        self.model.load_state_dict(self.weights())
        self.model.save(folder, training=asdict(self.training), history=self.history)


class _RewardTrainee(RewardFit):
    def save(self, folder: Path) -> None:
        """Writes the reward model."""
        assert isinstance(self.model, RewardModel)
        self.model.load_state_dict(self.weights())
        self.model.save(folder, training=asdict(self.rewarding), history=self.history)


def taught(make: Callable[[Worker], Trainee], output: Path, name: str, training: Training, loop: Loop) -> dict[str, float]:
    """Trains in step with the other workers and shows how far it is; returns what the loop says of itself."""
    say(f"training {output.name}: {training.steps or training.epochs} {'steps' if training.steps else 'epochs'} of "
        f"{training.batch} images, {loop.workers} workers")  # fmt: skip
    with Progress("trained", unit="steps") as progress:
        progress.total = training.steps

        def watch(step: int, steps: int, loss: float) -> None:
            progress.total = steps
            progress.add(step - progress.done, f"loss {loss:.3f}")

        spent = fit(make, output, name=name, loop=loop, watch=watch)
    at_a_time, each = int(spent["micro_batch"]), spent.get("mib_an_image")
    say(f"each worker's network took {at_a_time:,} images at a time" + (f", {each:,.1f} MiB each" if each else ""))
    if "best_step" in spent:
        say(f"on images kept out the loss was least at step {int(spent['best_step']):,}: {spent['best_loss']:.4f}")
    return {key: round(value, 4) for key, value in spent.items()}
