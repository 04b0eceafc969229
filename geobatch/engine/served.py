"""vLLM's asynchronous engine as a backend of replies.

All draws of a request are one request of vLLM's: its prompt is computed once and its key-value blocks are shared by the draws,
and the blocks of a fixed beginning (instructions before the picture) by all requests. Log-probabilities are the model's own,
before temperature; those of a guided reply are among the tokens that the guide allowed, since vLLM masks before it computes
them.

On a CPU vLLM lets the tokens of Gemma 3's pictures see backwards only (on GPUs both ways, as the model was trained). How the
engine starts and dies: `running`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from geobatch.engine.chat import Chat, adapter_rank, image, sees
from geobatch.engine.request import Dead, GeneratorConfig, Reply, Request, Sample, Sampling
from geobatch.engine.running import Running
from geobatch.errors import UserError

#: Ranks that vLLM can be told as a largest one.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

#: On a CPU, vLLM 0.29 dies of a seeded request whose prompt it computes in parts ("CPU Generator does not use offset").
_WHOLE_PROMPTS = {"enable_chunked_prefill": False}


class Served(Running):
    """The backend.

    Args:
        model: folder or hub name of the model.
        config: see `GeneratorConfig`.
        adapter: folder of a PEFT adapter, or None.
    """

    def __init__(self, model: str, config: GeneratorConfig, adapter: Path | None = None) -> None:
        super().__init__(model, config)
        self.adapter, self.chat = adapter, Chat(model)
        self._numbers = itertools.count()
        self._lora: Any = None

    def arguments(self) -> dict[str, Any]:
        """See `Running`."""
        import torch

        return {
            **super().arguments(),
            "enable_prefix_caching": True,
            # Free whitespace lets a model write blanks up to its limit of tokens.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            **({"max_num_batched_tokens": 8192} if torch.cuda.is_available() else _WHOLE_PROMPTS),
            **self._adapted(),
        }

    def _adapted(self) -> dict[str, Any]:
        if self.adapter is None:
            return {}
        from vllm.lora.request import LoRARequest

        rank = adapter_rank(self.adapter)
        if sees(self.adapter):
            raise UserError(f"{self.adapter} also adapts the vision tower, which vLLM's adapters do not reach; train with "
                            "--merge and serve merged/ with --method geolocsft")  # fmt: skip
        self._lora = LoRARequest("adapter", 1, str(self.adapter))
        return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(each for each in _RANKS if each >= rank)}

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`."""
        if self.engine is None:
            raise Dead("the engine is down")
        prompt: dict[str, Any] = {"prompt": self.chat.render(request.messages)}
        if request.picture is not None:
            prompt["multi_modal_data"] = {"image": [image(request.picture)]}
        stream = self.engine.generate(
            prompt,
            _parameters(request, sampling),
            f"{next(self._numbers)}",
            lora_request=self._lora,
            tokenization_kwargs={"add_special_tokens": False},
        )
        found = await self.last(stream)
        return Reply(tuple(self._sample(each) for each in found.outputs), None, len(found.prompt_token_ids or ()))

    def _sample(self, output: Any) -> Sample:
        tokens = list(output.token_ids)
        text, offsets = self.chat.decode(tokens)
        each = [step[token].logprob for token, step in zip(tokens, output.logprobs, strict=True)]
        return Sample(text, float(sum(each)), tuple(each), offsets, "length" if output.finish_reason == "length" else "stop")


def _parameters(request: Request, sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    guide = None
    if sampling.pattern is not None:
        guide = StructuredOutputsParams(regex=sampling.pattern)
    elif sampling.schema is not None:
        guide = StructuredOutputsParams(json=sampling.schema)
    greedy = sampling.temperature <= 0
    return SamplingParams(
        n=1 if greedy else sampling.draws,
        temperature=0.0 if greedy else sampling.temperature,
        top_p=1.0 if greedy else sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=None if greedy else sampling.seed_of(request.key),
        logprobs=0,
        structured_outputs=guide,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
