"""The presets' architectures count what their makers publish, and a picture becomes as many tokens as the processor makes."""

from __future__ import annotations

import math

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from geobatch.errors import UserError
from geobatch.methods.geolocsft import architectures

#: What the Hugging Face hub shows for the published files, in parameters.
PUBLISHED = {"gemma3_27b": 27_432_406_640, "gemma3_12b": 12_187_325_040, "qwen25vl_3b": 3_754_622_976}


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_counts_are_the_published_ones(name: str) -> None:
    assert architectures.named(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_parts_add_up(name: str) -> None:
    found = architectures.named(name)
    body = found.layers * found.widest_layer + found.hidden  # the layers of each are alike; then one last norm
    assert found.parameters == found.vision + found.embeddings + body
    assert found.embeddings == found.vocabulary * found.hidden


def test_gemma_sees_every_picture_as_256_tokens() -> None:
    tower = architectures.named("gemma3_27b").tower
    assert tower.patches(640, 480) == 4096
    assert tower.image_tokens(640, 480) == tower.image_tokens(10, 3000) == 256


def test_every_sixth_layer_of_gemma_attends_to_everything() -> None:
    kinds = architectures.gemma3_27b().text_config.layer_types
    assert len(kinds) == 62
    assert [number for number, kind in enumerate(kinds) if kind == "full_attention"] == list(range(5, 62, 6))


@settings(max_examples=200, deadline=None)
@given(width=st.integers(56, 2000), height=st.integers(56, 2000))
def test_qwen_sees_as_many_tokens_as_its_processor_makes(width: int, height: int) -> None:
    tower = architectures.named("qwen25vl_3b").tower
    resized = smart_resize(height, width, factor=28, min_pixels=0, max_pixels=1 << 40)
    assert tower.image_tokens(width, height) == math.prod(resized) // 28**2
    assert tower.patches(width, height) == 4 * tower.image_tokens(width, height)


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="gemma3_12b"):
        architectures.named("gemma4_31b")


def test_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="'llama'"):
        architectures.layout(transformers.LlamaConfig())
