"""How the model of a training that ended comes to where the user asked for it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ray.train import Checkpoint

#: The folder of a checkpoint that holds the model, in the last one.
MODEL = "model"


def take_out(checkpoint: Checkpoint, output: Path) -> None:
    """Puts the model of the last checkpoint at `output`, whole or not at all; what is there is given up."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Named like checkpoints: beside a part of a model that may be in use meanwhile, it is no part of it either.
    scratch_of = tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".training")
    with scratch_of as scratch, checkpoint.as_directory() as folder:
        fresh = Path(scratch) / MODEL
        shutil.copytree(Path(folder) / MODEL, fresh)
        if output.exists():
            output.rename(Path(scratch) / "before")
        fresh.rename(output)
