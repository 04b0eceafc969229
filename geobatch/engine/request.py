"""What is asked of a multimodal LLM and what comes back, whoever computes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from geobatch.errors import Rejection


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """How a multimodal LLM is served."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """Who computes; "auto": vLLM where it is installed, else transformers."""
    tensor_parallel: int = 1
    """GPUs of one node that hold one copy of the model together."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Arithmetic; "auto": what the model was saved in."""
    context: int = 8192
    """Tokens of prompt, picture and reply together, at most; the model's own limit if that is less."""
    in_flight: int = 256
    """Replies under way in one engine at most; a request of ten draws takes ten places. transformers has one under way."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory that vLLM takes."""
    cpu_cache_gib: int = 2
    """GiB of key-value cache where there is no GPU."""
    deadline_s: float = 600.0
    """Seconds one request may take, once it is under way. All in flight share the engine: one that gives fewer than
    `in_flight / deadline_s` replies a second needs fewer in flight, or more time."""
    start_s: float = 1800.0
    """Seconds the engine may take to start."""
    gpu: bool | None = None
    """Whether each engine asks for GPUs; default: if this machine or cluster has any."""


@dataclass(frozen=True)
class Request:
    """One question about at most one picture.

    Fields:
        key: stable name, which with the seed decides the draws.
        messages: chat messages in the form of `transformers`' templates; a part {"type": "image"} stands for the picture.
        picture: (H, W, 3) uint8 or None.
        prompt: what a backend of vectors reads instead of messages, word for word: a text, or its tokens' ids. It holds the
            model's image token where the picture goes.
    """

    key: str
    messages: Sequence[Mapping[str, Any]] = ()
    picture: npt.NDArray[np.uint8] | None = None
    prompt: str | tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How replies are drawn.

    Fields:
        draws: replies a request, from one prefill.
        temperature: 0 is greedy, whatever `draws`.
        top_p: nucleus; 1 is plain multinomial.
        max_tokens: of one reply.
        seed: with the request's key and the attempt it decides every draw.
        attempt: how often this was asked before; see `hotter`.
        pattern: regular expression the reply must match, or None.
        schema: JSON schema (as text) the reply must satisfy, or None.
    """

    draws: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 2048
    seed: int = 0
    attempt: int = 0
    pattern: str | None = None
    schema: str | None = None

    def seed_of(self, key: str) -> int:
        """31 bits that are a function of seed, attempt and key alone."""
        said = f"{self.seed}.{self.attempt}:{key}" if self.attempt else f"{self.seed}:{key}"
        return int.from_bytes(hashlib.sha256(said.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Sample:
    """One reply.

    Fields:
        text: without special tokens.
        logprob: sum of the tokens' log-probabilities (natural, the model's own at temperature 1), the end of turn included.
            Of a guided reply transformers gives the model's own, vLLM those among the tokens that the guide allowed.
        logprobs: of each token.
        offsets: where each token begins in `text`.
        finish: "stop", or "length" where `max_tokens` or the context cut it off.
    """

    text: str
    logprob: float
    logprobs: tuple[float, ...]
    offsets: tuple[int, ...]
    finish: str

    def span_logprob(self, start: int, end: int) -> float:
        """Sum over the tokens that hold the characters [start, end)."""
        ends = (*self.offsets[1:], len(self.text))
        inside = (a < end and max(b, a + 1) > start for a, b in zip(self.offsets, ends, strict=True))
        return float(sum(value for value, within in zip(self.logprobs, inside, strict=True) if within))


@dataclass(frozen=True)
class Reply:
    """What came of a request: samples, a vector (D,) of unit length, or a fault."""

    samples: tuple[Sample, ...] = ()
    fault: Rejection | None = None
    prompt_tokens: int = 0
    vector: npt.NDArray[np.float32] | None = None


def engines_fault(fates: Sequence[Rejection | None]) -> Rejection | None:
    """The first fault where each of several requests failed or came too late: then it is not their fault. Else None."""
    failed = [fate for fate in fates if fate is not None and fate.reason in ("failed", "timeout")]
    return failed[0] if len(failed) == len(fates) > 1 else None


class Dead(Exception):
    """The engine died; whoever was under way is a suspect."""


class Backend(Protocol):
    """What computes. All calls come from one event loop."""

    async def open(self) -> None:
        """Starts; may be called again after `close`."""

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """Answers one request; many run at once. Raises `Rejection` (of this request) or `Dead`; ends early if cancelled."""

    async def close(self) -> None:
        """Stops whatever runs, dead or alive; never raises."""


def hotter(sampling: Sampling, attempt: int, step: float) -> Sampling:
    """The same question asked again: `attempt` steps warmer, with other draws. Attempt 0 is the sampling itself."""
    if not attempt:
        return sampling
    return replace(sampling, temperature=sampling.temperature + attempt * step, attempt=attempt)
