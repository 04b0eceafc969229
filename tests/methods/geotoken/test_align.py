"""The settings of an alignment, and the location encoder it begins with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geobatch.engine.gps import Gps, LocationEncoder
from geobatch.engine.heads import HeadConfig
from geobatch.errors import UserError
from geobatch.methods.geotoken.align import Align, location_encoder, widened
from geobatch.train.augment import Augment

SMALL = Gps(size=6, width=8, features=4, layers=2)


def test_the_papers_recipe() -> None:
    paper = Align.paper()
    assert paper.views == ("image", "location", "text") and paper.placed == "location" and paper.still
    assert paper.heads == {"image": None, "location": paper.head, "text": paper.head}
    assert np.log(paper.gps_contrast.scale) == pytest.approx(3.99, abs=1e-3) == np.log(paper.text_contrast.scale)
    steps = 100_000 // 256
    assert paper.length(100_000) == 10 * steps
    assert paper.rate(0, 100_000) == pytest.approx(3e-5) == paper.rate(steps - 1, 100_000)
    assert paper.rate(steps, 100_000) == pytest.approx(3e-5 * 0.87)
    assert paper.rate(10 * steps - 1, 100_000) == pytest.approx(3e-5 * 0.87**9)
    assert Align.paper(text=False).views == ("image", "location")


def test_a_cosine_ends_at_nothing() -> None:
    small = Align()
    assert small.length(30_000) == 350 and small.placed == "image" and small.heads == small.head
    rates = [small.rate(step, 30_000) for step in range(351)]
    assert rates[0] == pytest.approx(3e-3 / 20) and max(rates) < 3e-3 and np.argmax(rates) == 19
    assert rates[350] == pytest.approx(0, abs=1e-9) and (np.diff(rates[20:]) < 0).all()


@pytest.mark.parametrize(
    "changed", [{"frozen": False}, {"lora_rank": 4}, {"augment": Augment()}, {"head": HeadConfig(size=768, hidden=768)}]
)
def test_what_changes_with_every_step_is_not_stored(changed: dict[str, object]) -> None:
    assert not replace(Align.paper(), **changed).still


@pytest.mark.parametrize(
    "wrong", [{"views": ()}, {"views": ("location", "text")}, {"views": ("image", "sound")}, {"batch": 1}, {"micro_batch": -1}]
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError):
        replace(Align.paper(), **wrong)
    with pytest.raises(UserError, match="set frozen"):
        Align(lora_rank=4)


def test_longer_vectors_keep_every_cosine() -> None:
    encoder = LocationEncoder(SMALL)
    longer = widened(encoder, 10)
    rng = np.random.default_rng(0)
    places = rng.uniform(-85, 85, 50), rng.uniform(-180, 180, 50)
    before, after = encoder.encode(*places), longer.encode(*places)
    assert after.shape == (50, 10) and longer.config == replace(SMALL, size=10)
    assert np.allclose(before @ before.T, after @ after.T, atol=1e-5)
    assert widened(encoder, 6) is encoder
    with pytest.raises(UserError, match="at least that size"):
        widened(encoder, 5)
    # All of the last layers' weights can be trained: their rows are no longer bound to six dimensions.
    loss = longer(torch.tensor([10.0, 50.0]), torch.tensor([10.0, -50.0]))[0] @ torch.arange(10.0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in longer.parameters())


def test_without_weights_it_begins_at_random() -> None:
    assert torch.equal(location_encoder(SMALL).scales[0].frequencies, LocationEncoder(SMALL).scales[0].frequencies)
