"""The base of random weights: as the published ones are read, the same each time, and as large as counted beforehand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geobatch.errors import UserError
from geobatch.methods.ngcg import needs
from geobatch.methods.ngcg.config import Tuning
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.small import Small, config_of, write_small

TEXTS = [
    "A coast to the west, forest and a river near Lagos, 120 km north.",
    "Desert near Cairo.",
    "Ice; no city for 300 km.",
] * 9
SIZE = Small(width=64, layers=1, vision_width=32, vision_layers=1, side=32, patch=8, words=400)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "base", TEXTS, SIZE)


def content(folder: Path) -> str:
    return hashlib.sha256(
        b"".join((folder / name).read_bytes() for name in ("tokenizer.json", "model.safetensors"))
    ).hexdigest()


def test_it_is_an_encoder_of_its_size(base: Path) -> None:
    encoder = Encoder.load(str(base), whole=True)
    assert (encoder.family.kinds, encoder.processor.side, encoder.dimension) == (("idefics3", "smolvlm"), 32, 64)
    vectors = encoder.encode_texts(TEXTS[:3])
    assert len({tuple(row) for row in vectors.round(4).tolist()}) == 3
    tiles = encoder.encode_pictures(list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)))
    assert tiles.shape == (2, 64) and np.abs(tiles[0] - tiles[1]).max() > 1e-4
    # The count is of as many words as there are at most.
    words = len(encoder.processor.tokenizer)
    model = needs.built(config_of(replace(SIZE, words=words)), Tuning(whole=True))
    trained = sum(each.numel() for each in encoder.parameters() if each.requires_grad)
    assert needs.counted(model)[0] == trained and words <= SIZE.words


def test_its_words_are_those_of_the_texts(base: Path) -> None:
    tokenizer = Encoder.load(str(base)).processor.tokenizer
    assert tokenizer.tokenize(" Forest near Lagos") == ["Ġforest", "Ġnear", "Ġlagos"]
    assert tokenizer.tokenize("120") == ["1", "2", "0"]
    assert tokenizer.decode(tokenizer("zebra, Ωμέγα").input_ids) == "zebra, ωμέγα"  # nothing is unknown


def test_it_is_a_function_of_texts_size_and_seed(base: Path, tmp_path: Path) -> None:
    assert content(write_small(tmp_path / "same", iter(TEXTS), SIZE)) == content(base)
    assert content(write_small(tmp_path / "seed", TEXTS, replace(SIZE, seed=1))) != content(base)
    before = content(base)
    write_small(base, ["another text"], SIZE)  # what is there stays
    assert content(base) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"width": 50}, "--small.width 50 is no multiple of 32"), ({"vision_width": 16}, "--small.vision-width 16"),
     ({"side": 40}, "--small.side 40 is no multiple of 16"), ({"layers": 0}, "at least 1 layer"), ({"words": 10}, "300 words")],
)  # fmt: skip
def test_what_is_no_size_is_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Small(**settings)
