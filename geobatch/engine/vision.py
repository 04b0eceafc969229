"""Image encoders: any vision model of `transformers`, with or without heads trained here, as unit vectors.

`Vision` is what a stage holds: pictures in, unit vectors out. `ImageNetwork` is what training holds: the trunk (the
`transformers` model) and its heads (`geobatch.engine.heads`). A folder is both: `config.json`, `model.safetensors` and
`preprocessor_config.json` as `transformers` writes them, and `head.json` with `head.safetensors` where there are heads. A
folder with a `config.json` and no weights is a network with random ones, which is how a small encoder is trained from nothing.

A picture has one vector for each view, each of unit length divided by the root of their number, one behind the other: the whole
has unit length, and an inner product of two is the mean of the views' cosines.

A trunk gives one vector a picture: CLIP and its kin their image embedding; others their pooled output, or the class token or
mean of the last layer where the checkpoint has no pooler (a pooler that is missing from the weights would be random numbers).
A head may look at the last feature map instead, averaged to a small grid: an average over the whole picture forgets *where* in
it the coast runs, which is all that tells two overlapping aerial pictures apart.

bfloat16 and channels-last, measured on two cores of an AMD EPYC with AVX512-BF16, ResNet of 0.3 M parameters at 48 pixels:
3,700 pictures a second in training (float32: 2,800) and 15,000 in inference (9,400). CPUs without bfloat16 instructions emulate
it many times slower, so "auto" asks the CPU.

Not covered: models that need text beside the picture; heads on a grid beside other views.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from geobatch.engine import heads, pixels
from geobatch.engine.heads import IMAGE, Head, HeadConfig
from geobatch.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class ImageNetwork(nn.Module):
    """A trunk of `transformers`, a head or none for each view, and how they want their pictures.

    Args:
        trunk: any model whose forward takes `pixel_values`.
        heads: by view, what maps the trunk's features to its vector; None: the trunk's own vector.
        reads: how pictures become what the trunk reads.
        pooled: False where the trunk's pooler has no trained weights.
    """

    def __init__(self, trunk: Any, heads: Mapping[str, Head | None], reads: pixels.Pixels, pooled: bool = True) -> None:
        super().__init__()
        self.trunk, self.reads, self.pooled = trunk, reads, pooled
        self.views = tuple(heads)
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    @property
    def head(self) -> Head | None:
        """The head of the only view; None where there is none, or several views."""
        found = self.heads[self.views[0]] if len(self.views) == 1 and self.heads else None
        return found if isinstance(found, Head) else None

    def by_view(self) -> dict[str, Head | None]:
        """The heads, None for the trunk's own vector."""
        return {name: cast(Head | None, dict(self.heads.items()).get(name)) for name in self.views}

    def forward(self, values: Tensor) -> Tensor:
        """What `reads` made, (N, 3, h, w) -> unit vectors (N, D) float32, the views one behind the other."""
        values = values.contiguous(memory_format=torch.channels_last)
        if self.head is not None and self.head.config.grid:
            return F.normalize(self.head(self.feature_map(values)).float(), dim=1)
        return joined(list(self.each(self.features(values)).values()))

    def each(self, features: Tensor) -> dict[str, Tensor]:
        """The trunk's vectors (N, C) -> unit vectors (N, D) float32 of each view."""
        seen = {name: self.heads[name](features) if name in self.heads else features for name in self.views}
        return {name: F.normalize(vectors.float(), dim=1) for name, vectors in seen.items()}

    def feature_map(self, values: Tensor) -> Tensor:
        """The trunk's last feature map (N, C, H, W).

        Raises:
            UserError: the trunk has none.
        """
        last: Tensor = self.trunk(pixel_values=values).last_hidden_state
        if last.ndim != 4:
            raise UserError(f"{type(self.trunk).__name__} gives no feature map for a grid; set the head's grid to 0")
        return last

    def features(self, values: Tensor) -> Tensor:
        """The trunk's own vectors (N, C), of any length."""
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
        """Length of the whole vector, found by looking at a black picture."""
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
        with quiet():
            self.trunk.save_pretrained(folder)
        self.reads.save(folder)
        heads.save(self.by_view(), folder)


def joined(views: Sequence[Tensor]) -> Tensor:
    """Unit vectors (N, D) of V views -> (N, ΣD) unit vectors whose inner products are the mean of the views'."""
    return views[0] if len(views) == 1 else torch.cat(list(views), dim=1) / math.sqrt(len(views))


def network(model: str, head: HeadConfig | Mapping[str, HeadConfig | None] | None = None, seed: int = 0) -> ImageNetwork:
    """The network in a folder or on the hub.

    Args:
        model: folder, or name on the Hugging Face hub (HF_HUB_OFFLINE=1 keeps it to the local cache).
        head: new heads with random weights in place of the folder's own: one, or one by view (None: the trunk's own vector);
            None keeps what the folder has.
        seed: of whatever weights are random.

    Raises:
        UserError: there is no such model, a part of its weights is missing, it says nothing of its input, or one of several
            views asks for a grid.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk, pooled = _trunk(model)
        reads = pixels.read(_file(model, pixels.FILE))
        found = ImageNetwork(trunk, heads.read(Path(model)) if head is None else {IMAGE: None}, reads, pooled)
        if head is not None:
            asked = {IMAGE: head} if isinstance(head, HeadConfig) else dict(head)
            if len(asked) > 1 and any(each is not None and each.grid for each in asked.values()):
                raise UserError("only an encoder of one view can have a head on a grid; set grid to 0")
            channels = {grid: _channels(found, grid) for grid in {each.grid for each in asked.values() if each is not None}}
            made = {name: None if each is None else Head(each, channels[each.grid]) for name, each in asked.items()}
            found = ImageNetwork(trunk, made, reads, pooled)
    return found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


class Vision:
    """Pictures to unit vectors.

    Attributes:
        dimension: length of a whole vector.
        views: names of its parts, in order.
        view_sizes: their lengths.

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
        self.dimension, self.views = self.network.dimension(), self.network.views
        own = {name: cast(Head, head).config.size for name, head in self.network.heads.items()}
        rest = self.dimension - sum(own.values())  # of the one view that is the trunk's own vector, if any
        self.view_sizes = tuple(own.get(name, rest) for name in self.views)

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
        with quiet():
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
        trunk.text_model = None  # half of CLIP, never asked, and not in what this saved
        missing = [name for name in missing if not name.startswith("text_")]
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


@torch.no_grad()
def _channels(found: ImageNetwork, grid: int) -> int:
    side = (found.reads.crop or found.reads.size or (224, 224))[0]
    values = found.reads(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    training = found.training
    found.eval()
    seen = found.feature_map(values) if grid else found.features(values)
    found.train(training)
    return int(seen.shape[1])


@contextmanager
def quiet() -> Iterator[None]:
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
