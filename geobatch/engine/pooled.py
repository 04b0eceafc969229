"""vLLM's engine as a backend of vectors: the hidden state of a prompt's last token, or the mean of all, at unit length.

A request's `prompt` is read word for word, no special token is added: give token ids where they must be exactly another
tokenizer call's. A picture is handed to vLLM's own processor of the model with `processor`'s settings; its tokens take the
place of the one image token in the prompt. The desk (`generator`) is the one that replies have: an engine that dies comes back,
a text or picture that kills it is found by halving.

Vectors leave float32 whatever the weights are. Prefix caching is off (no two prompts of an archive begin alike for long), and
with it the hashing of pictures that it needs. Whole prompts only: the mean is not defined over a part, and on a CPU a chunk
gains nothing.

SmolVLM's tiles need a mend. For a picture that is not split, transformers 5 counts 0 patches where older versions counted 1;
vLLM 0.29 believes it, hands the network no pixels, and the engine dies of the first tile. `_one_patch` makes it 1, in this
process, which is where prompts are made; the engine's own process counts patches only to size a rehearsal, which is left out.

Not covered: adapters (merge them), truncated dimensions (vLLM cuts only what a checkpoint declares Matryoshka; whoever asks
can cut and normalise again).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from geobatch.engine.chat import image
from geobatch.engine.request import Dead, GeneratorConfig, Reply, Request, Sampling
from geobatch.engine.running import Running
from geobatch.errors import MachineError, Rejection

#: Tokens of one step where it may hold several prompts.
STEP_TOKENS = 8192


class Pooled(Running):
    """The backend.

    Args:
        model: folder or hub name of the model, its weights whole.
        config: see `GeneratorConfig`.
        pooling: the last token's state, or the mean of all.
        processor: settings that go to the model's processor with every picture.
    """

    def __init__(
        self,
        model: str,
        config: GeneratorConfig,
        pooling: Literal["last", "mean"] = "last",
        processor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, config)
        self.pooling, self.processor = pooling, dict(processor or {})
        self._numbers = itertools.count()

    def arguments(self) -> dict[str, Any]:
        """See `Running`."""
        from vllm.config import PoolerConfig

        _one_patch()
        shared = super().arguments()
        return {
            **shared,
            "runner": "pooling",
            "convert": "embed",
            "pooler_config": PoolerConfig(seq_pooling_type="LAST" if self.pooling == "last" else "MEAN"),
            "enable_prefix_caching": False,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(STEP_TOKENS, shared["max_model_len"]),
            "mm_processor_kwargs": self.processor or None,
            "skip_mm_profiling": True,
        }

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`; nothing is drawn, so `sampling` says nothing."""
        from vllm import PoolingParams

        if self.engine is None:
            raise Dead("the engine is down")
        prompt: dict[str, Any]
        if isinstance(request.prompt, tuple):
            prompt = {"prompt_token_ids": list(request.prompt)}
        else:
            prompt = {"prompt": request.prompt or said(request)}
        if request.picture is not None:
            prompt["multi_modal_data"] = {"image": [image(request.picture)]}
        stream = self.engine.encode(
            prompt,
            PoolingParams(task="embed"),
            f"{next(self._numbers)}",
            tokenization_kwargs={"add_special_tokens": False},
        )
        found = await self.last(stream)
        vector = np.asarray(found.outputs.data.float().numpy(), np.float32)
        if vector.ndim != 1:
            raise MachineError(f"vLLM gave {vector.shape} numbers where a vector was asked for; report it")
        if not np.isfinite(vector).all():
            raise Rejection("failed", "its vector has numbers that are not finite")
        return Reply(vector=vector, prompt_tokens=len(found.prompt_token_ids or ()))


def said(request: Request) -> str:
    """The words of a request's messages, one after the other: what the desk's probe says."""
    parts = (part for message in request.messages for part in message["content"])
    return " ".join(part["text"] for part in parts if part.get("type") == "text")


def _one_patch() -> None:
    from vllm.model_executor.models.idefics3 import Idefics3ProcessingInfo

    counted = Idefics3ProcessingInfo.get_num_patches
    if counted.__name__ == "at_least_one":
        return

    def at_least_one(self: Any, **named: Any) -> int:
        return max(1, counted(self, **named))

    setattr(Idefics3ProcessingInfo, counted.__name__, at_least_one)
