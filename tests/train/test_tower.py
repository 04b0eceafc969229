"""Adapters on encoders of several kinds: where they go, that they learn, and that they melt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from geobatch.errors import UserError
from geobatch.train import tower

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "vit": ({**TINY, "image_size": 32, "patch_size": 8}, 6),
    "clip_vision_model": ({**TINY, "image_size": 32, "patch_size": 8}, 6),
    "dinov2": ({"hidden_size": 16, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}, 6),
}


def trunk(kind: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **KINDS[kind][0])).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_and_melt(tmp_path: Path, kind: str) -> None:
    model = trunk(kind)
    pixels = torch.randn(3, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        before = model(pixel_values=pixels).pooler_output
    names = set(model.state_dict())
    # An adapter of rank 4 on a projection from a to b has 4 (a + b) parameters: four of 16 x 16, two of 16 x 32, two layers.
    assert tower.adapt(model, 4) == 2 * 4 * (4 * 32 + 2 * 48)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).pooler_output, before)  # B is zero: nothing has changed yet
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * KINDS[kind][1] * 2
    optimiser = torch.optim.SGD(trained, lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        model(pixel_values=pixels).pooler_output[:, 0].sum().backward()
        optimiser.step()
    with torch.no_grad():
        after = model(pixel_values=pixels).pooler_output
    assert float((after - before).abs().max()) > 1e-3
    tower.melted(model).save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert set(again.state_dict()) == names
    with torch.no_grad():
        assert torch.allclose(again(pixel_values=pixels).pooler_output, after, atol=1e-5)
    assert any(".lora_A." in name for name, _ in model.named_parameters())  # the trained one goes on


def test_the_first_weights_are_the_seeds() -> None:
    first, same, other = trunk("vit"), trunk("vit"), trunk("vit")
    for model, seed in ((first, 1), (same, 1), (other, 2)):
        torch.manual_seed(seed * 17)
        tower.adapt(model, 2, seed=seed)
    state = first.state_dict()
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in state.items())
    assert not all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        tower.adapt(trunk("vit"), 0)
    resnet = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model("resnet", embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    )
    with pytest.raises(UserError, match="no linear projections"):
        tower.adapt(resnet, 4)


def test_a_trunk_without_adapters_is_copied() -> None:
    model = trunk("vit")
    copied = tower.melted(model)
    assert copied is not model
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), model.parameters(), strict=True))
