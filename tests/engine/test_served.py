"""vLLM's engine, really running, against transformers on the same weights."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.request import Request, Sampling
from tests.engine import tiny
from tests.engine.tiny import CONFIG

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM and its libraries
TAG = r"<answer>\nlat: -?[0-8]?\d\.\d{5}\nlon: -?1?\d?\d\.\d{5}\n</answer>"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"latitude": {"type": "integer"}, "region": {"enum": ["north", "south"]}},
        "required": ["latitude", "region"],
        "additionalProperties": False,
    }
)


def question(number: int, words: int = 3) -> Request:
    noise = np.random.default_rng(number)
    text = " ".join(noise.choice(["Where", "was", "this", "photograph", "taken", "road", "terrain"], words))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You are shown one photograph. Reason from terrain."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},
    ]
    return Request(f"q{number}", messages, noise.integers(0, 256, (int(noise.integers(30, 90)), 64, 3), dtype=np.uint8))


class Causal:
    """Gemma 3's processor without the mark of which tokens are a picture's: they then attend backwards only.

    The published model lets a picture's tokens see each other in both directions. vLLM does so on GPUs; its attention on a
    CPU is causal (0.29), so this is what it must be compared with here.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        made = self.processor(*arguments, **named)
        made.pop("token_type_ids", None)
        return made


@pytest.fixture(scope="session")
def reference(gemma: Path) -> Any:
    made = serve(str(gemma), replace(CONFIG, backend="transformers"))
    made.backend.chat.processor = Causal(made.backend.chat.processor)
    yield made
    made.close()


@pytest.fixture(scope="session")
def qwens(vllm_there: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = str(tiny.qwen25vl(tmp_path_factory.mktemp("qwen") / "model", sharpness=6))
    made = [serve(folder, CONFIG), serve(folder, replace(CONFIG, backend="transformers"))]
    yield made
    for each in made:
        each.close()


def compare(served: Generator, reference: Generator) -> None:
    asked = [question(number, words=2 + number % 9) for number in range(20)]
    sampling = Sampling(max_tokens=24)
    ours, theirs = served.ask(asked, sampling), reference.ask(asked, sampling)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.fault is None and other.fault is None
        assert mine.prompt_tokens == other.prompt_tokens
        assert mine.samples[0].text == other.samples[0].text
        assert mine.samples[0].finish == other.samples[0].finish
        assert mine.samples[0].offsets == other.samples[0].offsets
        assert mine.samples[0].logprobs == pytest.approx(other.samples[0].logprobs, abs=1e-4)
    assert len({round(reply.samples[0].logprob, 3) for reply in ours}) > 10, (
        "the pictures make no difference: nothing was compared"
    )


def test_greedy_tokens_are_those_of_transformers_for_twenty_pictures(served: Generator, reference: Generator) -> None:
    compare(served, reference)


@pytest.mark.torture  # a core of its own, half a minute; Gemma's is the same path
def test_qwens_greedy_tokens_are_those_of_transformers_for_twenty_pictures(qwens: list[Generator]) -> None:
    compare(*qwens)


def test_draws_are_a_function_of_key_and_seed(served: Generator) -> None:
    sampling = Sampling(draws=5, temperature=1.0, max_tokens=12)
    first, again = served.ask([question(1), question(2)], sampling), served.ask([question(2), question(1)], sampling)
    texts = [[sample.text for sample in reply.samples] for reply in first]
    assert texts == [[sample.text for sample in reply.samples] for reply in reversed(again)]
    assert len(set(texts[0])) == 5
    other = served.ask([question(1)], replace(sampling, seed=1))[0]
    assert [sample.text for sample in other.samples] != texts[0]


@pytest.mark.parametrize("backend", ["served", "reference"])
def test_guided_replies_match_and_keep_the_models_own_log_probabilities(backend: str, request: pytest.FixtureRequest) -> None:
    generator = request.getfixturevalue(backend)
    by_pattern = generator.ask([question(3)], Sampling(draws=4, temperature=1.0, pattern=TAG, max_tokens=200))[0]
    for sample in by_pattern.samples:
        assert re.fullmatch(TAG, sample.text)
        assert sample.finish == "stop"
        assert sample.logprob < -20, "log-probabilities of the guided distribution, not the model's"
        assert sample.span_logprob(0, len(sample.text)) == pytest.approx(sample.logprob, rel=0.3)
    by_schema = generator.ask([question(4)], Sampling(schema=SCHEMA, max_tokens=300))[0].samples[0]
    if by_schema.finish == "stop":  # a random model may count digits until it is cut off
        assert set(json.loads(by_schema.text)) == {"latitude", "region"}
    else:
        assert by_schema.text.lstrip().startswith("{")


def test_guided_greedy_is_the_same_on_both(served: Generator, reference: Generator) -> None:
    sampling = Sampling(pattern=TAG, max_tokens=200)
    asked = [question(number) for number in range(5)]
    ours, theirs = ([reply.samples[0].text for reply in each.ask(asked, sampling)] for each in (served, reference))
    assert ours == theirs


def test_ten_draws_cost_well_under_ten_requests(served: Generator, record_property: Any) -> None:
    def seconds(draws: int, numbers: range) -> float:
        long = [question(number, words=400) for number in numbers]
        began = time.perf_counter()
        served.ask(long, Sampling(draws=draws, temperature=1.0, max_tokens=4))
        return time.perf_counter() - began

    seconds(1, range(100, 104))
    one, ten = seconds(1, range(104, 112)), seconds(10, range(112, 120))
    record_property("ratio", ten / one)
    print(f"ten draws cost {ten / one:.1f} x one ({ten:.2f} s, {one:.2f} s)")
    assert ten < 8 * one


def test_an_over_long_prompt_is_one_fault(served: Generator, reference: Generator) -> None:
    for generator in (served, reference):
        asked = [question(1), question(2, words=3000), question(3)]
        assert [reply.fault and reply.fault.reason for reply in generator.ask(asked, Sampling(max_tokens=2))] == [
            None,
            "too_long",
            None,
        ]


def test_a_core_that_is_killed_comes_back_and_every_request_is_answered(served: Generator) -> None:
    sampling = Sampling(max_tokens=8)
    expected = [reply.samples[0].text for reply in served.ask([question(n) for n in range(12)], sampling)]
    deaths = served.health.deaths
    cores = [each for each in psutil.Process().children(recursive=True) if "EngineCore" in each.name()]
    assert cores, [each.name() for each in psutil.Process().children(recursive=True)]
    found: list[str] = []

    def ask() -> None:
        long = Sampling(max_tokens=600, pattern=r"[a-z]{500}")
        served.ask([question(50 + n) for n in range(24)], long)
        found.extend(reply.samples[0].text for reply in served.ask([question(n) for n in range(12)], sampling))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    os.kill(cores[0].pid, signal.SIGKILL)
    thread.join(200)
    assert found == expected
    assert served.health.deaths == deaths + 1
