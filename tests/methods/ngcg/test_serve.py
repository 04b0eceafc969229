"""vLLM's pooling engine, really running, against `transformers` on the same weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from geobatch.engine.request import Request, Sampling
from geobatch.errors import Rejection, UserError
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.embedders import Desk, Direct, bare_prompt
from geobatch.methods.ngcg.inputs import Inputs
from geobatch.methods.ngcg.serve import Embedder, Model, Serving, open_embedder
from tests.engine import tiny, tiny_towers

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM and its libraries
WORDS = ["coast", "river", "desert", "forest", "hills", "mountains", "north", "km", "<image>", "Çeşme", "100", "\n"]
MAKE = {"idefics3": tiny_towers.smolvlm, "internvl": tiny_towers.internvl, "qwen2_5_vl": tiny.qwen25vl}


def both(folder: Path, encoding: Encoding) -> tuple[Embedder, Embedder]:
    model = Model(base=str(folder), encoding=encoding)
    return (open_embedder(model, Serving(backend="vllm", dtype="float32", in_flight=32, deadline_s=120)),
            open_embedder(model, Serving(backend="transformers", dtype="float32")))  # fmt: skip


@pytest.fixture(scope="module")
def pair(vllm_there: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedder, Embedder]]:
    folder = tiny_towers.smolvlm(tmp_path_factory.mktemp("smol") / "model", sharpness=6)
    made = both(folder, Encoding(text_tokens=40, dimensions=48))
    yield made
    made[0].close()


def texts(count: int) -> list[str]:
    noise = np.random.default_rng(1)
    return [" ".join(noise.choice(WORDS, int(noise.integers(1, 60)))) for _ in range(count)]


def pictures(count: int) -> list[Any]:
    noise = np.random.default_rng(2)
    drawn = [noise.integers(0, 256, (*noise.integers(20, 100, 2), 3), dtype=np.uint8) for _ in range(count - 2)]
    return [*drawn, np.zeros((64, 64, 3), np.uint8), np.full((30, 70, 3), 255, np.uint8)]


def compare(served: Embedder, direct: Embedder) -> float:
    """The largest cosine distance between the two over 40 texts and 12 tiles."""
    said, seen = texts(40), pictures(12)
    keys = [str(row) for row in range(40)]
    worst = 0.0
    for ours, theirs in ((served.texts(keys, said), direct.texts(keys, said)),
                         (served.pictures(keys[:12], seen), direct.pictures(keys[:12], seen))):  # fmt: skip
        mine, other = np.stack(ours), np.stack(theirs)  # type: ignore[arg-type]
        assert mine.dtype == np.float32 and mine.shape == (len(ours), served.dimension)
        assert np.linalg.norm(mine, axis=1) == pytest.approx(np.ones(len(mine)), abs=1e-5)
        assert (other @ other.T).min() < 0.999, "all have one vector: nothing was compared"
        worst = max(worst, float((1 - (mine.astype(float) * other).sum(axis=1)).max()))
    print(f"cosine distance of vLLM's vectors to transformers' at most {worst:.2g}")
    return worst


def test_vectors_are_those_of_transformers(pair: tuple[Embedder, Embedder]) -> None:
    assert isinstance(pair[0], Desk) and isinstance(pair[1], Direct)
    assert pair[0].dimension == pair[1].dimension == 48
    assert compare(*pair) < 1e-5


def test_what_cannot_be_embedded_is_one_rejection(pair: tuple[Embedder, Embedder]) -> None:
    said = ["a coast", "", "a lake", "\ud800", "a bay"]
    keys = [str(row) for row in range(5)]
    for each in pair:
        found = each.texts(keys, said)
        assert [row.reason if isinstance(row, Rejection) else None for row in found] == [None, "empty", None, "failed", None]
    seen = [*pictures(4), np.zeros((8, 8, 2), np.uint8)]
    found = pair[0].pictures(keys, seen)
    assert [isinstance(row, Rejection) for row in found] == [False] * 4 + [True]


def test_a_prompt_longer_than_the_context_is_a_fault_of_its_own(pair: tuple[Embedder, Embedder]) -> None:
    assert isinstance(pair[0], Desk)
    asked = [Request("a", prompt="a coast"), Request("b", prompt=(5,) * 500), Request("c", prompt=(5, 6))]
    found = pair[0].generator.ask(asked, Sampling())
    assert [reply.fault.reason if reply.fault else None for reply in found] == [None, "too_long", None]
    assert [reply.prompt_tokens for reply in found][2] == 2 and found[0].vector is not None


def test_tokens_that_differ_from_trainings_are_not_embedded(pair: tuple[Embedder, Embedder]) -> None:
    """A processor that split the tile would make another prompt than the network was trained on."""
    assert isinstance(pair[0], Desk)
    kept = pair[0].bare
    pair[0].bare = (*kept, 7)
    try:
        with pytest.raises(Exception, match="read 20 tokens where training read 19"):
            pair[0].pictures(["a"], pictures(3)[:1])
    finally:
        pair[0].bare = kept


@pytest.mark.torture
def test_a_core_that_is_killed_comes_back(pair: tuple[Embedder, Embedder]) -> None:
    assert isinstance(pair[0], Desk)
    deaths = pair[0].generator.health.deaths
    core = next(each for each in psutil.Process().children(recursive=True) if "EngineCore" in each.name())
    os.kill(core.pid, signal.SIGKILL)
    assert compare(*pair) < 1e-5
    assert pair[0].generator.health.deaths == deaths + 1


@pytest.mark.torture
@pytest.mark.parametrize(
    ("family", "encoding"),
    [
        ("internvl", Encoding(text_tokens=40)),
        ("qwen2_5_vl", Encoding(text_tokens=40, end=True)),
        ("idefics3", Encoding(text_tokens=40, pooling="mean", end=True)),
    ],
)
def test_every_family_and_pooling_agrees(vllm_there: None, family: str, encoding: Encoding, tmp_path: Path) -> None:
    served, direct = both(MAKE[family](tmp_path / "model", sharpness=6), encoding)
    try:
        assert compare(served, direct) < 1e-5
    finally:
        served.close()


@pytest.mark.parametrize("family", list(MAKE))
def test_a_bare_prompt_has_one_image_token_and_what_vllm_does_not_write(family: str, tmp_path: Path) -> None:
    inputs = Inputs(str(MAKE[family](tmp_path / "model")), Encoding(end=True))
    bare, image = bare_prompt(inputs), inputs.config.image_token_id
    assert bare.count(image) == 1 and bare[-1] == inputs.tokenizer.eos_token_id
    left = [token for token in inputs.prompt if token != image]
    assert [token for token in bare if token != image] == (left if family == "qwen2_5_vl" else left[-1:])


def test_a_model_that_vllm_does_not_know_is_refused(vllm_there: None, tmp_path: Path) -> None:
    model = Model(base=str(tiny_towers.smolvlm(tmp_path / "model", width=48)), encoding=Encoding(side=128))
    with pytest.raises(UserError, match="64 pixels"):
        open_embedder(model, Serving(backend="vllm"))
