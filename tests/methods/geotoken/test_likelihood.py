"""The density against the masses that the table gives, and that a fit raises it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geobatch.geo import point
from geobatch.methods.geotoken.calibration import FEATURES
from geobatch.methods.geotoken.likelihood import fit_mixture, log_density
from geobatch.methods.geotoken.pool import pool
from tests.methods.geotoken.pools import known, width_km


def test_a_density_is_the_mass_of_a_small_circle_over_its_area() -> None:
    table, latitude, longitude = known(200, seed=1)
    evidence, truth = pool(table, 5), point.unit_vectors(latitude, longitude)
    mixture = fit_mixture(evidence, truth)
    found = np.exp(log_density(mixture, evidence, truth))
    posterior = mixture.posterior(evidence)
    radius = 0.3 * float(posterior.scale.min())
    mass = posterior.within(truth[:, None], [radius])[:, 0, 0]
    near = mass > 1e-3
    assert near.mean() > 0.25
    assert found[near] == pytest.approx(mass[near] / (np.pi * radius**2), rel=0.25)
    assert np.median(found[near] / mass[near]) * np.pi * radius**2 == pytest.approx(1, abs=0.02)


def test_a_fit_finds_how_wide_the_errors_are_and_raises_the_likelihood_of_others() -> None:
    table, latitude, longitude = known(900, seed=2, lost=10_000)
    evidence, truth = pool(table, 5), point.unit_vectors(latitude, longitude)
    mixture = fit_mixture(evidence, truth)
    other, latitude, longitude = known(900, seed=3, lost=10_000)
    fresh, truth = pool(other, 5), point.unit_vectors(latitude, longitude)
    blind = replace(mixture, scale=(mixture.scale[0], *(0.0,) * len(FEATURES)))
    assert log_density(mixture, fresh, truth).mean() > log_density(blind, fresh, truth).mean() + 0.1
    # Mostly the place between decides, whose width is known from how unlike it is.
    unlike = 1 - fresh.similarities[:, 0]
    shares = np.array(mixture.shares[1])
    typical = mixture.posterior(fresh).scale * float(np.exp((shares * np.log([0.25, 0.5, 1, 2, 4, 16, 64, 256])).sum()))
    slope = np.polyfit(np.log(width_km(unlike)), np.log(typical), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)
