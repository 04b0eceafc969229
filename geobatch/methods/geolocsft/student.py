"""The student as a module whose forward is the loss: what DDP and FSDP wrap.

Logits exist for answer tokens only, `LOGITS` at a time, and are computed again in the backward pass: Gemma's 262,208 words make
1 MiB of float32 a token, and a prompt with its picture is most of a sequence.

`write` goes past peft's own `generate` to the model's, and the wrapped module knows it by name (`geobatch.train.shard.lend`).
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geobatch.methods.geolocsft.config import Tuning
from geobatch.methods.geolocsft.data import Encoded

#: Answer tokens whose logits exist at once.
LOGITS = 2048


def load(base: str, tuning: Tuning, device: str = "cpu") -> Any:
    """A base model of `transformers` in the arithmetic it is trained in, on `device`."""
    dtype = torch.bfloat16 if tuning.bf16 else torch.float32
    where = {} if device == "cpu" else {"device_map": {"": device}}
    model = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=dtype, attn_implementation="sdpa", **where)
    model.config.use_cache = False
    return model


class Student(nn.Module):
    """A model with adapters whose forward is the loss: what DDP and FSDP wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoded: Encoded) -> Tensor:
        """The weighted sum of the answer tokens' losses, nats."""
        conditional = self.model.get_base_model()
        hidden = conditional.model(**encoded.inputs, use_cache=False).last_hidden_state
        targets, weights = encoded.inputs["input_ids"][:, 1:], encoded.weights[:, 1:]
        learnt = weights > 0
        hidden, targets, weights = hidden[:, :-1][learnt], targets[learnt], weights[learnt]

        def loss(hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            logits = conditional.lm_head(hidden).float()
            return nn.functional.cross_entropy(logits, targets, reduction="none") @ weights

        parts = range(0, max(1, len(targets)), LOGITS)
        losses = [
            checkpoint(
                loss, hidden[at : at + LOGITS], targets[at : at + LOGITS], weights[at : at + LOGITS], use_reentrant=False
            )
            for at in parts
        ]
        return torch.stack(losses).sum()

    def write(self, inputs: dict[str, Tensor], tokens: int, synced: bool) -> Tensor:
        """Greedy answers (B, at most `tokens`) to left-padded prompts."""
        ids: Tensor = self.model.get_base_model().generate(
            **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1, use_cache=True, synced_gpus=synced,
            temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
        )  # fmt: skip
        return ids[:, inputs["input_ids"].shape[1] :]
