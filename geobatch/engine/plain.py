"""`transformers` as a backend: for machines without vLLM, and the reference that vLLM is tested against.

One request at a time, all its draws as one batch; the others wait at the desk (`opening`), where no deadline runs yet.
Log-probabilities are gathered as the tokens are drawn, from the logits as they leave the model: what is kept is one row of the
vocabulary a draw, not one a token.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from geobatch.engine.chat import Chat, context_of, image
from geobatch.engine.request import GeneratorConfig, Reply, Request, Sample, Sampling
from geobatch.errors import Rejection, UserError


class Plain:
    """The backend.

    Args:
        model: folder or hub name of the model.
        config: see `GeneratorConfig`; `tensor_parallel` must be 1.
        adapter: folder of a PEFT adapter, or None.
    """

    def __init__(self, model: str, config: GeneratorConfig, adapter: Path | None = None) -> None:
        if config.tensor_parallel != 1:
            raise UserError("the transformers backend holds a model on one GPU; use vLLM for tensor-parallel above 1")
        self.model, self.config, self.adapter = model, config, adapter
        self.chat = Chat(model)
        self.context = min(config.context, context_of(model))
        self.network: Any = None
        self._one = ThreadPoolExecutor(1, thread_name_prefix="transformers")

    async def open(self) -> None:
        """See `Backend`."""
        if self.network is None:
            self.network = await asyncio.get_running_loop().run_in_executor(self._one, self._load)

    def _load(self) -> Any:
        import peft
        import transformers

        kind = "auto" if self.config.dtype == "auto" else getattr(torch, self.config.dtype)
        network: Any = transformers.AutoModelForImageTextToText.from_pretrained(self.model, dtype=kind)
        if self.adapter is not None:
            network = peft.PeftModel.from_pretrained(network, str(self.adapter)).merge_and_unload()
        return network.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    async def close(self) -> None:
        """See `Backend`. The weights stay: nothing here dies by itself."""

    async def answer(self, request: Request, sampling: Sampling) -> Reply:
        """See `Backend`."""
        return await asyncio.get_running_loop().run_in_executor(self._one, self._generate, request, sampling)

    @torch.inference_mode()
    def _generate(self, request: Request, sampling: Sampling) -> Reply:
        import transformers

        pictures = {} if request.picture is None else {"images": [[image(request.picture)]]}
        inputs = self.chat.processor(
            text=[self.chat.render(request.messages)], return_tensors="pt", add_special_tokens=False, **pictures
        ).to(self.network.device)
        length = int(inputs["input_ids"].shape[1])
        if length >= self.context:
            raise Rejection("too_long", f"a prompt of {length} tokens, and the model takes {self.context} with the reply")
        greedy = sampling.temperature <= 0
        recorder = _Recorder(length)
        with torch.random.fork_rng(enabled=not greedy):
            if not greedy:
                torch.manual_seed(sampling.seed_of(request.key))
            found = self.network.generate(
                **inputs,
                max_new_tokens=min(sampling.max_tokens, self.context - length),
                max_time=self.config.deadline_s,
                repetition_penalty=1.0,  # a model's own generation_config may have another; vLLM has none here
                logits_processor=transformers.LogitsProcessorList([recorder, *self._guides(sampling)]),
                **({"do_sample": False} if greedy else {"do_sample": True, "temperature": sampling.temperature,
                   "top_p": sampling.top_p, "top_k": 0, "num_return_sequences": sampling.draws}),
            )  # fmt: skip
        recorder(found, None)
        return Reply(tuple(self._sample(row, values) for row, values in zip(found[:, length:].tolist(),
                     torch.stack(recorder.values, 1).tolist(), strict=True)), None, length)  # fmt: skip

    def _sample(self, tokens: list[int], logprobs: list[float]) -> Sample:
        ends = self.network.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = next((at + 1 for at, token in enumerate(tokens) if token in ends), None)
        tokens, kept = tokens[:length], logprobs[:length]
        text, offsets = self.chat.decode(tokens)
        return Sample(text, float(sum(kept)), tuple(kept), offsets, "length" if length is None else "stop")

    def _guides(self, sampling: Sampling) -> list[Any]:
        if sampling.pattern is None and sampling.schema is None:
            return []
        from xgrammar.contrib.hf import LogitsProcessor  # holds a reply's state, so each request has its own

        if sampling.schema is not None:
            return [LogitsProcessor(self._compiler.compile_json_schema(sampling.schema, any_whitespace=False))]
        return [LogitsProcessor(self._compiler.compile_regex(sampling.pattern or ""))]

    @cached_property
    def _compiler(self) -> Any:
        """Keeps the grammars it has compiled: ours takes 25 s for a vocabulary of 262,144 on two cores."""
        import xgrammar

        size = self.network.config.get_text_config().vocab_size
        ends = self.network.generation_config.eos_token_id
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.chat.tokenizer, vocab_size=size, stop_token_ids=ends if isinstance(ends, list) else [ends]
        )
        return xgrammar.GrammarCompiler(info)


class _Recorder:
    """Log-probabilities of the tokens drawn, at temperature 1: first in the line of processors, so it sees the raw logits."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.before: torch.Tensor | None = None
        self.values: list[torch.Tensor] = []

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor | None:
        if self.before is not None and tokens.shape[1] > self.length + len(self.values):
            drawn = tokens[:, self.length + len(self.values)]
            self.values.append(self.before.gather(1, drawn[:, None])[:, 0])
        if scores is not None:
            self.before = torch.log_softmax(scores.float(), dim=-1)
        return scores
