"""Image encoders: any vision model of `transformers`, with or without a head trained here, as unit vectors.

`Vision` is what a stage holds: pictures in, unit vectors out. `ImageNetwork` is what training holds: the
trunk (the `transformers` model) and a `Head`. A folder is both: `config.json`, `model.safetensors` and
`preprocessor_config.json` as `transformers` writes them, and `head.json` with `head.safetensors` where
there is a head. A folder with a `config.json` and no weights is a network with random ones, which is how a
small encoder is trained from nothing.

A trunk gives one vector a picture: CLIP and its kin their image embedding; others their pooled output, or
the class token or mean of the last layer where the checkpoint has no pooler (a pooler that is missing from
the weights would be random numbers). A head may look at the last feature map instead, averaged to a small
grid: an average over the whole picture forgets *where* in it the coast runs, which is all that tells two
overlapping aerial pictures apart.

bfloat16 and channels-last, measured on two cores of an AMD EPYC with AVX512-BF16, ResNet of 0.3 M
parameters at 48 pixels: 3,700 pictures a second in training (float32: 2,800) and 15,000 in inference
(9,400). CPUs without bfloat16 instructions emulate it many times slower, so "auto" asks the CPU.

Not covered: models that need text beside the picture; several vectors a picture; fine-tuning with adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from geobatch.engine import pixels
from geobatch.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]

_HEAD, _HEAD_WEIGHTS = "head.json", "head.safetensors"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A linear map from what the trunk sees to the vector."""

    size: int = 128
    """Length of the vector."""

    grid: int = 0
    """Cells a side of the grid that the last feature map is averaged to; 0: the trunk's own vector is read.
    """


class Head(nn.Module):
    """Feature map (N, C, H, W), or vector (N, C) where `grid` is 0, to (N, size)."""

    def __init__(self, config: HeadConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.linear = nn.Linear(channels * max(config.grid, 1) ** 2, config.size)

    def forward(self, seen: Tensor) -> Tensor:
        """See the class."""
        if self.config.grid and seen.shape[2:] != (self.config.grid, self.config.grid):
            seen = F.adaptive_avg_pool2d(seen, self.config.grid)
        out: Tensor = self.linear(seen.flatten(1))
        return out


class ImageNetwork(nn.Module):
    """A trunk of `transformers`, a head or none, and how both want their pictures.

    Args:
        trunk: any model whose forward takes `pixel_values`.
        head: maps the trunk's features to the vector; None: the trunk's own vector.
        reads: how pictures become what the trunk reads.
        pooled: False where the trunk's pooler has no trained weights.
    """

    def __init__(self, trunk: Any, head: Head | None, reads: pixels.Pixels, pooled: bool = True) -> None:
        super().__init__()
        self.trunk, self.head, self.reads, self.pooled = trunk, head, reads, pooled

    def forward(self, values: Tensor) -> Tensor:
        """What `reads` made, (N, 3, h, w) -> unit vectors (N, D) float32."""
        values = values.contiguous(memory_format=torch.channels_last)
        if self.head is not None:
            seen = self.head(self.feature_map(values) if self.head.config.grid else self._vector(values))
        else:
            seen = self._vector(values)
        return F.normalize(seen.float(), dim=1)

    def feature_map(self, values: Tensor) -> Tensor:
        """The trunk's last feature map (N, C, H, W).

        Raises:
            UserError: the trunk has none.
        """
        last: Tensor = self.trunk(pixel_values=values).last_hidden_state
        if last.ndim != 4:
            raise UserError(f"{type(self.trunk).__name__} gives no feature map for a grid; set the head's grid to 0")
        return last

    def _vector(self, values: Tensor) -> Tensor:
        if hasattr(self.trunk, "get_image_features"):
            seen = self.trunk.get_image_features(pixel_values=values)
            return seen if isinstance(seen, Tensor) else seen.pooler_output
        out = self.trunk(pixel_values=values)
        pooled: Tensor | None = getattr(out, "pooler_output", None)
        if pooled is not None and self.pooled:
            return pooled.flatten(1)
        last: Tensor = out.last_hidden_state
        return last.mean(dim=(2, 3)) if last.ndim == 4 else last[:, 0]

    @torch.no_grad()
    def dimension(self) -> int:
        """Length of a vector, found by looking at a black picture."""
        training = self.training
        self.eval()
        side = (self.reads.crop or self.reads.size or (224, 224))[0]
        device = next(self.parameters()).device
        length = self(self.reads(torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device))).shape[1]
        self.train(training)
        return int(length)

    def save(self, folder: Path) -> None:
        """Writes the folder that `network` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            self.trunk.save_pretrained(folder)
        self.reads.save(folder)
        if self.head is not None:
            said = {**asdict(self.head.config), "channels": self.head.channels}
            (folder / _HEAD).write_text(json.dumps(said, indent=1) + "\n")
            weights = {name: value.contiguous() for name, value in self.head.state_dict().items()}
            save_file(weights, folder / _HEAD_WEIGHTS)


def network(model: str, head: HeadConfig | None = None, seed: int = 0) -> ImageNetwork:
    """The network in a folder or on the hub.

    Args:
        model: folder, or name on the Hugging Face hub (HF_HUB_OFFLINE=1 keeps it to the local cache).
        head: a new head with random weights in place of the folder's own; None keeps what the folder has.
        seed: of whatever weights are random.

    Raises:
        UserError: there is no such model, a part of its weights is missing, or it says nothing of its input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk, pooled = _trunk(model)
        reads = pixels.read(_file(model, pixels.FILE))
        said = None if head is not None else _own_head(model)
        found = ImageNetwork(trunk, None, reads, pooled)
        if said is not None:
            channels = said.pop("channels")
            found.head = Head(HeadConfig(**said), channels)
            found.head.load_state_dict(load_file(Path(model) / _HEAD_WEIGHTS))
        elif head is not None:
            found.head = Head(head, _channels(found, head.grid))
    return found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


