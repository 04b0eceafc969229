"""What a network makes of images that were kept out of its training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from geobatch.geo import distance
from geobatch.methods.geotoken.draws import greedy
from geobatch.methods.geotoken.examples import Batches, Examples
from geobatch.methods.geotoken.inputs import places_of
from geobatch.methods.geotoken.model import GeoTokenModel
from geobatch.schema import RADII_KM


@torch.inference_mode()
def evaluate(model: GeoTokenModel, examples: Examples, batch: int = 256) -> dict[str, float]:
    """Figures on images kept out of training.

    Returns:
        `loss` (nats, weighted as in training, right tokens only), `token_T` the share of images whose token T is right given
        the right ones before it, and `greedy_Rkm` the share of greedy places within R km.
    """
    batches = Batches(model.config, examples)
    device = model.offsets.device
    model.eval()
    losses: list[Tensor] = []
    right: list[Tensor] = []
    written: list[Tensor] = []
    for start in range(0, len(batches), batch):
        context, codes = batches.take(np.arange(start, min(start + batch, len(batches))))
        context, codes = context.to(device), codes.to(device)
        logits = model.logits(model.encode(context), codes)
        tokens = [nn.functional.cross_entropy(x, codes[:, t], reduction="none") for t, x in enumerate(logits)]
        losses.append(torch.stack(tokens, dim=1) @ model.weights / model.weights.sum())
        right.append(torch.stack([x.argmax(-1) == codes[:, t] for t, x in enumerate(logits)], dim=1))
        written.append(greedy(model, context)[0])
    latitude, longitude = places_of(torch.cat(written).cpu().numpy(), model.config)
    off = distance.haversine_km(latitude, longitude, *examples.places())
    shares = torch.cat(right).double().mean(0).tolist()
    return {
        "loss": float(torch.cat(losses).mean()),
        **{f"token_{t}": share for t, share in enumerate(shares)},
        **{f"greedy_{km}km": float(distance.within(off, km).mean()) for km in RADII_KM},
    }
