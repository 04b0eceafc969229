"""The text tower: captions to vectors, by the text half of a CLIP (or any text model of `transformers`) and a head.

The folder or name is the image encoder's own: `CLIPModel` holds both halves, and only the text half is kept. Captions are read
by the tokenizer beside it, padded to the longest of the batch and cut at the model's length (77 tokens for CLIP, a caption of
city, state and country has 20).

Captions repeat: of GeoCLIP's 100K coordinates 27,029 towns have a photograph. So a tower that keeps its weights embeds each
caption once and remembers the vector (`remember`): 1.5 KB a town for 768 numbers in float16, 233 MB if every town on Earth
comes by. Half precision costs an element 5e-4 of itself at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from geobatch.engine.heads import Head, HeadConfig
from geobatch.engine.vision import quiet
from geobatch.errors import UserError


class TextNetwork(nn.Module):
    """A text model of `transformers` and a head.

    Args:
        trunk: any model whose forward takes `input_ids` and `attention_mask`.
        head: maps its vector to what images are compared with.
        tokenizer: that the trunk was trained with.
    """

    def __init__(self, trunk: Any, head: Head, tokenizer: Any) -> None:
        super().__init__()
        self.trunk, self.head, self.tokenizer = trunk, head, tokenizer
        self._known: dict[str, Tensor] = {}

    def forward(self, features: Tensor) -> Tensor:
        """The trunk's vectors (N, C) -> unit vectors (N, size) float32."""
        return nn.functional.normalize(self.head(features).float(), dim=1)

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (N, L) of captions, padded to the longest."""
        length = getattr(self.trunk.config, "text_config", self.trunk.config).max_position_embeddings
        read = self.tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return read["input_ids"], read["attention_mask"]

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The trunk's own vectors (N, C) of tokens."""
        if hasattr(self.trunk, "get_text_features"):
            seen = self.trunk.get_text_features(input_ids=ids, attention_mask=mask)
            return seen if isinstance(seen, Tensor) else seen.pooler_output
        last: Tensor = self.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
        share = mask.to(last.dtype)[:, :, None]
        return (last * share).sum(dim=1) / share.sum(dim=1)

    @torch.no_grad()
    def remember(self, captions: Sequence[str]) -> Tensor:
        """The trunk's own vectors (N, C) float32 of captions, each computed once; for a trunk that keeps its weights."""
        fresh = sorted(set(captions) - self._known.keys())
        device = next(self.head.parameters()).device
        for start in range(0, len(fresh), 256):
            some = fresh[start : start + 256]
            ids, mask = self.tokens(some)
            vectors = self.features(ids.to(device), mask.to(device)).half().cpu()
            self._known |= dict(zip(some, vectors.unbind(), strict=True))
        return torch.stack([self._known[caption] for caption in captions]).float().to(device)


def text_network(model: str, head: HeadConfig, seed: int = 0) -> TextNetwork:
    """The text tower of a folder or hub name, with a new head.

    Args:
        model: folder or name of a CLIP, or of a text model.
        head: `grid` means nothing here.
        seed: of the head's weights.

    Raises:
        UserError: there is no text model with a tokenizer there, or part of its weights is missing.
    """
    try:
        with quiet():
            trunk, said = transformers.AutoModel.from_pretrained(model, output_loading_info=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"no text model with its tokenizer at {model} ({why}); name one, or train without captions") from error
    missing = [name for name in sorted(said["missing_keys"]) if "pooler" not in name and "vision" not in name]
    if missing:
        raise UserError(f"{model} lacks weights ({missing[0]}, {len(missing)} in all); get the whole model")
    if hasattr(trunk, "vision_model"):
        trunk.vision_model = None  # the other half of CLIP
    if not hasattr(trunk, "get_text_features") and "input_ids" not in signature(trunk.forward).parameters:
        raise UserError(f"{model} reads no text; name a CLIP or a text model, or train without captions")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk.eval()
        found = TextNetwork(trunk, Head(HeadConfig(size=1), 1), tokenizer)
        with torch.no_grad():
            channels = found.features(*found.tokens(["a place"])).shape[1]
        found.head = Head(head, channels)
    return found
