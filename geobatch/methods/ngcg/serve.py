"""One trained encoder, two ways to run it: `transformers` in this process, or vLLM's engine behind the desk.

Both read the same token ids and the same resized pictures, since both take them from the encoder's own inputs, and give the
same vectors: on tiny models of all three families they lie within 1e-7 of cosine distance in float32.

"auto" takes the faster. Milliseconds of processor time on one core of an AMD EPYC, a SmolVLM of 512 × 6 layers, texts of 4 to
60 words and tiles of 64 pixels:

                                            text     tile
    a loop over transformers, one by one    36       25
    transformers here, float32              26.5      8.0
    transformers here, 8-bit weights        17.8      6.3
    transformers here, bfloat16             15.4      5.3
    vLLM, float32                           25       12.8

So on a CPU it is `transformers`: vLLM gains nothing on texts, loses on tiles (its processor takes them one by one) and needs
half a minute to start. On a GPU it is vLLM, which computes prompts of all lengths in one step without padding, in fused
kernels, and prepares the next meanwhile; that was not measured here.

One text or picture never takes another with it. `transformers`: a batch that fails is halved until the one that fails is found.
vLLM: what kills the engine is found by the desk. Where everything fails the machine is at fault, and it is raised.

Not covered: several GPUs for one model (the largest of the family fits on one); 8-bit weights in vLLM (`compress` says what
they gain here).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from geobatch.engine.request import GeneratorConfig
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.progress import say

Vector = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

#: Tokens of texts at a time. A core multiplies matrices of 256 rows as fast as of 1,024, and small batches of like lengths pad
#: less: texts of 4 to 60 words took 38.6 ms each at 4,096 tokens, 26.5 at 512. A GPU wants to be filled (not measured).
_CPU_TOKENS, _GPU_TOKENS = 512, 16_384


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the encoder is served."""

    backend: Literal["auto", "transformers", "vllm"] = "auto"
    """Who computes; "auto": vLLM on a GPU where it can serve the model, else transformers."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic; "auto": bfloat16 where the hardware has it."""
    batch: int = 16
    """Pictures that transformers takes at a time."""
    tokens: int = 0
    """Tokens of texts that transformers takes at a time, padding counted; 0: 512 on a CPU, 16,384 on a GPU."""
    quantise: Literal["none", "int8"] = "none"
    """Whether weights are held in 8 bits; transformers only."""
    gpus: float = 0.0
    """GPUs of each actor; fractions share one, 0 computes on CPUs."""
    gpu_memory: float = 0.9
    """Share of its part of a GPU's memory that vLLM takes."""
    in_flight: int = 256
    """Texts or pictures under way in one vLLM engine at most."""
    deadline_s: float = 600.0
    """Seconds vLLM may take for one text or picture, once it is under way."""
    start_s: float = 1800.0
    """Seconds vLLM may take to start."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tokens < 0 or self.in_flight < 1:
            raise UserError("batch and in-flight of --serving are at least 1 each, tokens are not negative")
        if self.gpus < 0 or not 0 < self.gpu_memory <= 1:
            raise UserError("--serving.gpus is not negative, --serving.gpu-memory lies in (0, 1]")
        if self.backend == "vllm" and self.quantise != "none":
            raise UserError("vLLM does not serve 8-bit weights here; give --serving.backend transformers or no quantise")


@dataclass(frozen=True)
class Model:
    """What a model's card names.

    Fields:
        base: folder or hub name of the multimodal LLM.
        adapter: folder of a PEFT adapter on it, or None.
        merged: folder of the whole weights, adapters melted in, or None.
        encoding: what decides a vector beside the weights.
    """

    base: str
    adapter: str | None = None
    merged: str | None = None
    encoding: Encoding = field(default_factory=Encoding)

    @property
    def weights(self) -> str:
        """Folder or hub name of the whole weights, as far as there are any."""
        return self.merged or self.base


class Embedder(Protocol):
    """Texts and pictures to unit vectors (dimension,), each in its own right: what cannot be embedded is a `Rejection`.

    Raises, from either method: `MachineError` where everything fails, `UserError` where settings cannot work.
    """

    dimension: int

    def texts(self, keys: Sequence[str], texts: Sequence[str]) -> list[Vector | Rejection]:
        """Vectors of texts, in order; keys are their stable names."""

    def pictures(self, keys: Sequence[str], pictures: Sequence[Picture]) -> list[Vector | Rejection]:
        """Vectors of upright RGB pictures (H, W, 3), in order."""

    def close(self) -> None:
        """Stops whatever runs."""


def open_embedder(model: Model, serving: Serving) -> Embedder:
    """Starts the encoder.

    Raises:
        UserError: vLLM was asked for and cannot serve it, or the model does not load.
        MachineError: vLLM does not start.
    """
    if serving.backend == "transformers" or (serving.backend == "auto" and not serving.gpus):
        return _direct(model, serving)
    why = unserved(model, serving)
    if why is None:
        try:
            return _desk(model, serving)
        except UserError as error:  # what only vLLM itself could know
            why = str(error)
    if serving.backend == "vllm":
        raise UserError(f"vLLM cannot serve {model.weights}: {why}; give --serving.backend transformers")
    say(f"transformers serves {model.weights}, since vLLM cannot: {why}")
    return _direct(model, serving)


def unserved(model: Model, serving: Serving) -> str | None:
    """Why vLLM cannot serve a model, or None where nothing is known against it."""
    import torch

    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    if serving.quantise != "none":
        return "8-bit weights are transformers' part"
    if model.adapter is not None and model.merged is None:
        return "its adapter is not merged into the base"
    if not serving.gpus and torch.cuda.is_available():
        return "it would take this machine's GPU, and --serving.gpus is 0"
    return _odd(model)


def _odd(model: Model) -> str | None:
    """What of the weights vLLM could not run."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model.weights)
    own = getattr(config.vision_config, "image_size", None)
    if own is not None and model.encoding.side not in (0, *(own if isinstance(own, (list, tuple)) else [own])):
        return f"its vision tower reads {own} pixels there, and tiles have {model.encoding.side}"
    if config.model_type == "smolvlm" and importlib.util.find_spec("num2words") is None:
        return "the processor of SmolVLM2 needs the package num2words"
    return None


