"""The table of cheaper ways: its recalls against plain sorting, its speeds and sizes against what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geobatch.errors import UserError
from geobatch.methods.ngcg import compress
from geobatch.methods.ngcg.config import Encoding
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.quantise import held_bytes, quantise
from geobatch.methods.ngcg.serve import Model
from tests.engine import tiny_towers

WORDS = [
    "coast",
    "river",
    "desert",
    "forest",
    "hills",
    "mountains",
    "north",
    "south",
    "lake",
    "island",
    "city",
    "snow",
    "plains",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(base=str(tiny_towers.smolvlm(tmp_path_factory.mktemp("smol") / "model", sharpness=6)),
                 encoding=Encoding(text_tokens=16, side=16))  # fmt: skip


def world(texts: int, tiles: int) -> tuple[list[str], list[Any]]:
    noise = np.random.default_rng(3)
    said = [" ".join(noise.choice(WORDS, 5)) for _ in range(texts)]
    flat = noise.integers(0, 256, (tiles, 2, 2, 3), dtype=np.uint8)
    return said, list(flat.repeat(8, axis=1).repeat(8, axis=2))


def ranked(queries: Any, tiles: Any, owners: Any, k: int) -> float:
    order = np.argsort(-(queries.astype(np.float64) @ tiles.astype(np.float64).T), axis=1)[:, :k]
    return float((order == np.asarray(owners)[:, None]).any(axis=1).mean())


def test_the_table_tells_what_plain_sorting_finds(model: Model) -> None:
    texts, tiles = world(60, 640)
    encoder = Encoder.load(model.base, None, model.encoding)
    queries, gallery = encoder.encode_texts(texts), encoder.encode_pictures(tiles)
    owners = (queries @ gallery.T).argmax(axis=1)  # a network that knows nothing is right about what it says itself
    owners[:30] = (np.arange(30) * 7) % 640
    rows = {row.name: row for row in compress.table(model, texts, tiles, cuts=(32, 8), owners=owners.tolist())}
    assert list(rows) == ["float32", "bfloat16", "8-bit weights", "32 numbers", "8 numbers", "4-bit codes alone",
                          "4-bit codes, ranked again"]  # fmt: skip
    exact = rows["float32"]
    assert exact.recall_1 == pytest.approx(ranked(queries, gallery, owners, 1)) and exact.recall_1 >= 0.5
    assert exact.recall_10 == pytest.approx(ranked(queries, gallery, owners, 10))
    short = queries[:, :8], gallery[:, :8]
    short = tuple(each / np.linalg.norm(each, axis=1, keepdims=True) for each in short)
    assert rows["8 numbers"].recall_10 == pytest.approx(ranked(*short, owners, 10))
    assert rows["4-bit codes, ranked again"].recall_1 >= rows["4-bit codes alone"].recall_1
    sizes = [row.bytes for row in rows.values()]
    assert sizes == [256, 256, 256, 128, 32, 8, 264]
    assert all(min(row.texts, row.tiles, row.searches) > 0 for row in rows.values())
    weights = sum(each.numel() for name, each in encoder.named_parameters() if "lm_head" not in name)
    assert (exact.weights, rows["bfloat16"].weights) == (4 * weights, 2 * weights)
    assert weights < rows["8-bit weights"].weights < 4 * weights
    text = compress.said(list(rows.values()))
    print(text)
    assert len(text.splitlines()) == 8 and f"{100 * exact.recall_10:.1f}" in text.splitlines()[1]


def test_vectors_with_structure_survive_their_codes() -> None:
    noise = np.random.default_rng(0)
    centres = noise.normal(size=(40, 64))
    tiles = (centres[noise.integers(0, 40, 1000)] + 0.3 * noise.normal(size=(1000, 64))).astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    queries = (tiles[:200] + 0.02 * noise.normal(size=(200, 64))).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    own = np.arange(200)
    hits = []
    for found, seconds, size in (compress._flat(queries, tiles), compress._coded(queries, tiles, 1),
                                 compress._coded(queries, tiles, 2)):  # fmt: skip
        assert found.shape == (200, 10) and seconds > 0 and size > 0
        hits.append(float((found[:, 0] == own).mean()))
    assert hits[0] == ranked(queries, tiles, own, 1)
    assert hits[0] >= hits[2] > hits[1] > 0.2, hits


def test_what_makes_no_table_is_refused(model: Model) -> None:
    texts, tiles = world(12, 12)
    for wrong in ({"owners": [0] * 11}, {"owners": [12] * 12}, {"owners": [-1] * 12}):
        with pytest.raises(UserError, match="make no table"):
            compress.table(model, texts, tiles, **wrong)
    with pytest.raises(UserError, match="make no table"):
        compress.table(model, texts[:9], tiles[:9])
    with pytest.raises(UserError, match="cannot be cut to 64"):
        compress.table(model, texts, tiles, cuts=(64,))
    with pytest.raises(UserError, match="number 3 of the texts has no vector"):
        compress.table(model, [*texts[:3], "", *texts[4:]], tiles)
    assert len(compress.table(model, texts, tiles)) == 3, "twelve tiles train no codes"


def test_eight_bits_hold_the_layers_of_tower_and_language_model(model: Model) -> None:
    exact, held = Encoder.load(model.base), Encoder.load(model.base)
    count = quantise(held)
    layers = [name for name, each in exact.named_modules() if isinstance(each, nn.Linear) and "lm_head" not in name]
    assert count == len(layers) and any("vision" in name for name in layers) and any("text_model" in name for name in layers)
    linear = sum(4 * each.weight.numel() for name, each in exact.named_modules() if name in layers)  # type: ignore[union-attr]
    scales = sum(each.out_features for name, each in exact.named_modules() if name in layers)  # type: ignore[misc]
    assert held_bytes(exact) - held_bytes(held) == linear - linear // 4 - 4 * scales
    texts = [" ".join(WORDS[:size]) for size in range(1, 13)]
    distance = 1 - (exact.encode_texts(texts) * held.encode_texts(texts)).sum(axis=1)
    assert 1e-8 < distance.max() < 1e-3


def test_what_has_no_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no linear layers"):
        quantise(nn.Sequential(nn.Linear(7, 9), nn.LayerNorm(9)))
    odd = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3))
    before = odd[1].weight.clone()
    assert quantise(odd) == 1
    assert torch.equal(odd[1].weight, before)
