"""The actor that asks a multimodal LLM, rows in to rows out, against vLLM's own offline `LLM.chat` on the same prompts.

A tiny Gemma 3 with random weights on a CPU: what is measured is everything around the model (rendering, image processing,
scheduling, parsing, Arrow), which on a GPU weighs less. Ours gets slices of 16 rows from three threads, as its actor does;
the rival gets all prompts in one list with the same settings and hands back texts alone. Pictures are new in every round, so
that neither finds anything in a cache of pictures; both find the instructions in their prefix caches. Start-up is left out.

Beside it: ten draws of one prompt against ten requests, and the share that the whole job, from archive to table on Ray, keeps
of the actor's images a second.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from geobatch.engine.request import GeneratorConfig, Request, Sampling
from geobatch.methods.geolocsft.ask import Ask, Asking
from geobatch.methods.geolocsft.locate import AT_ONCE, Locate, Student, river
from geobatch.methods.geolocsft.prompts import messages, student
from geobatch.schema import PICTURE, empty_columns
from tests.bench.bench_pipeline import on_ray
from tests.engine import tiny

IMAGES, TOKENS, ROUNDS, SLICE = 96, 32, 3, 16
CONFIG = GeneratorConfig(backend="vllm", dtype="float32", context=2048, in_flight=64, cpu_cache_gib=1)


def run() -> list[dict[str, object]]:
    """Medians of alternating rounds."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        model = str(tiny.gemma3(Path(folder) / "model", sharpness=6))
        asking = Asking(tokens=TOKENS, attempts=1)
        ask = Ask(model, asking=asking, generator=CONFIG)
        rival = _llm(model)
        _ours(ask, _pictures(-1)), _theirs(rival, _pictures(-1))
        pairs = []
        for number in range(ROUNDS):
            pictures = _pictures(number)
            pairs.append((_theirs(rival, pictures), _ours(ask, pictures)))
        draws = [_draws(ask, number) for number in range(ROUNDS)]
        ask.close()
        rival.llm_engine.engine_core.shutdown()
        whole = _whole(Path(folder), model, asking)
    pairs.sort(key=lambda pair: pair[0] / pair[1])
    draws.sort(key=lambda pair: pair[0] / pair[1])
    (theirs, ours), (ten, one) = pairs[len(pairs) // 2], draws[len(draws) // 2]
    return [
        {
            "name": "the stage Ask, rows to rows",
            "rival": "vLLM's LLM.chat on the same prompts",
            "ratio": theirs / ours,
            "measured": f"{IMAGES / ours:.1f} images a second against {IMAGES / theirs:.1f}, {TOKENS} tokens each; median of "
            f"{ROUNDS} alternating rounds, ratios {', '.join(f'{a / b:.2f}' for a, b in pairs)}",
        },
        {
            "name": "the whole job on Ray, archive to table",
            "rival": "the stage Ask alone",
            "ratio": whole * ours / IMAGES,
            "measured": f"{whole:.1f} images a second against {IMAGES / ours:.1f}; decoding and Ray share the engine's cores",
        },
        {
            "name": "ten draws from one prefill",
            "rival": "ten requests of one draw",
            "ratio": one * 10 / ten,
            "measured": f"ten draws cost {ten / one:.1f} times one draw, prompts of about 700 tokens, 16 tokens drawn",
        },
    ]


def _pictures(number: int) -> np.ndarray:
    return np.random.default_rng(number + 10).integers(0, 256, (IMAGES, 96, 96, 3), dtype=np.uint8)


def _ours(ask: Ask, pictures: np.ndarray) -> float:
    columns = empty_columns(list(PICTURE), len(pictures))
    columns |= {
        "image_id": pa.array([f"i{row}" for row in range(len(pictures))]),
        "uri": pa.array(["u"] * len(pictures)),
        "picture": pa.array([picture.tobytes() for picture in pictures], pa.large_binary()),
        "picture_height": pa.array([96] * len(pictures), pa.int32()),
        "picture_width": pa.array([96] * len(pictures), pa.int32()),
    }
    table = pa.table(columns)
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        done = list(threads.map(ask, [table.slice(start, SLICE) for start in range(0, len(table), SLICE)]))
    spent = time.perf_counter() - began
    assert sum(map(len, done)) == len(pictures)
    return spent


def _whole(folder: Path, model: str, asking: Asking) -> float:
    """Images a second of the job, once its pools are warm."""
    (folder / "archive").mkdir()
    for number in range(3):
        for row, picture in enumerate(_pictures(500 + number)):
            Image.fromarray(picture).save(folder / f"archive/{number}-{row}.png")
    settings = Locate(asking=asking, generator=CONFIG)
    return on_ray(folder / "archive", folder / "places", river(Student(base=model), settings, 1), SLICE)


def _llm(model: str) -> Any:
    from vllm import LLM

    return LLM(model, dtype="float32", max_model_len=2048, max_num_seqs=64, enforce_eager=True,
               limit_mm_per_prompt={"image": 1}, mm_processor_cache_gb=0, enable_chunked_prefill=False)  # fmt: skip


def _theirs(llm: Any, pictures: np.ndarray) -> float:
    from vllm import SamplingParams

    prompt = messages(student("tag"))
    chats = []
    began = time.perf_counter()
    for picture in pictures:
        system, user = prompt
        seen = {"type": "image_pil", "image_pil": Image.fromarray(picture)}
        chats.append([system, {**user, "content": [seen, *user["content"][1:]]}])
    found = llm.chat(chats, SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=0), use_tqdm=False)
    spent = time.perf_counter() - began
    assert len(found) == len(pictures)
    return spent


def _draws(ask: Ask, number: int) -> tuple[float, float]:
    """Seconds of ten draws and of one, for eight prompts that were not seen before."""
    spent = []
    for draws in (10, 1):
        asked = [
            Request(f"{number}-{draws}-{row}", messages(student("tag", [f"{number} {draws} {row} " * 40])), picture)
            for row, picture in enumerate(_pictures(1000 + number)[:8])
        ]
        began = time.perf_counter()
        replies = ask.generator.ask(asked, Sampling(draws=draws, temperature=1.0, max_tokens=16))
        spent.append(time.perf_counter() - began)
        assert all(len(reply.samples) == draws for reply in replies), [asdict(reply) for reply in replies][:1]
    return spent[0], spent[1]
