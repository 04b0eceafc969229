"""vLLM's asynchronous engine as a process that may die: how it starts, what its errors mean, how it ends.

The engine's core runs in a process of its own, so its death is an error here (`Dead`) and not ours. `served` asks such an
engine for replies, `pooled` for vectors.

`tensor_parallel` GPUs of one node hold the model together; the actor asks Ray for that many, which come from one node.

On a CPU vLLM knows attention heads of 32 and more and takes 15 to 70 s to start a tiny model on two cores.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import Any

from geobatch.actors import SILENCE
from geobatch.engine.chat import context_of
from geobatch.engine.request import Dead, GeneratorConfig
from geobatch.errors import MachineError, Rejection, UserError


class Running:
    """An engine that can be opened and closed again.

    Args:
        model: folder or hub name of the model.
        config: see `GeneratorConfig`.
    """

    def __init__(self, model: str, config: GeneratorConfig) -> None:
        self.model, self.config = model, config
        self.engine: Any = None

    async def open(self) -> None:
        """See `Backend`."""
        _environment(self.config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside vLLM and its libraries
            self._open()

    def _open(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = self.arguments()
        try:
            self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except (ValueError, ImportError, OSError) as error:
            raise UserError(f"vLLM cannot serve {self.model}: {line(error)}; another model, or other settings of the "
                            "generator") from None  # fmt: skip
        except Exception as error:  # noqa: BLE001  whatever a core process dies of while it starts
            raise Dead(line(error)) from None

    def arguments(self) -> dict[str, Any]:
        """What vLLM's engine is started with.

        Raises:
            UserError: these settings cannot work.
        """
        import torch

        cuda = torch.cuda.is_available()
        return {
            "model": self.model,
            "dtype": self.config.dtype,
            "max_model_len": min(self.config.context, context_of(self.model)),
            "max_num_seqs": self.config.in_flight,
            "tensor_parallel_size": self.config.tensor_parallel,
            "enforce_eager": not cuda,
            "limit_mm_per_prompt": {"image": 1},
            "mm_processor_cache_gb": 0,  # every picture is seen once
            "disable_log_stats": True,
            **({"gpu_memory_utilization": self.config.gpu_memory} if cuda else {}),
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

    async def last(self, stream: Any) -> Any:
        """The last of an engine's outputs for one request.

        Raises:
            Dead: the engine died, of this request or another.
            Rejection: it refuses this request, or failed at it alone.
            MachineError: it said nothing at all.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        engine, found = self.engine, None
        try:
            async for output in stream:
                found = output
        except EngineDeadError as error:
            raise Dead(line(error)) from None
        except (VLLMClientError, ValueError) as error:
            raise _refused(error) from None
        except EngineGenerateError as error:
            if engine.errored:
                raise Dead(line(error)) from None
            raise Rejection("failed", line(error.__cause__ or error)) from None
        if found is None:
            raise MachineError("vLLM ended a request without an answer; report it")
        return found


def line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refused(error: Exception) -> Rejection:
    text = line(error)
    long = "longer than" in text or "maximum model length" in text or "context length" in text
    return Rejection("too_long" if long else "failed", text)


def _environment(config: GeneratorConfig) -> None:
    """vLLM reads these when its modules are imported and in the processes it starts."""
    os.environ.update(SILENCE)
    os.environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(int(config.start_s))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_cache_gib))
