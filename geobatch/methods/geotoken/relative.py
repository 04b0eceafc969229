"""Where the neighbours lie, seen from the cell that has been written so far.

To write the next token is to say which child of the present cell holds the image. What decides it is the neighbours'
places relative to that cell: the same picture at every level, only smaller. A transformer that is given absolute tokens
has to learn this arithmetic for each level and each cell anew. Here each step of the decoder is told, for each neighbour,
its offset from the cell's centre in units of the cell's size along the cube face's two axes, whether it is on the same
face and within the cell, and its similarity; one small network shared by all steps and neighbours reads this, and its
outputs are summed. The children's numbers must then mean the same quadrant everywhere, so it takes order "quadrant".

A neighbour on another face has no offset, and its features say so: beside the edges of a face the encoder's tokens have
to do.

Not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geobatch.methods.geotoken.config import GeoToken
from geobatch.methods.geotoken.inputs import Context

_FEATURES = 8


@dataclass(frozen=True)
class Near:
    """The neighbours of B images on their faces: rows of images, M neighbours each."""

    face_BM: Tensor
    at_BM2: Tensor  # i and j on the face in [0, 1), float64
    similarity_BM: Tensor
    present_BM: Tensor

    def of(self, image_R: Tensor) -> Near:
        """The neighbours of each of R prefixes."""
        return Near(self.face_BM[image_R], self.at_BM2[image_R], self.similarity_BM[image_R], self.present_BM[image_R])


class Relative(nn.Module):
    """Summaries of the neighbours for each step of the decoder."""

    corners: Tensor
    sizes: Tensor

    def __init__(self, config: GeoToken) -> None:
        super().__init__()
        self.register_buffer("corners", _corners(config), persistent=False)
        levels = torch.tensor([0, *config.groups]).cumsum(0)
        self.register_buffer("sizes", 0.5 ** levels.double(), persistent=False)
        self.width = config.width
        self.read = nn.Sequential(nn.Linear(_FEATURES, config.width), nn.ReLU(), nn.Linear(config.width, config.width))

    def near(self, context: Context) -> Near:
        """What of a batch the summaries need."""
        codes = context.neighbour_codes_BMT
        middle = self._corner(codes)[..., -1, :] + self.sizes[-1] / 2
        cosine = functional.cosine_similarity(context.views_BVD[:, None], context.neighbour_views_BMVD, dim=-1)
        return Near(codes[..., 0], middle, cosine.mean(-1), context.present_BM)

    def forward(self, near: Near, codes_Rt: Tensor) -> Tensor:
        """R rows of neighbours, (R, t) codes -> (R, t + 1, W); row 0, where there is no cell yet, is zero."""
        t = codes_Rt.shape[1]
        if not t or not near.present_BM.shape[1]:
            return near.at_BM2.new_zeros(len(codes_Rt), t + 1, self.width, dtype=torch.float32)
        features_RtMF = self._features(near, codes_Rt)
        read = self.read(features_RtMF) * near.present_BM[:, None, :, None]
        return functional.pad(read.sum(2), (0, 0, 1, 0))

    def _corner(self, codes: Tensor) -> Tensor:
        """(…, t) codes -> (…, t, 2) the corner nearest the origin of the cell that each prefix names, float64."""
        t = codes.shape[-1]
        steps = self.corners[torch.arange(t, device=codes.device), codes]
        return steps.cumsum(-2)

    def _features(self, near: Near, codes_Rt: Tensor) -> Tensor:
        sizes = self.sizes[: codes_Rt.shape[1], None]
        middle = self._corner(codes_Rt) + sizes / 2
        exact = (near.at_BM2[:, None] - middle[:, :, None]) / sizes[:, :, None]
        same = (near.face_BM == codes_Rt[:, :1])[:, None, :, None].expand(-1, codes_Rt.shape[1], -1, -1)
        inside = same & (exact.abs() < 0.5).all(-1, keepdim=True)
        offset = exact.float()
        # Once linear around the cell, once squashed so that far neighbours still have a direction.
        offsets = torch.cat([offset.clamp(-1.5, 1.5), offset / (1 + offset.abs())], dim=-1) * same
        similarity = near.similarity_BM
        best = similarity.masked_fill(~near.present_BM, -1.0).amax(-1, keepdim=True)
        likeness = torch.stack([similarity, similarity - best], dim=-1)[:, None].expand(-1, codes_Rt.shape[1], -1, -1)
        return torch.cat([offsets, same.float(), inside.float(), likeness.float()], dim=-1)


def _corners(config: GeoToken) -> Tensor:
    """(T, values, 2) what each code of each token adds to the corner of the cell, as a share of the face."""
    out = torch.zeros(config.length, max(config.vocabularies), 2, dtype=torch.float64)
    done = 0
    for t, levels in enumerate(config.groups, 1):
        for code in range(4**levels):
            for level in range(levels):
                child = code >> (2 * (levels - 1 - level)) & 3
                out[t, code] += torch.tensor([child >> 1, child & 1]) * 0.5 ** (done + level + 1)
        done += levels
    return out
