"""transformers as a backend, without vLLM beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import xgrammar

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.request import Request, Sampling
from tests.engine.tiny import CONFIG

ASKED = [Request(f"q{n}", [{"role": "user", "content": [{"type": "text", "text": f"Where {n}"}]}]) for n in range(3)]


@pytest.fixture(scope="module")
def plain(gemma: Path) -> Iterator[Generator]:
    made = serve(str(gemma), replace(CONFIG, backend="transformers"))
    yield made
    made.close()


def test_the_vocabulary_is_read_once_and_each_reply_begins_its_grammar_anew(
    plain: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = xgrammar.TokenizerInfo.from_huggingface, []
    monkeypatch.setattr(xgrammar.TokenizerInfo, "from_huggingface", lambda *a, **b: reads.append(1) or read(*a, **b))
    for pattern in (r"lat: \d\d\.\d", r"no[rw]th", r"lat: \d\d\.\d"):
        for reply in plain.ask(ASKED, Sampling(pattern=pattern, draws=2, temperature=1.0, max_tokens=30)):
            assert reply.fault is None and len(reply.samples) == 2
            assert all(re.fullmatch(pattern, sample.text) for sample in reply.samples)
    schema = '{"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": false}'
    assert plain.ask(ASKED[:1], Sampling(schema=schema, max_tokens=30))[0].samples[0].text in ('{"a": "b"}', '{"a":"b"}')
    assert reads == [1]
