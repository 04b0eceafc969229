"""The stage, and `transformers` under it: vectors of the encoder, bad rows alone, in whatever batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from geobatch.errors import MachineError, Rejection, UserError
from geobatch.methods.ngcg.config import Encoding, published
from geobatch.methods.ngcg.embed import Embed
from geobatch.methods.ngcg.embedders import Direct
from geobatch.methods.ngcg.encoder import Encoder
from geobatch.methods.ngcg.serve import Model, Serving, arithmetic, open_embedder, unserved
from geobatch.schema import IMAGE, PICTURE, empty_columns
from geobatch.train import lora
from geobatch.train.merge import merge
from tests.engine import tiny_towers

PLAIN = Serving(backend="transformers", dtype="float32")
TEXTS = ["a coast", "dense forest and a river, hills in the north", "desert", "snow and ice at the lake " * 9, "plains"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(base=str(tiny_towers.smolvlm(tmp_path_factory.mktemp("smol") / "model", sharpness=6)),
                 encoding=Encoding(text_tokens=40))  # fmt: skip


@pytest.fixture(scope="module")
def encoder(model: Model) -> Encoder:
    return Encoder.load(model.base, None, model.encoding)


def pictures(count: int) -> list[Any]:
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (int(noise.integers(30, 90)), 64, 3), dtype=np.uint8) for _ in range(count)]


def rows(names: list[str], fields: Any, **columns: Any) -> pa.Table:
    made = empty_columns(list(fields), len(names))
    return pa.table(made | {"image_id": pa.array(names), "uri": pa.array(names)} | columns)


def vectors(table: pa.Table) -> list[Any]:
    return table["vector"].to_pylist()


def stacked(found: list[Any]) -> Any:
    return np.stack([each for each in found if not isinstance(each, Rejection)])


def test_texts_become_the_encoders_vectors_and_stay(model: Model, encoder: Encoder) -> None:
    stage = Embed(model, PLAIN, "texts")
    said = [*TEXTS, "", "gone"]
    table = rows([f"t{row}" for row in range(7)], IMAGE.remove(IMAGE.get_field_index("bytes")), text=pa.array(said))
    dead = [*table["reason"].to_pylist()[:6], "missing"]
    table = table.set_column(table.column_names.index("reason"), "reason", pa.array(dead))
    done = stage(table)
    assert done["text"].to_pylist() == said
    assert done["reason"].to_pylist() == [None] * 5 + ["empty", "missing"]
    assert done["stage"].to_pylist()[5] == "embed"
    assert vectors(done)[5:] == [None, None]
    found = np.array(vectors(done)[:5], np.float32)
    assert np.abs(found - encoder.encode_texts(TEXTS)).max() < 1e-5
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.ptp(found @ found.T) > 0.1, "all texts have one vector: nothing was compared"


def test_pictures_of_many_sizes_become_the_encoders_vectors_and_go(model: Model, encoder: Encoder) -> None:
    seen = pictures(5)
    table = rows(
        [f"p{row}" for row in range(5)],
        PICTURE,
        picture=pa.array([each.tobytes() for each in seen], pa.large_binary()),
        picture_height=pa.array([each.shape[0] for each in seen], pa.int32()),
        picture_width=pa.array([each.shape[1] for each in seen], pa.int32()),
    )
    done = Embed(model, replace(PLAIN, batch=2), "pictures")(table)
    assert not {"picture", "picture_width", "picture_height"} & set(done.column_names)
    assert np.abs(np.array(vectors(done)) - encoder.encode_pictures(seen)).max() < 1e-5


@pytest.mark.parametrize("tokens", [1, 12, 4096])
def test_how_many_tokens_go_through_together_changes_nothing(encoder: Encoder, tokens: int) -> None:
    keys = [f"t{row}" for row in range(len(TEXTS))]
    found = Direct(encoder, 1, tokens).texts(keys, TEXTS)
    assert (
        np.abs(np.stack([each for each in found if not isinstance(each, Rejection)]) - encoder.encode_texts(TEXTS)).max() < 1e-5
    )


def test_a_text_that_is_none_is_one_rejection(encoder: Encoder) -> None:
    said = ["a coast", "\ud800 is half a character", "a lake", "", "a bay"]
    found = Direct(encoder, 4, 512).texts([str(row) for row in range(5)], said)
    assert [each.reason if isinstance(each, Rejection) else None for each in found] == [None, "failed", None, "empty", None]
    assert np.abs(stacked(found) - encoder.encode_texts(["a coast", "a lake", "a bay"])).max() < 1e-5


def test_a_picture_that_is_none_is_one_rejection_among_its_batch(encoder: Encoder) -> None:
    seen = pictures(6)
    broken: list[Any] = [*seen[:3], np.zeros((8, 8, 2), np.uint8), *seen[3:]]
    found = Direct(encoder, 7, 512).pictures([str(row) for row in range(7)], broken)
    assert [isinstance(each, Rejection) for each in found] == [False] * 3 + [True] + [False] * 3
    assert isinstance(found[3], Rejection) and found[3].reason == "broken"
    assert np.abs(stacked(found) - encoder.encode_pictures(seen)).max() < 1e-5


def test_a_network_that_fails_at_everything_is_the_machines_fault(model: Model) -> None:
    broken = Encoder.load(model.base, None, model.encoding)
    broken.network.model.text_model.norm.weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(MachineError, match="machine fails: RuntimeError"):
        Direct(broken, 4, 512).texts(["a", "b", "c"], TEXTS[:3])
    with torch.no_grad():
        broken.network.model.text_model.norm.weight = torch.nn.Parameter(torch.full((64,), torch.nan))
    with pytest.raises(MachineError, match="finite"):
        Direct(broken, 4, 512).pictures(["a", "b"], pictures(2))


@pytest.mark.parametrize("error", [RuntimeError("an illegal memory access"), torch.OutOfMemoryError("none left")])
def test_a_network_that_fails_from_some_batch_on_makes_no_rejections(model: Model, error: Exception) -> None:
    lost = Encoder.load(model.base, None, model.encoding)
    calls = 0

    def fails(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2 or (calls > 2 and not isinstance(error, torch.OutOfMemoryError)):  # memory comes back, a context does not
            raise error

    lost.network.model.register_forward_pre_hook(fails)
    with pytest.raises(MachineError, match="machine fails"):
        Direct(lost, 1, 1).texts(["a", "b", "c"], TEXTS[:3])


def test_nothing_is_nothing(encoder: Encoder) -> None:
    assert Direct(encoder, 4, 512).texts([], []) == Direct(encoder, 4, 512).pictures([], []) == []


def test_half_precision_and_eight_bits_stay_near(model: Model) -> None:
    keys = [str(row) for row in range(len(TEXTS))]
    exact = stacked(open_embedder(model, PLAIN).texts(keys, TEXTS))
    for serving in (replace(PLAIN, dtype="bfloat16"), replace(PLAIN, quantise="int8")):
        embedder = open_embedder(model, serving)
        near = stacked(embedder.texts(keys, TEXTS))
        seen = stacked(embedder.pictures(["a", "b"], pictures(2)))
        distance = 1 - (exact * near).sum(axis=1)
        print(f"{serving.dtype} {serving.quantise}: cosine distance to float32 at most {distance.max():.2g}")
        assert 1e-9 < distance.max() < 1e-2
        assert np.linalg.norm(seen, axis=1) == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize("quantise", ["none", "int8"])
def test_half_precision_leaves_rotary_frequencies_as_they_are(model: Model, quantise: Literal["none", "int8"]) -> None:
    served = open_embedder(model, replace(PLAIN, dtype="bfloat16", quantise=quantise))
    assert isinstance(served, Direct)
    kept = {name: each for name, each in Encoder.load(model.base).named_buffers() if each.is_floating_point()}
    found = dict(served.encoder.named_buffers())
    assert any(name.endswith("inv_freq") for name in kept)
    assert all(torch.equal(found[name], each) and found[name].dtype == torch.float32 for name, each in kept.items())
    assert next(served.encoder.network.model.text_model.norm.parameters()).dtype == torch.bfloat16


def test_merged_into_a_base_of_bfloat16_it_is_as_near_as_is_said(tmp_path: Path) -> None:
    """1e-3 from base and adapter in float32, of vectors that the adapter moved by 0.26; in bfloat16 the same bits."""
    base = tiny_towers.internvl(tmp_path / "base")
    transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    fresh, random = Encoder.load(str(base), lora=published()), torch.Generator().manual_seed(1)
    for name, weight in fresh.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=random) * 0.01
    lora.save(lora.tensors(fresh), lora.config_of(fresh), tmp_path / "adapter")
    assert merge(base, tmp_path / "adapter", tmp_path / "merged") > 0
    beside, melted = Model(base=str(base), adapter=str(tmp_path / "adapter")), Model(base=str(tmp_path / "merged"))
    keys = [str(row) for row in range(len(TEXTS))]
    half = [stacked(open_embedder(each, replace(PLAIN, dtype="bfloat16")).texts(keys, TEXTS)) for each in (beside, melted)]
    assert np.array_equal(*half)
    unmerged, merged, plain = (
        Encoder.load(*given).encode_texts(TEXTS)
        for given in ((str(base), tmp_path / "adapter"), (str(tmp_path / "merged"),), (str(base),))
    )
    assert np.abs(unmerged - plain).max() > 0.1
    assert 1e-5 < np.abs(unmerged - merged).max() < 2e-3 and np.abs(unmerged - half[0]).max() < 1e-2


def test_what_cannot_be_served_is_said(model: Model, tmp_path: Path) -> None:
    assert arithmetic(Serving(dtype="float32")) == "float32"
    adapted = Model(base=model.base, adapter=str(tmp_path))
    assert "merged" in str(unserved(adapted, Serving()))
    with pytest.raises(UserError, match=r"merged.*transformers"):
        open_embedder(adapted, Serving(backend="vllm"))
    other = Model(base=model.base, encoding=Encoding(side=128))
    assert "64 pixels" in str(unserved(other, Serving()))
    for wrong in ({"batch": 0}, {"tokens": -1}, {"gpus": -1}, {"gpu_memory": 0.0}, {"backend": "vllm", "quantise": "int8"}):
        with pytest.raises(UserError):
            Serving(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="does not load"):
        open_embedder(Model(base=str(tmp_path / "none")), PLAIN)
