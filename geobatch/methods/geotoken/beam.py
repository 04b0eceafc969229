"""The likeliest places, by beam search (the paper's width is 5).

At each token the best `width` prefixes of each image are kept: of all their children those with the highest log-probability
of the model itself (T = 1). All places have T tokens, so no length needs correcting. It is no exact search: a prefix that falls
out of the beam never comes back, and with 21 tokens of a flat distribution the likeliest cell often begins with one. A width of
at least the number of all prefixes makes it exact, which is what the tests check it against.

Ties go to the smaller code, so that the result is a function of the probabilities.
"""

from __future__ import annotations

import torch

from geobatch.methods.geotoken.draws import Draws
from geobatch.methods.geotoken.inputs import Context
from geobatch.methods.geotoken.layers import Rows
from geobatch.methods.geotoken.model import GeoTokenModel


@torch.inference_mode()
def beam(model: GeoTokenModel, context: Context, width: int = 5, stands_for: int = 30, temperature: float = 0.7) -> Draws:
    """The `width` best places of each image, or all there are, best first.

    Args:
        stands_for: draws that an image's places stand for, shared among them by their probabilities at `temperature`, the
            remainders going to the best; a place may get none.
    """
    images = len(context)
    memory = model.encode(context)
    kept = model.keep(memory, images * width)
    image_R = torch.arange(images, device=context.views_BVD.device)
    codes_Rt = image_R.new_zeros(images, 0)
    log_R = torch.zeros(images, dtype=torch.float64, device=image_R.device)
    tempered_R, prefixes = log_R, 0
    for t, values in enumerate(model.config.vocabularies):
        logits = model.step(memory, Rows.of(image_R, images), codes_Rt, kept).double()
        prefixes += len(image_R)
        each = len(image_R) // images
        children_BC = (log_R[:, None] + logits.log_softmax(-1)).reshape(images, each * values)
        wide = min(width, each * values)
        # A stable sort, where topk leaves open which of two equals it takes.
        child = children_BC.sort(dim=1, descending=True, stable=True).indices[:, :wide]
        parent = (child // values + each * torch.arange(images, device=child.device)[:, None]).flatten()
        token = (child % values).flatten()
        for layer in kept:
            layer.reorder(parent, t + 1)
        tempered = (logits / temperature).log_softmax(-1)
        log_R, tempered_R = children_BC.gather(1, child).flatten(), tempered_R[parent] + tempered[parent, token]
        codes_Rt = torch.cat([codes_Rt[parent], token[:, None]], dim=1)
        image_R = image_R[parent]
    counts_BW = _shares(tempered_R.unflatten(0, (images, -1)), stands_for)
    return Draws(codes_Rt, image_R, counts_BW.flatten(), log_R, tempered_R, prefixes)


def _shares(tempered_BW: torch.Tensor, total: int) -> torch.Tensor:
    """(B, W) log-probabilities -> (B, W) whole numbers in proportion to the probabilities, each row's sum `total`."""
    exact = tempered_BW.softmax(-1) * total
    whole = exact.floor().long()
    left = total - whole.sum(-1, keepdim=True)
    rank = (exact - whole).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return whole + (rank < left).long()
