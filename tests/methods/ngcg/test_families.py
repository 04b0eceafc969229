"""What a tile is to each family, against the image processors and prompts of `transformers`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geobatch.errors import UserError
from geobatch.methods.ngcg import families


def seen(kind: str, **vision: object) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(kind, vision_config=vision)


PUBLISHED = {
    "internvl": (seen("internvl"), 448, 256),
    "smolvlm": (seen("idefics3", image_size=512, patch_size=16), 512, 64),
    "qwen2_5_vl": (seen("qwen2_5_vl"), 448, 256),
}
PUBLISHED["smolvlm"][0].scale_factor = 4  # SmolVLM-256M's and -500M's


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tile_is_as_many_tokens_as_published(name: str) -> None:
    config, side, tokens = PUBLISHED[name]
    family = families.of(config)
    processor = SimpleNamespace(size={"longest_edge": 12_845_056})
    assert family.own(config, processor) == side
    prompt = family.prompt(side, config)
    assert prompt.count(family.image) == tokens
    assert prompt.startswith(family.opening) and prompt.endswith(family.closing)
    with pytest.raises(UserError, match=r"use a multiple of (28|64) for its side"):
        family.prompt(side + 1, config)
    with pytest.raises(UserError, match="a tile of 0 pixels"):
        family.prompt(0, config)


def test_a_tile_is_smaller_where_the_processor_takes_fewer_pixels() -> None:
    config, _, _ = PUBLISHED["qwen2_5_vl"]
    assert families.of(config).own(config, SimpleNamespace(size={"longest_edge": 113 * 113})) == 112


def test_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="a 'llama' model sees tiles; use a base of internvl, idefics3, smolvlm, qwen2_5_vl"):
        families.of(transformers.LlamaConfig())


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_qwens_patches_lie_as_its_processor_lays_them(data: st.DataObject) -> None:
    patch, merge, time = data.draw(st.sampled_from([(14, 2, 2), (7, 2, 1), (4, 1, 3), (5, 3, 2)]))
    side = patch * merge * data.draw(st.integers(1, 3))
    levels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    processor = transformers.Qwen2VLImageProcessor(patch_size=patch, merge_size=merge, temporal_patch_size=time)
    expected = processor(
        [Image.fromarray(each) for each in levels], do_resize=False, do_rescale=False, do_normalize=False, return_tensors="pt"
    )
    config = seen("qwen2_5_vl", patch_size=patch, spatial_merge_size=merge, temporal_patch_size=time)
    found = families.of(config).arranged(torch.from_numpy(levels).permute(0, 3, 1, 2).float(), config)
    assert torch.equal(found["pixel_values"], expected["pixel_values"].float())
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_a_picture_of_zeros_is_still_a_picture_to_idefics() -> None:
    config = seen("idefics3")
    pixels = torch.zeros(3, 3, 8, 8)
    pixels[1] = 0.5
    found = families.of(config).arranged(pixels, config)["pixel_values"]
    assert found.shape == (3, 1, 3, 8, 8)
    assert (found != 0).flatten(1).any(1).all() and torch.equal(found[1, 0], pixels[1])
    torch.testing.assert_close(found[:, 0], pixels, atol=1e-6, rtol=0)
    assert not pixels[0].any()  # the caller's own stay zero
