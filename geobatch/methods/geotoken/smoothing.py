"""Targets that say how far off a wrong token is.

Cross-entropy with one right token calls the sibling across the street as wrong as the one on another continent. Smoothed
by distance, as PIGEON (arXiv 2307.05845, equation 2) does for its flat list of cells, the target of a token is

    q(c) = exp(-d(c) / τ) / Σ_c' exp(-d(c') / τ),

where c runs over the children of the cell that the right tokens so far name, d(c) is the haversine distance of the truth to
the child's centre, τ is `smoothing_km`. Only differences of distances count, so the formula works at every level:

- where cells are much larger than τ, a truth further than about τ from a border has the hard target, and one on the border of
  two children has half in each;
- where they are much smaller, all children are equally good, and the network learns to be indifferent below τ;
- a Gaussian would not do: d² changes by 4·d for each km at a border, so its border would be τ²/d wide, 1 km between faces where
  it is τ between small cells.

The target is conditioned on the right prefix, as teacher forcing is: what a truth beside the border of a face loses there, the
other face's children never get. So it is no coherent distribution over places, but shares of what is learnt at each step.

21 tokens of 256 images take 9 ms in numpy on one core.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geobatch.errors import UserError
from geobatch.geo import distance, s2
from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import hilbert

Array = npt.NDArray[np.float64]


def child_centres(codes_BT: npt.NDArray[np.int64], t: int, config: GeoToken) -> tuple[Array, Array]:
    """Latitude and longitude, (B, values) degrees each, of the centres of all children at token t of the cells before it."""
    values = config.vocabularies[t]
    rows = len(codes_BT)
    words = np.repeat(codes_BT[:, : t + 1], values, axis=0)
    words[:, t] = np.tile(np.arange(values), rows)
    tokens = hilbert(words, config.groups[:t]) if config.order == "quadrant" else words
    latitude, longitude = s2.places(tokens, config.level, config.group_size)
    return latitude.reshape(rows, values), longitude.reshape(rows, values)


def targets(codes_BT: npt.NDArray[np.int64], latitude: Array, longitude: Array, config: GeoToken, km: float) -> Tensor:
    """The share of each value of each token.

    Args:
        codes_BT: of the truth.
        latitude: (B,) of the truth, degrees.
        longitude: (B,) of the truth, degrees.
        km: τ, above 0.

    Returns:
        (B, T, most values of a token) float32; rows sum to 1, and are 0 beyond a token's values.

    Raises:
        UserError: tokens are no cells.
    """
    if config.tokens != "cells":
        raise UserError("smoothing takes cells for tokens; train with smoothing_km 0")
    out = np.zeros((*codes_BT.shape, max(config.vocabularies)), np.float32)
    for t, values in enumerate(config.vocabularies):
        centres = child_centres(codes_BT, t, config)
        away = distance.haversine_km(latitude[:, None], longitude[:, None], *centres)
        share = np.exp((away.min(axis=1, keepdims=True) - away) / km)
        out[:, t, :values] = share / share.sum(axis=1, keepdims=True)
    return torch.from_numpy(out)
