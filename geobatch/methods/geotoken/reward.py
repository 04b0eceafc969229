"""Which candidates are near the truth: the paper's reward model (arXiv 2511.01082, section 3), and the stage that asks it.

The network that writes places reads them here: the trunk is GeoToken's encoder and decoder, a candidate's tokens go in behind
the image and its neighbours, and where the next token would be written, behind the last, a head 512 → 2048 → 2 says whether
the candidate lies within 200 km of the truth. It sees what log-probability cannot: a wrong place that was likely at each step.

All candidates of an image share its memory, which is read in place: 30 candidates cost one encoder pass and 30 × 22
positions of the decoder, 11 % more multiplications than the pass at the paper's size.

The paper does not say where the head reads; this is the only position that has read all tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from geobatch.errors import UserError
from geobatch.methods.geotoken.asked import batch, queries
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import Context, codes_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.methods.geotoken.tables import column, padded
from geobatch.stage import Stage

#: The part of a model's folder that holds a reward model.
REWARD = "reward"

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class RewardModel(nn.Module):
    """GeoToken's trunk with a head that reads whole candidates.

    Args:
        config: of the trunk.
        hidden: width of the head.
    """

    def __init__(self, config: GeoToken, hidden: int = 2048) -> None:
        super().__init__()
        self.config, self.hidden = config, hidden
        self.trunk = GeoTokenModel(config)
        self.trunk.heads = nn.ModuleList()  # nothing is written
        self.end = nn.Parameter(torch.zeros(config.width))
        self.head = nn.Sequential(nn.Linear(config.width, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def begin(self, trained: GeoTokenModel) -> None:
        """Takes over the trunk of a network that was trained to write."""
        weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("heads.")}
        self.trunk.load_state_dict(weights)

    def logits(self, context: Context, codes_BKT: Tensor) -> Tensor:
        """(B, K, 2): wrong and right, of K candidates for each image."""
        images, count, _ = codes_BKT.shape
        memory = self.trunk.encode(context)
        image_R = torch.arange(images, device=codes_BKT.device).repeat_interleave(count)
        near = memory.near.of(image_R) if memory.near is not None else None
        x_RTW = self.trunk.read(memory, self.trunk.inputs(codes_BKT.flatten(0, 1), near, self.end))
        out: Tensor = self.head(x_RTW[:, -1]).unflatten(0, (images, count))
        return out

    def forward(self, context: Context, codes_BKT: Tensor, right_BK: Tensor) -> Tensor:
        """The loss: mean cross-entropy of right (1) and wrong (0), nats."""
        return functional.cross_entropy(self.logits(context, codes_BKT).flatten(0, 1).float(), right_BK.flatten())

    def save(self, folder: Path, **more: Any) -> None:
        """Writes `model.safetensors` and `config.json`; `more` are further sections of the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        said = {"model": asdict(self.config), "hidden": self.hidden, **more}
        (folder / _CONFIG).write_text(json.dumps(said, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RewardModel:
        """The model that `save` wrote, in evaluation mode.

        Raises:
            UserError: a file is missing, or config and weights do not belong together.
        """
        try:
            said = json.loads((folder / _CONFIG).read_text())
            model = cls(GeoToken.read(said["model"]), said["hidden"])
            model.load_state_dict(load_file(folder / _WEIGHTS))
        except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            why = str(error).splitlines()[0][:200]
            raise UserError(f"{folder} holds no reward model ({why}); train one with geotoken_train.py --reward") from error
        return model.eval()


class Reward(Stage):
    """Candidates -> their rewards: the log-odds that each lies within the distance that the model was trained for.

    Reads `vector`, `neighbours`, `neighbour_vectors` (as `Sample`, which must be told to pass it on) and `candidates`; adds
    `rewards`, aligned with them, null for a candidate without a place.

    Args:
        model: a model, or the folder one was saved in.
        images: that go through the network together.
        device: where it runs.
    """

    drops = ("neighbour_vectors",)
    adds = (pa.field("rewards", pa.list_(pa.float32())),)

    def __init__(self, model: RewardModel | Path | str, images: int = 64, device: str = "cpu") -> None:
        loaded = model if isinstance(model, RewardModel) else RewardModel.load(Path(model))
        self.model, self.images, self.device = loaded.to(device).eval(), images, device

    def work(self, table: pa.Table) -> pa.Table:
        """See the class.

        Raises:
            UserError: vectors of another length than the model's.
        """
        lists = [self._rewards(table.slice(at, self.images)) for at in range(0, len(table), self.images)]
        return table.append_column(self.adds[0], pa.chunked_array(lists, self.adds[0].type))

    @torch.inference_mode()
    def _rewards(self, table: pa.Table) -> pa.Array:
        config = self.model.config
        vectors, _ = queries(table, config)
        places = [padded(column(table, "candidates", name), np.nan) for name in ("latitude", "longitude")]
        there = ~(np.isnan(places[0]) | np.isnan(places[1]))
        latitude, longitude = (np.where(there, values, 0.0).ravel() for values in places)
        codes = torch.from_numpy(codes_of(latitude, longitude, config)).reshape(*there.shape, config.length)
        odds = np.zeros(there.shape, np.float32)
        if there.any():
            seen = batch(table, vectors, config).to(self.device)
            logits = self.model.logits(seen, codes.to(self.device)).float().cpu().numpy()
            odds = logits[..., 1] - logits[..., 0]
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column(table, "candidates")), 0))
        listed = np.arange(there.shape[1]) < lengths[:, None]
        values = pa.array(odds[listed], pa.float32(), mask=~there[listed])
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, values)
