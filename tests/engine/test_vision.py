"""Image encoders of several kinds, each made small here, and one real network where the real data is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from geobatch.engine.heads import Head, HeadConfig
from geobatch.engine.pixels import Pixels
from geobatch.engine.vision import Vision, network
from geobatch.errors import UserError

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, 16),
    "convnext": ({"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, 16),
    "vit": ({**TINY, "image_size": 32, "patch_size": 8}, 16),
    "clip_vision_model": ({**TINY, "image_size": 32, "patch_size": 8}, 16),
    "clip": (
        {
            "text_config": {**TINY, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
            "vision_config": {**TINY, "image_size": 32, "patch_size": 8},
            "projection_dim": 12,
        },
        12,
    ),
}


def folder(tmp_path: Path, kind: str, weights: bool = True) -> Path:
    settings, _ = KINDS[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **settings)
    (transformers.AutoModel.from_config(config) if weights else config).save_pretrained(tmp_path)
    Pixels(size=(32, 32), mean=(0.5,) * 3, deviation=(0.5,) * 3).save(tmp_path)
    return tmp_path


@pytest.fixture
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((32, 32), (50, 40), (32, 32), (8, 90), (50, 40))]


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_gives_unit_vectors(tmp_path: Path, kind: str, pictures: list[np.ndarray]) -> None:
    vision = Vision(str(folder(tmp_path, kind)), precision="float32")
    vectors = vision.encode(pictures)
    assert vectors.shape == (5, KINDS[kind][1]) == (5, vision.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # A picture's vector is its own: neither order nor company nor batch changes it.
    small = Vision(str(tmp_path), batch=1, precision="float32").encode(pictures[::-1])[::-1]
    assert np.allclose(vectors, small, atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-4


def test_the_vectors_are_the_models_own(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    """The plain way, through transformers alone, gives the same."""
    model = transformers.AutoModel.from_pretrained(folder(tmp_path, "clip")).eval()
    values = (torch.from_numpy(pictures[0]).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        plain = model.visual_projection(model.vision_model(pixel_values=values).pooler_output)[0]
    ours = Vision(str(tmp_path), precision="float32").encode(pictures[:1])[0]
    assert np.allclose(ours, (plain / plain.norm()).numpy(), atol=1e-5)


def test_bfloat16_stays_close(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    exact = Vision(str(folder(tmp_path, "resnet")), precision="float32").encode(pictures)
    rough = Vision(str(tmp_path), precision="bfloat16").encode(pictures)
    assert ((exact * rough).sum(axis=1) > 0.995).all() and not (exact == rough).all()


def test_a_pooler_without_weights_is_not_used(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    folder(tmp_path, "vit")
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = network(str(tmp_path), seed=1)
    assert not loaded.pooled
    first, second = (Vision(str(tmp_path), precision="float32").encode(pictures) for _ in range(2))
    assert (first == second).all()  # with random weights in it the two would differ


def test_a_head_is_saved_and_read(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    made = network(str(folder(tmp_path / "bare", "resnet", weights=False)), HeadConfig(size=6, grid=2), seed=3).eval()
    again = network(str(tmp_path / "bare"), HeadConfig(size=6, grid=2), seed=3)
    other = network(str(tmp_path / "bare"), HeadConfig(size=6, grid=2), seed=4)
    assert all(bool((a == b).all()) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert not all(bool((a == b).all()) for a, b in zip(made.parameters(), other.parameters(), strict=True))
    made.save(tmp_path / "trained")
    vision = Vision(str(tmp_path / "trained"), precision="float32")
    assert vision.dimension == 6 == made.dimension()
    with torch.no_grad():
        direct = made(made.reads(torch.from_numpy(np.stack([pictures[0], pictures[2]])))).numpy()
    assert np.allclose(vision.encode([pictures[0], pictures[2]]), direct, atol=1e-6)


VIEWS = {"image": None, "location": HeadConfig(size=6, hidden=10, unit=True), "text": HeadConfig(size=5)}


def test_views_lie_one_behind_the_other(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    made = network(str(folder(tmp_path / "bare", "clip")), VIEWS, seed=3).eval()
    made.save(tmp_path / "trained")
    said = json.loads((tmp_path / "trained/head.json").read_text())
    assert list(said["views"]) == ["image", "location", "text"] and said["views"]["image"] is None
    vision = Vision(str(tmp_path / "trained"), precision="float32")
    assert (vision.dimension, vision.views, vision.view_sizes) == (23, ("image", "location", "text"), (12, 6, 5))
    assert made.head is None
    vectors = vision.encode(pictures)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    parts = np.split(vectors * np.float32(np.sqrt(3)), [12, 18], axis=1)
    assert all(np.allclose(np.linalg.norm(part, axis=1), 1, atol=1e-5) for part in parts)
    # The whole's inner product is the mean of the views' cosines, and the image view is the bare model's vector.
    assert vectors[0] @ vectors[3] == pytest.approx(np.mean([part[0] @ part[3] for part in parts]), abs=1e-5)
    bare = Vision(str(tmp_path / "bare"), precision="float32")
    assert (bare.views, bare.view_sizes) == (("image",), (12,))
    assert np.allclose(parts[0], bare.encode(pictures), atol=1e-5)
    with torch.no_grad():
        own = torch.from_numpy(parts[0])
        each = made.each(own)
        assert np.allclose(each["location"], parts[1], atol=1e-5)  # reads unit vectors and any multiple alike
        assert np.allclose(made.each(own * 7)["location"], parts[1], atol=1e-5)
        assert not np.allclose(each["text"], parts[2], atol=1e-3)


def test_one_head_is_written_as_ever(tmp_path: Path) -> None:
    """The format of the encoders that exist."""
    made = network(str(folder(tmp_path / "bare", "resnet", weights=False)), HeadConfig(size=6, grid=2), seed=3)
    made.save(tmp_path / "trained")
    assert json.loads((tmp_path / "trained/head.json").read_text()) == {"size": 6, "grid": 2, "channels": 16}
    assert set(load_file(tmp_path / "trained/head.safetensors")) == {"linear.weight", "linear.bias"}


def test_a_grid_sees_where_and_a_mean_does_not() -> None:
    """The reason for the grid: the same coast on the left and on the right has one average."""
    torch.manual_seed(0)
    left = torch.zeros(1, 8, 6, 6)
    left[:, :, :, :3] = torch.rand(1, 8, 6, 3)
    right = left.flip(3)
    mean, grid = Head(HeadConfig(size=5, grid=0), 8), Head(HeadConfig(size=5, grid=2), 8)
    assert torch.allclose(mean(left.mean(dim=(2, 3))), mean(right.mean(dim=(2, 3))), atol=1e-6)
    assert not torch.allclose(grid(left), grid(right), atol=1e-2)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image model at"):
        network(str(tmp_path / "nowhere"))
    vit = folder(tmp_path / "vit", "vit", weights=False)
    with pytest.raises(UserError, match="no feature map"):
        network(str(vit), HeadConfig(grid=2))
    with pytest.raises(UserError, match="one view can have a head on a grid"):
        network(str(vit), {"image": None, "location": HeadConfig(grid=2)})
    full = folder(tmp_path / "full", "resnet")
    weights = load_file(full / "model.safetensors")
    weights.pop(next(name for name in weights if "convolution" in name))
    save_file(weights, full / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks weights"):
        network(str(full))
    (vit / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        network(str(vit))


def test_a_real_network(realdata: Path) -> None:
    """MobileNet's vectors of flat colours differ, those of a picture and its small copy agree."""
    vision = Vision(str(realdata / "weights/hf_mobilenet_v1_0.25_224"))
    assert json.loads((realdata / "weights/hf_mobilenet_v1_0.25_224/config.json").read_text())["model_type"] == "mobilenet_v1"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 7, 3), np.uint8).repeat(64, axis=0).repeat(64, axis=1)
    red = np.broadcast_to(np.array([200, 30, 30], np.uint8), (224, 224, 3))
    vectors = vision.encode([coarse, coarse[::2, ::2], red])
    assert vision.dimension == 256
    assert vectors[0] @ vectors[1] > 0.95 > vectors[0] @ vectors[2]
