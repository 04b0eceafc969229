"""The authors' own package on a backbone of ours: what ours is compared with, in tests and benchmarks.

Its loading of CLIP by name is turned to a folder, and what transformers 5 gives where 4 gave a tensor is unpacked for it
(version 1.2.0 does not know of it). Head, location encoder, scale, places, softmax and `predict` are its own.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers


class Tensors(torch.nn.Module):
    """A CLIP whose image features are a tensor, as they were for transformers 4; random where the folder has no weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if (folder / "model.safetensors").is_file():
            self.clip = transformers.CLIPModel.from_pretrained(folder).eval()
        else:
            self.clip = transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(folder)).eval()

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        out = self.clip.get_image_features(pixel_values=pixel_values)
        return out if isinstance(out, torch.Tensor) else out.pooler_output


def geoclip(folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """The package's model on the CLIP in `folder`, ready to predict.

    Raises:
        ImportError: the package is not installed.
    """
    with warnings.catch_warnings():  # of torch.jit.script
        warnings.simplefilter("ignore")
        from geoclip.model import GeoCLIP, image_encoder
    for name, made in {
        "CLIPModel": Tensors,
        "AutoProcessor": transformers.CLIPImageProcessor.from_pretrained,
    }.items():
        loader = type(name, (), {"from_pretrained": staticmethod(lambda _name, made=made: made(folder))})
        patch.setattr(image_encoder, name, loader)
    return GeoCLIP().eval()
