"""A multimodal LLM as an encoder: one unit vector for a text or a tile (arXiv 2604.10721, section 3).

    v = h / |h|,   h the last layer's hidden state (after its norm) at the last token that is no padding

There is no projection: text and tile meet because LoRA bends the network until they do. The network is a stock class of
`transformers`; its inner model is called, so no logits exist (a vocabulary of 151,936 would make 180 MB of float32 for a text
of 300 tokens). What it reads is made by `Inputs` and nowhere else.

The pooled position is found in the attention mask, and positions count the tokens that are no padding. So neither the side of
the padding, nor the other rows, nor their number changes a vector beyond the order of sums: by 1e-7 at most in float32, of tiny
models of the three families and of one of SmolVLM-256M's size with random weights.

A vector may be cut to its first `Encoding.dimensions` numbers and normalised again; that is worth something for networks
trained with a nested loss. Adapters stay beside the base here, unmerged, so that what was trained is what is evaluated, to the
bit; `geobatch.train.merge` makes one checkpoint of both for serving: 1e-5 from it on a base of float32. The published bases
are bfloat16, and the sum is rounded to that: 1e-3 from it, 3e-6 of cosine distance, on tiny models whose adapters moved
vectors by 0.4 of it. Computing in bfloat16 does three times as much (3e-3, and 3e-5), and there the two serve the same bits.

Not covered: attention in both directions, several vectors a text, pictures inside texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from geobatch.errors import UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.inputs import Batch, Inputs, Picture
from geobatch.train import lora as adapters
from geobatch.train.lora import LoRA

#: Endings of a base's files that `save` writes itself or that hold weights in a form nobody reads from it.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")


class Encoder(nn.Module):
    """The network and its inputs; made by `load`.

    Attributes:
        model: the module of `transformers`, or of peft around it.
        processor: the `Inputs` that make its batches.
        family, encoding: see `Family` and `Encoding`.
        base: folder or hub name of the base.
        dimension: numbers of a vector.
    """

    def __init__(self, model: nn.Module, processor: Inputs, base: str) -> None:
        super().__init__()
        self.model: Any = model
        self.processor, self.base = processor, base
        self.family, self.encoding = processor.family, processor.encoding
        width = int(processor.config.get_text_config().hidden_size)
        if self.encoding.dimensions > width:
            raise UserError(f"{base} gives {width} numbers; ask for that many dimensions at most, or 0 for all")
        self.dimension = self.encoding.dimensions or width

    @classmethod
    def load(
        cls,
        base: str,
        adapter: Path | None = None,
        encoding: Encoding | None = None,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        lora: LoRA | None = None,
        whole: bool = False,
        seed: int = 0,
    ) -> Encoder:
        """The encoder of a base, in evaluation mode.

        Args:
            base: folder or hub name of a model of one of the families.
            adapter: PEFT folder to put on it, frozen, with the alpha it was trained with.
            lora: fresh trainable adapters instead, drawn from `seed`.
            whole: every parameter that reaches a vector is trainable.
            dtype: of the base's weights; adapters are float32.

        Raises:
            UserError: more than one of `adapter`, `lora` and `whole`, another family, no such base, an adapter of another
                base, or a base that the encoding does not fit.
        """
        if (adapter is not None) + (lora is not None) + whole > 1:
            raise UserError("an adapter, fresh LoRA and training whole exclude each other; choose one")
        transformers.utils.logging.disable_progress_bar()
        try:
            processor = Inputs(base, encoding or Encoding())
            model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                base, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            )
        except (OSError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{base} does not load ({said}); give a model's folder or hub name") from error
        model.requires_grad_(whole)
        if whole and (head := model.get_output_embeddings()) is not None:
            tied = head.weight is model.get_input_embeddings().weight
            head.requires_grad_(tied)  # without logits a head of its own gets no gradient
        if adapter is not None:
            model = adapters.read(model, adapter)
        elif lora is not None:
            model = adapters.attach(model, lora, seed)
        return cls(model, processor, base).to(device).eval()

    @property
    def network(self) -> Any:
        """The module of `transformers`, under whatever peft put around it."""
        return self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def texts(self, texts: Sequence[str]) -> Batch:
        """See `Inputs.texts`."""
        return self.processor.texts(texts)

    def pictures(self, pictures: Sequence[Picture]) -> Batch:
        """See `Inputs.pictures`."""
        return self.processor.pictures(pictures)

    def forward(self, inputs: Batch) -> Tensor:
        """Unit vectors (N, D), float32, with gradients; inputs may be padded on either side and lie on any device."""
        given = {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}
        ids, mask = given["input_ids"], given["attention_mask"]
        if "image_grid_thw" in given:  # Qwen counts a tile's positions in rows and columns, from this
            given["mm_token_type_ids"] = (ids == self.processor.config.image_token_id).int()
        else:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.network.model(**given, use_cache=False).last_hidden_state
        pooled = self._pooled(hidden, mask)[:, : self.dimension]
        return F.normalize(pooled.float(), dim=1)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.encoding.pooling == "mean":
            kept = mask.unsqueeze(2)
            return (hidden.float() * kept).sum(1) / kept.sum(1)
        last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def encode_texts(self, texts: Sequence[str], batch: int = 64) -> NDArray[np.float32]:
        """Vectors (N, D) of texts, in batches of like lengths; raises as `Inputs.tokens`."""
        rows = self.processor.tokens(texts) if len(texts) else []
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        vectors = np.empty((len(rows), self.dimension), np.float32)
        with self._still():
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                vectors[part] = self(self.processor.padded([rows[row] for row in part])).cpu().numpy()
        return vectors

    def encode_pictures(self, pictures: Sequence[Picture], batch: int = 16) -> NDArray[np.float32]:
        """Vectors (N, D) of tiles, (H, W, 3) uint8 of any size."""
        vectors = np.empty((len(pictures), self.dimension), np.float32)
        with self._still():
            for start in range(0, len(pictures), batch):
                part = slice(start, start + batch)
                vectors[part] = self(self.pictures(pictures[part])).cpu().numpy()
        return vectors

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Without dropout and without a graph."""
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.train(training)

    def save(self, folder: Path) -> None:
        """Writes the whole network and the base's other files, a folder that `load`, `transformers` and vLLM read.

        Raises:
            ValueError: there are adapters on it; `geobatch.train.lora.save` writes those.
        """
        if isinstance(self.model, peft.PeftModel):
            raise ValueError("adapters are on this network; save them, and merge")
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files(self.base).iterdir():
            if path.is_file() and path.suffix not in _WEIGHTS and not path.name.endswith(".index.json"):
                shutil.copy2(path, folder / path.name)
        self.model.save_pretrained(folder)


def _files(base: str) -> Path:
    """The folder of a base, fetched from the hub where it is a name."""
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base, ignore_patterns=[f"*{ending}" for ending in _WEIGHTS]))
