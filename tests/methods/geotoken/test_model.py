"""The network: its size, its loss, its cache, what it must and must not depend on, and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geobatch.errors import UserError
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import Context, context
from geobatch.methods.geotoken.layers import Rows
from geobatch.methods.geotoken.model import GeoTokenModel, Prefixes
from tests.methods.geotoken.tiny import TINY, VARIANTS, arrays, batch_of, model_of


def codes_for(config: GeoToken, images: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, config.vocabularies, (images, config.length)))


def logits_of(model: GeoTokenModel, batch: Context, codes: torch.Tensor) -> torch.Tensor:
    """All tokens' logits side by side."""
    with torch.inference_mode():
        return torch.cat(model.logits(model.encode(batch), codes), dim=1)


def test_the_papers_network_has_55_million_parameters() -> None:
    with torch.device("meta"):
        model = GeoTokenModel(GeoToken.paper())
    print(f"paper: {model.parameters_in_all:,} parameters, small: {GeoTokenModel(GeoToken.small()).parameters_in_all:,}")
    assert model.parameters_in_all == pytest.approx(55e6, rel=0.01)
    # 1 CLS + 3 views + 15 × (3 views + 21 tokens)
    assert 1 + len(model.query_slot) + len(model.rank) * len(model.slot) == 364


@pytest.mark.parametrize("config", VARIANTS)
def test_the_loss_is_the_weighted_mean_written_by_hand(config: GeoToken) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    logits = [x.double().numpy() for x in logits_of(model, batch, codes).split(config.vocabularies, dim=1)]
    total = 0.0
    for t, x in enumerate(logits):
        for row in range(4):
            probabilities = np.exp(x[row]) / np.exp(x[row]).sum()
            total -= config.weights[t] * np.log(probabilities[codes[row, t]]) / 4
    with torch.inference_mode():
        assert float(model(batch, codes)) == pytest.approx(total / sum(config.weights), rel=1e-5)


@pytest.mark.parametrize("config", VARIANTS)
def test_steps_with_kept_keys_and_values_equal_the_whole_forward(config: GeoToken) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    whole = logits_of(model, batch, codes).split(config.vocabularies, dim=1)
    with torch.inference_mode():
        memory = model.encode(batch)
        kept = model.keep(memory, 7)
        for t in range(config.length):
            step = model.step(memory, Rows.of(torch.arange(4), 4), codes[:, :t], kept)
            torch.testing.assert_close(step, whole[t], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS)
def test_a_token_is_written_without_reading_itself_or_later_ones(config: GeoToken) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    before = logits_of(model, batch, codes).split(config.vocabularies, dim=1)
    for t in range(config.length):
        changed = codes.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 4
        after = logits_of(model, batch, changed).split(config.vocabularies, dim=1)
        torch.testing.assert_close(after[t], before[t])
        if t + 1 < config.length:
            assert not torch.allclose(after[t + 1], before[t + 1])


@pytest.mark.parametrize("config", VARIANTS)
def test_missing_neighbours_have_no_influence(config: GeoToken) -> None:
    model, codes = model_of(config), codes_for(config)
    values = arrays(config)
    fewer = [values[0], *(value[:, :2] for value in values[1:])]
    values[2][:, 2] = np.nan
    values[1][:, 2] = 1e6
    padded = context(config, *values)
    # What a caller left in the rows of missing neighbours must not matter either.
    dirty = replace(padded, neighbour_codes_BMT=padded.neighbour_codes_BMT.clone())
    dirty.neighbour_codes_BMT[:, 2] = 1
    expected = logits_of(model, context(config, *fewer), codes)
    for batch in (padded, dirty):
        torch.testing.assert_close(logits_of(model, batch, codes), expected, atol=1e-4, rtol=1e-4)


def test_an_image_without_a_single_neighbour_has_finite_logits() -> None:
    values = arrays()
    values[2][0] = np.nan
    assert bool(torch.isfinite(logits_of(model_of(), context(TINY, *values), codes_for(TINY))).all())
    alone = batch_of(neighbours=0)
    assert bool(torch.isfinite(logits_of(model_of(), alone, codes_for(TINY))).all())


@pytest.mark.parametrize("config", VARIANTS)
def test_the_order_of_neighbours_acts_through_their_rank_only(config: GeoToken) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    turned = Context(batch.views_BVD, *(value.flip(1) for value in batch.tensors()[1:]))
    assert not torch.allclose(logits_of(model, turned, codes), logits_of(model, batch, codes))
    with torch.no_grad():
        model.rank.zero_()
    torch.testing.assert_close(logits_of(model, turned, codes), logits_of(model, batch, codes), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS)
def test_every_input_and_every_parameter_has_influence(config: GeoToken) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    before = logits_of(model, batch, codes)
    changed = [
        replace(batch, views_BVD=batch.views_BVD + 1),
        replace(batch, neighbour_views_BMVD=batch.neighbour_views_BMVD.roll(1, 0)),
        replace(batch, present_BM=batch.present_BM & torch.tensor([True, False, True])),
    ]
    if "tokens" in config.neighbour_places:
        changed.append(replace(batch, neighbour_codes_BMT=(batch.neighbour_codes_BMT + 1) % 4))
    if "fourier" in config.neighbour_places:
        changed.append(replace(batch, neighbour_points_BM3=-batch.neighbour_points_BM3))
    for other in changed:
        assert not torch.allclose(logits_of(model, other, codes), before, atol=1e-4)
    model(batch, codes).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize("kind", ["sum", "hash"])
def test_prefixes_are_equal_exactly_where_the_codes_before_are(kind: str) -> None:
    config = replace(TINY, prefix=kind, level=6, prefix_buckets=1 << 16)
    torch.manual_seed(0)
    prefixes = Prefixes(config)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, (2, *[2] * 6), (40, 7)))
    with torch.inference_mode():
        summary = prefixes(codes)
    assert summary.shape == (40, 8, config.width) and not summary[:, 0].any()
    for t in range(8):
        same = (codes[:, None, :t] == codes[None, :, :t]).all(-1)
        equal = (summary[:, None, t] - summary[None, :, t]).abs().amax(-1) < 1e-6
        assert torch.equal(same, equal)


@pytest.mark.parametrize("config", VARIANTS)
def test_a_saved_model_comes_back(config: GeoToken, tmp_path: Path) -> None:
    model, batch, codes = model_of(config), batch_of(config), codes_for(config)
    model.save(tmp_path / "deep" / "model", training={"steps": 7})
    loaded = GeoTokenModel.load(tmp_path / "deep" / "model")
    assert loaded.config == config and not loaded.training
    assert torch.equal(logits_of(loaded, batch, codes), logits_of(model, batch, codes))
    assert json.loads((tmp_path / "deep" / "model" / "config.json").read_text())["training"] == {"steps": 7}


def test_folders_that_hold_no_such_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no GeoToken model"):
        GeoTokenModel.load(tmp_path)
    model_of().save(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    for field, value, message in (("width", 32, "tensors differ"), ("colour", 1, "holds no"), ("level", 0, "no S2 level")):
        (tmp_path / "config.json").write_text(json.dumps({"model": {**written["model"], field: value}}))
        with pytest.raises(UserError, match=message):
            GeoTokenModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(written))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="holds no GeoToken model"):
        GeoTokenModel.load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="holds no GeoToken model"):
        GeoTokenModel.load(tmp_path)