def arithmetic(serving: Serving) -> Literal["float32", "bfloat16"]:
    """The dtype that weights are held in."""
    if serving.dtype != "auto":
        return serving.dtype
    if serving.quantise == "int8" and not serving.gpus:
        return "float32"  # what 8-bit products are scaled back to fastest on a CPU: 58 ms against bfloat16's 78
    import torch

    from geobatch.engine.vision import bf16_pays

    return "bfloat16" if bf16_pays(torch.device("cuda" if serving.gpus else "cpu")) else "float32"


def _direct(model: Model, serving: Serving) -> Embedder:
    import torch

    from geobatch.methods.ngcg.embedders import Direct
    from geobatch.methods.ngcg.encoder import Encoder
    from geobatch.methods.ngcg.quantise import quantise

    adapter = Path(model.adapter) if model.adapter and not model.merged else None
    encoder = Encoder.load(model.weights, adapter, model.encoding)
    if adapter is not None:  # in float32, before anything is rounded
        encoder.model = encoder.model.merge_and_unload()
    for each in encoder.parameters():  # not `encoder.to`: rotary frequencies are buffers, and rounded they turn 0.4 rad off
        each.data = each.data.to(getattr(torch, arithmetic(serving)))
    if serving.quantise == "int8":
        quantise(encoder, "cuda" if serving.gpus else "cpu")
    tokens = serving.tokens or (_GPU_TOKENS if serving.gpus else _CPU_TOKENS)
    return Direct(encoder.to("cuda" if serving.gpus else "cpu"), serving.batch, tokens)


def _desk(model: Model, serving: Serving) -> Embedder:
    from geobatch.methods.ngcg.embedders import Desk

    config = GeneratorConfig(
        backend="vllm",
        dtype=arithmetic(serving),
        in_flight=serving.in_flight,
        gpu_memory=serving.gpu_memory * min(serving.gpus or 1.0, 1.0),
        cpu_cache_gib=1,
        deadline_s=serving.deadline_s,
        start_s=serving.start_s,
    )
    return Desk(model.weights, model.encoding, config)
