"""vLLM's asynchronous engine as a backend.

All draws of a request are one request of vLLM's: its prompt is computed once and its key-value blocks are shared by the draws,
and the blocks of a fixed beginning (instructions before the picture) by all requests. Log-probabilities are the model's own,
before temperature; those of a guided reply are among the tokens that the guide allowed, since vLLM masks before it computes
them. The engine's core runs in a process of its own, so its death is an error here and not ours.

`tensor_parallel` GPUs of one node hold the model together; the actor asks Ray for that many, which come from one node.

On a CPU vLLM knows attention heads of 32 and more, lets the tokens of Gemma 3's pictures see backwards only (on GPUs both
ways, as the model was trained), and takes 15 to 60 s to start a tiny model on two cores.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from pathlib import Path
from typing import Any

from geobatch.actors import SILENCE
from geobatch.engine.chat import Chat, adapter_rank, context_of, image, sees
from geobatch.engine.request import Dead, GeneratorConfig, Reply, Request, Sample, Sampling
from geobatch.errors import MachineError, Rejection, UserError

#: Ranks that vLLM can be told as a largest one.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

#: On a CPU, vLLM 0.29 dies of a seeded request whose prompt it computes in parts ("CPU Generator does not use offset").
_WHOLE_PROMPTS = {"enable_chunked_prefill": False}


class Served:
    """The backend.

    Args:
        model: folder or hub name of the model.
        config: see `GeneratorConfig`.
        adapter: folder of a PEFT adapter, or None.
    """

    def __init__(self, model: str, config: GeneratorConfig, adapter: Path | None = None) -> None:
        self.model, self.config, self.adapter = model, config, adapter
        self.chat = Chat(model)
        self.engine: Any = None
        self._numbers = itertools.count()
        self._lora: Any = None

    async def open(self) -> None:
        """See `Backend`."""
        _environment(self.config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside vLLM and its libraries
            self._open()

    def _open(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        adapter: dict[str, Any] = {}
        if self.adapter is not None:
            rank = adapter_rank(self.adapter)
            if sees(self.adapter):
                raise UserError(f"{self.adapter} also adapts the vision tower, which vLLM's adapters do not reach; train with "
                                "--merge and serve merged/ with --method geolocsft")  # fmt: skip
            adapter = {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(each for each in _RANKS if each >= rank)}
            self._lora = LoRARequest("adapter", 1, str(self.adapter))
        try:
            self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments(), **adapter))
        except (ValueError, ImportError, OSError) as error:
            raise UserError(f"vLLM cannot serve {self.model}: {_line(error)}; another model, or other settings of the "
                            "generator") from None  # fmt: skip
        except Exception as error:  # noqa: BLE001  whatever a core process dies of while it starts
            raise Dead(_line(error)) from None

    def _arguments(self) -> dict[str, Any]:
        import torch

        cuda = torch.cuda.is_available()
        return {
            "model": self.model,
            "dtype": self.config.dtype,
            "max_model_len": min(self.config.context, context_of(self.model)),
            "max_num_seqs": self.config.in_flight,
            "tensor_parallel_size": self.config.tensor_parallel,
            "enforce_eager": not cuda,
            "enable_prefix_caching": True,
            "limit_mm_per_prompt": {"image": 1},
            "mm_processor_cache_gb": 0,  # every picture is seen once
            "disable_log_stats": True,
            # Free whitespace lets a model write blanks up to its limit of tokens.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            **({"gpu_memory_utilization": self.config.gpu_memory, "max_num_batched_tokens": 8192} if cuda else _WHOLE_PROMPTS),
        }

    async def close(self) -> None:
        """See `Backend`."""
        engine, self.engine = self.engine, None
        if engine is not None:
            from vllm.v1.engine.exceptions import EngineDeadError

            with contextlib.suppress(Exception):  # shutting down leaves those who wait waiting, so they are told first
                engine.output_processor.propagate_error(EngineDeadError())
            with contextlib.suppress(Exception):
                engine.shutdown()

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        engine = self.engine
        if engine is None:
            raise Dead("the engine is down")
        prompt: dict[str, Any] = {"prompt": self.chat.render(request.messages)}
        if request.picture is not None:
            prompt["multi_modal_data"] = {"image": [image(request.picture)]}
        found = None
        stream = engine.generate(
            prompt,
            _parameters(request, sampling),
            f"{next(self._numbers)}",
            lora_request=self._lora,
            tokenization_kwargs={"add_special_tokens": False},
        )
        try:
            async for output in stream:
                found = output
        except EngineDeadError as error:
            raise Dead(_line(error)) from None
        except (VLLMClientError, ValueError) as error:
            raise _refused(error) from None
        except EngineGenerateError as error:
            if engine.errored:
                raise Dead(_line(error)) from None
            raise Rejection("failed", _line(error.__cause__ or error)) from None
        if found is None:
            raise MachineError("vLLM ended a request without an answer; report it")
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


def _refused(error: Exception) -> Rejection:
    text = _line(error)
    long = "longer than" in text or "maximum model length" in text or "context length" in text
    return Rejection("too_long" if long else "failed", text)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _environment(config: GeneratorConfig) -> None:
    """vLLM reads these when its modules are imported and in the processes it starts."""
    os.environ.update(SILENCE)
    os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(int(config.start_s))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_cache_gib))
