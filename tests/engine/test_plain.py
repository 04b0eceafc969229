"""transformers as a backend, without vLLM beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import xgrammar

from geobatch.engine.generator import Generator
from geobatch.engine.opening import serve
from geobatch.engine.request import Reply, Request, Sampling
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


def test_who_waits_for_the_only_thread_does_not_run_out_of_time(plain: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices of eight at 0.1 s a reply, and a deadline of ten replies."""
    backend, found = plain.backend, []
    generate = backend._generate  # type: ignore[attr-defined]

    def slowly(request: Request, sampling: Sampling) -> Reply:
        time.sleep(0.1)
        return generate(request, sampling)

    monkeypatch.setattr(backend, "_generate", slowly)
    monkeypatch.setattr(plain, "deadline_s", 1.0)
    many = [Request(f"w{n}", ASKED[0].messages) for n in range(8)]
    threads = [Thread(target=lambda: found.extend(plain.ask(many, Sampling(max_tokens=1)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [reply.fault for reply in found] == [None] * 24
