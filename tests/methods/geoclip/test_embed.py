"""Pictures of many shapes through a small CLIP and a small head, against transformers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from geobatch.engine.vision import HeadConfig, network
from geobatch.errors import UserError
from geobatch.methods.geoclip.embed import Embed, ImageEncoder
from geobatch.methods.geoclip.weights import find, image_head
from tests.methods.geoclip import miniature


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find(miniature.weights(tmp_path_factory.mktemp("weights"))).head


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((32, 32), (50, 40), (32, 32), (33, 90), (50, 40))]


def test_what_the_head_reads_is_not_normalised_and_what_it_gives_is(
    backbone: Path, head: Path, pictures: list[np.ndarray]
) -> None:
    """transformers alone: pixels, projection, head, unit length."""
    clip = transformers.CLIPModel.from_pretrained(backbone).eval()
    mean, deviation = (torch.tensor(clip_numbers).view(3, 1, 1) for clip_numbers in
                       ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    values = (torch.from_numpy(pictures[0]).permute(2, 0, 1)[None] / 255 - mean) / deviation
    with torch.no_grad():
        seen = image_head(head)(clip.visual_projection(clip.vision_model(pixel_values=values).pooler_output))[0]
    ours = ImageEncoder(str(backbone), head, precision="float32").encode(pictures)
    assert np.allclose(ours[0], (seen / seen.norm()).numpy(), atol=1e-5)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert (ours @ ours.T - np.eye(5) > 0.9999).sum() == 0


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_a_vector_does_not_depend_on_company(batch: int, backbone: Path, head: Path, pictures: list[np.ndarray]) -> None:
    all_at_once = ImageEncoder(str(backbone), head, batch=64, precision="float32").encode(pictures)
    assert np.allclose(ImageEncoder(str(backbone), head, batch=batch, precision="float32").encode(pictures), all_at_once,
                       atol=1e-5)  # fmt: skip
    turned = ImageEncoder(str(backbone), head, batch=batch, precision="float32").encode(pictures[::-1])
    assert np.allclose(turned[::-1], all_at_once, atol=1e-5)


def test_bfloat16_stays_close(backbone: Path, head: Path, pictures: list[np.ndarray]) -> None:
    exact, rough = (ImageEncoder(str(backbone), head, precision=each).encode(pictures) for each in ("float32", "bfloat16"))
    assert ((exact * rough).sum(axis=1) > 0.99).all() and not (exact == rough).all()


def test_the_stage_drops_the_picture(backbone: Path, head: Path, pictures: list[np.ndarray]) -> None:
    table = pa.table(
        {
            "picture": pa.array([each.tobytes() for each in pictures], pa.large_binary()),
            "picture_width": [each.shape[1] for each in pictures],
            "picture_height": [each.shape[0] for each in pictures],
            "reason": pa.nulls(5, pa.string()),
        }
    )
    done = Embed(str(backbone), str(head), precision="float32")(table)
    assert done.column_names == ["reason", "vector"]
    expected = ImageEncoder(str(backbone), head, precision="float32").encode(pictures)
    assert np.allclose(np.stack(done["vector"].to_pylist()), expected, atol=1e-6)


def test_other_backbones_are_refused(backbone: Path, head: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives 12 numbers a picture and GeoCLIP's head reads 24; use openai/clip-vit-large"):
        ImageEncoder(str(miniature.clip(tmp_path / "short", embedding=12)), head)
    network(str(backbone), HeadConfig(size=24)).save(tmp_path / "headed")
    with pytest.raises(UserError, match="no CLIP as it was published"):
        ImageEncoder(str(tmp_path / "headed"), head)
    several = network(str(backbone), {"image": None, "location": HeadConfig(size=24)})
    several.save(tmp_path / "several")
    with pytest.raises(UserError, match="no CLIP as it was published"):
        ImageEncoder(str(tmp_path / "several"), head)
    vision = transformers.CLIPVisionModel(transformers.CLIPConfig.from_pretrained(backbone).vision_config)
    vision.save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "preprocessor_config.json").write_bytes((backbone / "preprocessor_config.json").read_bytes())
    with pytest.raises(UserError, match="no CLIP as it was published"):
        ImageEncoder(str(tmp_path / "vision"), head)
