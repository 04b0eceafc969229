"""Training with Ray Train itself: two workers, one of which dies, and a driver that comes back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from geobatch.actors import start
from geobatch.errors import MachineError, UserError
from geobatch.train.loop import Loop, Worker, fit

STEPS = 12


class Regression:
    """Four numbers learn a plane; the batch of a step is a function of the step."""

    def __init__(self, worker: Worker, notes: str, dies_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.worker, self.notes, self.dies_at = worker, Path(notes), dies_at
        self.model = nn.Linear(4, 1).to(worker.device)
        self.wrapped = worker.wrap(self.model)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.step = 0

    steps = STEPS

    def advance(self) -> float:
        """One step of this worker's half of the batch."""
        generator = torch.Generator().manual_seed(self.step)
        x = torch.randn(8, 4, generator=generator)[self.worker.rank :: self.worker.world]
        loss = (self.wrapped(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        with (self.notes / f"{self.worker.rank}.log").open("a") as log:
            log.write(f"{self.step}\n")
        died = self.notes / "died"
        if self.dies_at == self.step and self.worker.rank == 1 and not died.exists():
            died.touch()
            os._exit(1)
        return loss.item()

    def state(self) -> dict[str, Any]:
        """Everything; rank 0 alone is asked, as its copy is everyone's."""
        assert self.worker.rank == 0
        return {"step": self.step, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Everything."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def save(self, folder: Path) -> None:
        """The weights as text."""
        folder.mkdir(parents=True)
        weights = torch.cat([value.detach().flatten() for value in self.model.parameters()])
        (folder / "weights.txt").write_text(" ".join(f"{value:.9g}" for value in weights.tolist()))


@dataclass(frozen=True)
class Make:
    """Makes it in the worker."""

    notes: str
    dies_at: int | None = None

    def __call__(self, worker: Worker) -> Regression:
        return Regression(worker, self.notes, self.dies_at)


@dataclass(frozen=True)
class Broken:
    """Fails in the worker."""

    def __call__(self, worker: Worker) -> Regression:
        raise ValueError(f"no such data for rank {min(worker.rank, 0)}")


@dataclass(frozen=True)
class Refusing:
    """Notes that it was made, and refuses what the user gave."""

    notes: str

    def __call__(self, worker: Worker) -> Regression:
        with (Path(self.notes) / "made.log").open("a") as log:
            log.write(f"{worker.rank}\n")
        raise UserError("the batch cannot be shared; give another")


def weights(folder: Path) -> torch.Tensor:
    return torch.tensor([float(value) for value in (folder / "weights.txt").read_text().split()])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private Ray with room for two workers."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        start([], "local", _temp_dir=folder)
        yield
        ray.shutdown()


def test_a_dead_worker_changes_nothing_and_a_finished_training_is_only_copied_out_again(cluster: None, tmp_path: Path) -> None:
    alone = Regression(Worker(), str(tmp_path))
    while alone.step < STEPS:
        alone.advance()
    alone.save(tmp_path / "alone")
    notes = tmp_path / "notes"
    notes.mkdir()
    seen: list[tuple[int, int, float]] = []
    output = tmp_path / "model"
    loop = Loop(checkpoint_steps=4, storage=str(tmp_path / ".second.training"))  # where the second call looks by itself
    figures = fit(Make(str(notes), dies_at=7), output, name="a", loop=loop, watch=lambda *now: seen.append(now))
    assert (notes / "died").exists()
    made = [int(line) for line in (notes / "0.log").read_text().split()]
    assert made[0] == 1 and made[-1] == STEPS
    again = made[made.index(7) + 1 :] if 7 in made else made
    assert again and again[0] in (1, 5)  # from the newest checkpoint that was committed, or the one before
    assert torch.allclose(weights(output), weights(tmp_path / "alone"), atol=1e-5)
    assert figures["steps"] == STEPS and figures["seconds_a_step"] > 0 and figures["peak_mib"] > 50
    assert seen and all(1 <= step <= total == STEPS for step, total, _ in seen)
    assert (tmp_path / ".second.training" / "a").exists(), "what the user names is kept"
    before = (notes / "0.log").read_text()
    fit(Make(str(notes)), tmp_path / "second", name="a", loop=Loop(workers=1))
    assert (notes / "0.log").read_text() == before
    assert torch.equal(weights(output), weights(tmp_path / "second"))
    assert not (tmp_path / ".second.training" / "a").exists()


def test_what_the_trainee_raises_is_told_in_a_line(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"^training c failed: ValueError: no such data for rank 0$"):
        fit(Broken(), tmp_path / "model", name="c", loop=Loop(workers=1, failures=0))
    assert not (tmp_path / "model").exists()


def test_what_the_user_must_resolve_is_said_once_and_not_tried_again(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the batch cannot be shared; give another$"):
        fit(Refusing(str(tmp_path)), tmp_path / "model", name="e", loop=Loop(workers=1))
    assert (tmp_path / "made.log").read_text().split() == ["0"]


def test_more_workers_than_the_cluster_holds(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="500 workers need 500 CPUs"):
        fit(Broken(), tmp_path / "model", name="d", loop=Loop(workers=500))
    with pytest.raises(UserError, match="1 GPU"):
        fit(Broken(), tmp_path / "model", name="d", loop=Loop(workers=1, gpu=True))
