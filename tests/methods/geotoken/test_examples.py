"""Batches from arrays: rows, float16, and neighbours that are hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geobatch.geo.distance import haversine_km
from geobatch.methods.geotoken.config import Training
from geobatch.methods.geotoken.examples import Batches, _moved_up, blackout_radii, dropped
from geobatch.methods.geotoken.inputs import codes_of
from tests.methods.geotoken.tiny import TINY, examples_of


def test_a_part_of_the_images_is_the_same_images() -> None:
    whole = examples_of(images=30)
    part = whole.some(np.array([4, 20, 7])).some(np.array([2, 0]))
    assert len(part) == 2 and part.at(np.array([0, 1])).tolist() == [7, 4]
    assert part.places()[0].tolist() == whole.latitude[[7, 4]].tolist()
    for one, other in zip(Batches(TINY, part).take(np.arange(2)), Batches(TINY, whole).take(np.array([7, 4])), strict=True):
        assert all(
            torch.equal(a, b)
            for a, b in (zip(one.tensors(), other.tensors(), strict=True) if hasattr(one, "tensors") else [(one, other)])
        )


def test_mapped_half_precision_is_read_as_the_network_wants_it(tmp_path: Path) -> None:
    examples = examples_of(images=12)
    np.save(tmp_path / "v.npy", examples.vectors.astype(np.float16))
    mapped = replace(examples, vectors=np.load(tmp_path / "v.npy", mmap_mode="r"))
    batch, codes = Batches(TINY, mapped).take(np.array([3, 1]))
    assert batch.views_BVD.dtype == torch.float32 and batch.views_BVD.shape == (2, 2, 6)
    np.testing.assert_allclose(batch.views_BVD.reshape(2, -1).numpy(), examples.vectors[[3, 1]], rtol=1e-3)
    assert codes.tolist() == codes_of(examples.latitude[[3, 1]], examples.longitude[[3, 1]], TINY).tolist()


def test_views_of_unequal_length_stand_apart() -> None:
    config = replace(TINY, vector_size=6, view_sizes=(6, 4))
    examples = examples_of(config, images=8)
    assert examples.vectors.shape[1] == 10
    batch, _ = Batches(config, examples).take(np.arange(8))
    assert torch.equal(batch.views_BVD[:, 0], torch.from_numpy(examples.vectors[:, :6]))
    assert torch.equal(batch.views_BVD[:, 1, :4], torch.from_numpy(examples.vectors[:, 6:]))
    assert not batch.views_BVD[:, 1, 4:].any()


def test_a_blackout_hides_all_within_its_radius_and_nothing_beyond() -> None:
    examples = examples_of(images=40)
    batches, rows = Batches(TINY, examples), np.arange(40)
    radius = np.where(rows % 2, 5000.0, 0.0)
    hidden = batches.blackout(rows, radius)
    for row in rows:
        for place, near in enumerate(examples.neighbours[row]):
            km = haversine_km(
                examples.latitude[row],
                examples.longitude[row],
                examples.gallery.latitude[near],
                examples.gallery.longitude[near],
            )
            assert hidden[row, place] == (near >= 0 and km <= radius[row])
    assert hidden[1::2].any() and not hidden[::2].any()


def test_farther_neighbours_take_the_places_of_the_hidden() -> None:
    wide = replace(examples_of(images=20), neighbours=np.arange(120).reshape(20, 6) % 40)
    hidden = np.zeros((20, 6), bool)
    hidden[0, [0, 2]] = hidden[1, :5] = True
    batch, _ = Batches(TINY, wide).take(np.arange(20), hidden)
    points = batch.neighbour_points_BM3

    def of(rows: list[int]) -> torch.Tensor:
        gallery = wide.gallery
        latitude, longitude = (np.radians(values[rows]) for values in (gallery.latitude, gallery.longitude))
        return torch.from_numpy(
            np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1)
        ).float()

    torch.testing.assert_close(points[0], of([1, 3, 4]))
    torch.testing.assert_close(points[1][:1], of([11]))
    assert batch.present_BM[1].tolist() == [True, False, False] and bool(batch.present_BM[2:].all())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 30), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 2))
def test_moving_up_keeps_the_order_and_the_lead(rows: list[list[int]], lead: int) -> None:
    moved = _moved_up(np.array(rows), lead)
    for before, after in zip(rows, moved.tolist(), strict=True):
        assert after[:lead] == before[:lead]
        kept = [x for x in before[lead:] if x >= 0]
        assert after[lead:] == kept + [-1] * (5 - lead - len(kept))


def test_what_is_hidden_is_a_function_of_seed_and_step() -> None:
    training = Training(batch=4000, blackout=0.25, neighbour_dropout=0.4)
    radii = blackout_radii(training, 3)
    assert float((radii > 0).mean()) == pytest.approx(0.25, abs=0.03)
    struck = radii[radii > 0]
    assert struck.min() >= 1 and struck.max() <= 2500
    # Each order of magnitude as likely as the others.
    assert float((struck < 50).mean()) == pytest.approx(0.5, abs=0.06)
    assert np.array_equal(radii, blackout_radii(training, 3)) and not np.array_equal(radii, blackout_radii(training, 4))
    hidden = dropped(training, 3, 5)
    assert float(hidden.mean()) == pytest.approx(0.4, abs=0.03)
    assert np.array_equal(hidden, dropped(training, 3, 5))
    assert not np.array_equal(hidden, dropped(replace(training, seed=1), 3, 5))
