"""The generator that a model's folder asks for: a table, vLLM, or transformers where vLLM is not installed; or a service's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from geobatch.actors import cluster_gpus
from geobatch.engine import scripted
from geobatch.engine.generator import Generator
from geobatch.engine.remote import Endpoint, Remote
from geobatch.engine.request import Backend, GeneratorConfig
from geobatch.errors import UserError


def serve(model: str, config: GeneratorConfig | None = None, adapter: Path | None = None) -> Generator:
    """Starts the model and returns the desk in front of it.

    Args:
        model: folder or hub name of a vision-language model, or a folder with a `scripted.json`.
        config: see `GeneratorConfig`.
        adapter: folder of a PEFT adapter, or None.

    Raises:
        UserError: nothing here can serve it.
        MachineError: it does not start.
    """
    config = config or GeneratorConfig()
    # transformers answers one request at a time: the deadlines of all that wait in its line would run out there.
    in_flight = 1 if chosen(model, config) == "transformers" else config.in_flight
    return Generator(_backend(model, config, adapter), in_flight=in_flight, deadline_s=config.deadline_s)


def desk(model: str, endpoint: Endpoint, config: GeneratorConfig) -> Generator:
    """The desk in front of a service, if its URL is given, else of a model's folder; errors as `serve`.

    Raises:
        UserError: both are named, or neither.
    """
    if bool(model) == bool(endpoint.url):
        told = "both a model's folder and an endpoint are" if model else "neither a model's folder nor an endpoint is"
        raise UserError(f"{told} named; name one")
    if endpoint.url:
        return Generator(Remote(endpoint), in_flight=endpoint.in_flight, deadline_s=config.deadline_s)
    return serve(model, config)


def on_gpus(model: str, config: GeneratorConfig) -> bool:
    """Whether an engine for the model asks for GPUs: as the setting says, else if this machine or the cluster has any."""
    if config.gpu is not None or chosen(model, config) == "scripted":
        return bool(config.gpu)
    import torch

    return torch.cuda.is_available() or cluster_gpus() > 0


def chosen(model: str, config: GeneratorConfig) -> str:
    """Who will compute: "scripted", "vllm" or "transformers"."""
    if (Path(model) / scripted.FILE).is_file():
        return "scripted"
    if config.backend == "auto":
        return "vllm" if importlib.util.find_spec("vllm") is not None else "transformers"
    return config.backend


def _backend(model: str, config: GeneratorConfig, adapter: Path | None) -> Backend:
    kind = chosen(model, config)
    if kind == "scripted":
        return scripted.Scripted.load(Path(model))
    if kind == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise UserError("vLLM is not installed here; install vllm, or set generator.backend to transformers")
        from geobatch.engine.served import Served

        return Served(model, config, adapter)
    from geobatch.engine.plain import Plain

    return Plain(model, config, adapter)
