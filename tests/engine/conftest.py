"""A tiny Gemma 3, and vLLM serving it once for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.request import GeneratorConfig
from tests.engine import tiny

CONFIG = GeneratorConfig(backend="vllm", dtype="float32", context=1024, in_flight=32, cpu_cache_gib=1, deadline_s=120)


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.gemma3(tmp_path_factory.mktemp("gemma") / "model", sharpness=6)


@pytest.fixture(scope="session")
def served(vllm_there: None, gemma: Path) -> Iterator[Generator]:
    made = serve(str(gemma), CONFIG)
    yield made
    made.close()
