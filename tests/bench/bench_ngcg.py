"""NGCG on the embedded world: a small model learns which tile a text describes, and what each of its choices is worth.

`described` lays down 20,000 sights of 5,000 places (three of shaded relief, one of the Blue Marble) with two texts each, and
2,500 places that no training sees. Each model is trained by the job, from the same random weights, for the same steps, and
judged on the held-out places:

    t2i      their 5,000 texts search their 2,500 tiles
    i2t      their tiles search one text of each
    photo    their Blue Marble crops search the tiles, all through the image side; no training compared the two renderings

    python -m tests.bench.bench_ngcg train main         one training; or mean, learned, repeated, "both ways", nested
    python -m tests.bench.bench_ngcg table              what there is
    python -m tests.bench.bench_ngcg compress           the trained model in 8 bits, cut, coded

GEOBATCH_NGCG_STEPS sets the steps (1,500: about five minutes of stepping on two idle cores). Everything is kept in
`.bench/ngcg`; a training that is there is not made again, one that died goes on. `run` trains what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geobatch.benchmark.retrieval import Retrieval, Side, retrieval
from geobatch.methods.ngcg.compress import said as printed
from geobatch.methods.ngcg.compress import table as compression
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.serve import Model
from geobatch.methods.ngcg.small import Small, write_small
from geobatch.pipeline.folder import CARD
from geobatch.progress import say
from tests.bench import described
from tests.bench.described import TEXTS, TILES, Held, Size

STEPS = int(os.environ.get("GEOBATCH_NGCG_STEPS", "1500"))

#: Two layers each, four image tokens: 1.4 million numbers, of which most are words.
SMALL = Small(width=96, layers=2, vision_width=96, vision_layers=2, side=48, patch=12, joined=2, words=8192)
#: At 2e-3 one training in three ended with one vector for everything (loss ln 128, for good) before its thirtieth step: at the
#: start all vectors are nearly one, and the gradient 200 long.
TUNING = (
    "--tuning.whole", "--tuning.no-bf16", "--tuning.batch", "128", "--tuning.learning-rate", "1e-3", "--tuning.warm-up", "0.1",
    "--tuning.temperature", "0.05", "--encoding.text-tokens", "72", "--validation.share", "0.02",
)  # fmt: skip
SIZE = Size()
#: A folder for each world and base, so that nothing of another is taken for this one's; whole, for workers run elsewhere.
KEPT = Path(".bench/ngcg", hashlib.sha256(repr((SIZE, SMALL)).encode()).hexdigest()[:8]).resolve()
#: What each model is trained with beyond that.
MODELS: dict[str, tuple[str, ...]] = {
    "main": (),
    "mean": ("--encoding.pooling", "mean"),
    "learned": ("--tuning.learn-temperature",),
    "repeated": ("--tuning.no-distinct",),
    "both ways": ("--tuning.symmetric",),
    "nested": ("--tuning.nested", "24", "48"),
}
SAID = {
    "main": "last token, τ = 0.05, no place twice",
    "mean": "mean over tokens",
    "learned": "temperature learnt from 0.05",
    "repeated": "places may come twice in a batch",
    "both ways": "tiles search texts in training, too",
    "nested": "vectors that may be cut to 24 or 48",
}
WAYS = ("t2i", "i2t", "photo")


@dataclass(frozen=True)
class Matrix:
    """Vectors in memory as `retrieval` asks for them."""

    rows: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.rows[rows]


def world() -> Path:
    """The data set, laid down once."""
    return described.lay(KEPT / "world", SIZE)


def base() -> Path:
    """The random weights that all begin with."""
    return write_small(KEPT / "base", described.every_text(world()), SMALL)


def folder(name: str) -> Path:
    """Of a trained model, by all that it is trained with."""
    said = hashlib.sha256(repr((STEPS, TUNING, MODELS[name])).encode()).hexdigest()[:6]
    return KEPT / f"{name.replace(' ', '-')}-{STEPS}-{said}"


def train(name: str) -> Path:
    """A model, trained by the job if it is not there yet."""
    out = folder(name)
    if (out / "seconds.json").is_file():
        return out
    data, begin = world(), base()
    command = [sys.executable, "jobs/ngcg_train.py", "--archive", str(data / TILES), "--annotations", str(data / TEXTS),
               "--output", str(out), "--base", str(begin), "--pairs", str(KEPT / "pairs"), "--tuning.steps", str(STEPS),
               *TUNING, *MODELS[name]]  # fmt: skip
    started = time.monotonic()
    subprocess.run(command, check=True)
    (out / "seconds.json").write_text(json.dumps(time.monotonic() - started))
    return out


def judged(encoder: Encoder, places: Held) -> dict[str, Retrieval]:
    """Figures of the three ways to ask; kilometres where the field has metres."""
    one, two = (encoder.encode_texts([texts[copy] for texts in places.texts], 128) for copy in (0, 1))
    tiles, photographs = (encoder.encode_pictures(list(each), 128) for each in (places.tiles, places.photographs))
    own = np.arange(len(tiles))

    def side(vectors: NDArray[np.float32]) -> Side:
        times = len(vectors) // len(own)
        return Side(Matrix(vectors), np.tile(own, times), np.tile(places.latitude, times), np.tile(places.longitude, times))

    asked = {"t2i": (np.concatenate([one, two]), tiles), "i2t": (tiles, one), "photo": (photographs, tiles)}
    return {
        way: retrieval(side(queries), side(found), direction="i2t" if way == "i2t" else "t2i", metres=(200_000, 750_000))
        for way, (queries, found) in asked.items()
    }


def figures(name: str) -> dict[str, dict[str, float]]:
    """R@1, R@10 and chance of a model, or of the random weights as "untrained"; computed once."""
    out = KEPT / "base" if name == "untrained" else folder(name)
    path = out / "figures.json"
    if not path.is_file():
        pooling = "mean" if name == "mean" else "last"
        encoder = Encoder.load(
            str(out if name == "untrained" else out / "merged"), encoding=Encoding(pooling=pooling, text_tokens=72)
        )
        found = judged(encoder, described.held(world()))
        path.write_text(json.dumps({way: _short(each) for way, each in found.items()}, indent=1))
    read: dict[str, dict[str, float]] = json.loads(path.read_text())
    return read


def _short(found: Retrieval) -> dict[str, float]:
    return {
        **{f"R@{k}": found.recall[k].value for k in found.recall},
        **{f"chance@{k}": value for k, value in found.recall_chance.items()},
        **{f"low@{k}": found.recall[k].low for k in found.recall},
        "median_km": found.median_m / 1000,
    }


def line(name: str, said: str) -> str:
    """A row of the table."""
    found = figures(name)
    cells = "".join(f"{100 * found[way][f'R@{k}']:12.1f}" for way in WAYS for k in (1, 10))
    return f"{said:42}{cells}{found['t2i']['median_km']:12,.0f}"


def table() -> str:
    """All models that are there, in percent."""
    heads = "".join(f"{f'{way} R@{k}':>12}" for way in WAYS for k in (1, 10))
    chance = figures("untrained")["t2i"]
    chances = "".join(f"{100 * chance[f'chance@{k}']:12.2f}" for _ in WAYS for k in (1, 10))
    lines = [
        f"{f'{STEPS} steps, %':42}{heads}{'median km':>12}",
        f"{'chance':42}{chances}",
        line("untrained", "before training"),
    ]
    lines += [line(name, SAID[name]) for name in MODELS if (folder(name) / "seconds.json").is_file()]
    return "\n".join(lines)


def compress() -> str:
    """The nested model (the main one, if there is no such) as `compress` makes it cheaper."""
    name = "nested" if (folder("nested") / "seconds.json").is_file() else "main"
    places = described.held(world())
    model = Model(str(base()), None, str(folder(name) / "merged"), Encoding(text_tokens=72))
    return printed(compression(model, [texts[0] for texts in places.texts], list(places.tiles), cuts=(24, 48)))


def run() -> list[dict[str, object]]:
    """See the file's docstring."""
    torch.set_num_threads(1)
    for name in MODELS:
        train(name)
    print(table(), flush=True)
    print(compress(), flush=True)
    main, before = figures("main"), figures("untrained")
    seconds = json.loads((folder("main") / "seconds.json").read_text())
    first = main["t2i"]
    rows: list[dict[str, object]] = [
        {
            "name": "texts find their tiles among 2,500, R@10",
            "rival": "chance",
            "ratio": first["R@10"] / first["chance@10"],
            "measured": f"{100 * first['R@10']:.1f} % after {STEPS} steps in {seconds / 60:.1f} min with the job's start, "
            f"{100 * before['t2i']['R@10']:.1f} % before",
        }
    ]
    for name in ("mean", "learned", "repeated", "both ways"):
        other = figures(name)["t2i"]["R@10"]
        rows.append(
            {
                "name": f"{SAID['main']}, R@10",
                "rival": SAID[name],
                "ratio": first["R@10"] / other,
                "measured": f"{100 * first['R@10']:.1f} % against {100 * other:.1f} %, one training each",
            }
        )
    return rows


def main(wanted: list[str]) -> int:
    """One step of the benchmark."""
    torch.set_num_threads(1)
    known = {"table": table, "compress": compress}
    if wanted[:1] == ["train"] and wanted[1:] and set(wanted[1:]) <= MODELS.keys():
        for name in wanted[1:]:
            card = json.loads((train(name) / CARD).read_text())
            say(f"{name}: {json.dumps(card['training'])}")
    elif len(wanted) == 1 and wanted[0] in known:
        print(known[wanted[0]]())
    else:
        sys.stderr.write(f"error: give train and any of {', '.join(MODELS)}; or table; or compress\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
