"""The text half of a small CLIP with a tokenizer of letters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from geobatch.engine.heads import HeadConfig
from geobatch.engine.text import text_network
from geobatch.errors import UserError
from tests.engine.clip import write_clip

HEAD = HeadConfig(size=6, hidden=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def test_captions_are_the_models_own(folder: Path) -> None:
    tower = text_network(str(folder), HEAD)
    captions = ["paris, france", "suva, central, fiji"]
    ids, mask = tower.tokens(captions)
    assert ids.shape == mask.shape and mask.sum(dim=1).tolist() == [14, 19]
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        features = tower.features(ids, mask)
        for row, caption in enumerate(captions):  # alone, unpadded
            alone = plain.get_text_features(**tower.tokenizer([caption], return_tensors="pt")).pooler_output[0]
            assert torch.allclose(features[row], alone, atol=1e-5)
        vectors = tower(features)
    assert vectors.shape == (2, 6) and torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
    assert tower.trunk.vision_model is None
    assert tower.tokens(["a" * 500])[0].shape == (1, 32)


def test_a_caption_is_embedded_once(folder: Path) -> None:
    tower = text_network(str(folder), HEAD)
    asked: list[int] = []
    real = tower.features
    tower.features = lambda ids, mask: (asked.append(len(ids)), real(ids, mask))[1]  # type: ignore[method-assign]
    first = tower.remember(["suva", "paris", "suva"])
    second = tower.remember(["paris", "rome"])
    assert asked == [2, 1]
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], second[0])
    with torch.no_grad():
        exact = real(*tower.tokens(["suva", "paris"]))
    assert torch.allclose(first[:2], exact, rtol=1e-3, atol=1e-3)


def test_the_heads_first_weights_are_the_seeds(folder: Path) -> None:
    first, same, other = (text_network(str(folder), HEAD, seed=seed).head.linear.weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_what_reads_no_text_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text model with its tokenizer"):
        text_network(str(tmp_path / "nowhere"), HEAD)
    vit = transformers.AutoConfig.for_model(
        "vit", hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.AutoModel.from_config(vit).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no text model with its tokenizer"):
        text_network(str(tmp_path), HEAD)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="reads no text"):
        text_network(str(tmp_path), HEAD)