class Vision:
    """Pictures to unit vectors.

    Args:
        model: as for `network`.
        batch: pictures that go through the network together.
        precision: of the network's arithmetic; "auto" takes bfloat16 where the hardware has it.
        device: "auto" takes a GPU that this process sees.
    """

    def __init__(self, model: str, batch: int = 256, precision: Precision = "auto", device: str = "auto") -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.network = network(model).to(self.device).eval()
        self.batch = batch
        self.bf16 = precision == "bfloat16" or (precision == "auto" and bf16_pays(self.device))
        self.dimension = self.network.dimension()

    def encode(self, pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (N, D) of upright RGB pictures, each (H, W, 3), of one size or of many."""
        out = np.empty((len(pictures), self.dimension), np.float32)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for row, picture in enumerate(pictures):
            shapes.setdefault(picture.shape, []).append(row)
        for rows in shapes.values():
            for start in range(0, len(rows), self.batch):
                some = rows[start : start + self.batch]
                out[some] = self._encode(pixels.stack([pictures[row] for row in some]))
        return out

    @torch.inference_mode()
    def _encode(self, pictures: Tensor) -> NDArray[np.float32]:
        values = self.network.reads(pictures.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            vectors = self.network(values)
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def _trunk(model: str) -> tuple[Any, bool]:
    folder = Path(model)
    try:
        with _quiet():
            if folder.is_dir() and not any((folder / name).exists() for name in _WEIGHTS):
                return transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(model)), True
            trunk, said = transformers.AutoModel.from_pretrained(model, output_loading_info=True)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0][:200]
        raise UserError(
            f"no image model at {model} ({why}); give a transformers folder, or a name this machine can fetch"
        ) from error
    missing = sorted(said["missing_keys"])
    if hasattr(trunk, "text_model"):
        trunk.text_model = None  # half of CLIP, never asked
    pooler = [name for name in missing if "pooler" in name]
    if len(pooler) < len(missing):
        raise UserError(f"{model} lacks weights ({missing[0]}, {len(missing)} in all); get the whole model")
    return trunk, not pooler


def _file(model: str, name: str) -> Path:
    try:
        found = transformers.utils.cached_file(model, name)
    except OSError as error:
        raise UserError(f"{model} has no {name}, so its input is unknown; put one beside the weights") from error
    return Path(found)


def _own_head(model: str) -> dict[str, Any] | None:
    path = Path(model) / _HEAD
    said: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return said


@torch.no_grad()
def _channels(found: ImageNetwork, grid: int) -> int:
    side = (found.reads.crop or found.reads.size or (224, 224))[0]
    values = found.reads(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    training = found.training
    found.eval()
    seen = found.feature_map(values) if grid else found._vector(values)
    found.train(training)
    return int(seen.shape[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the load report and progress bars of `transformers`; whoever wants them finds the weights'
    names in errors.
    """
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
