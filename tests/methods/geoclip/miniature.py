"""GeoCLIP in small: files of the published form with random numbers in them, and a CLIP of two thin layers.

The names and the layout are the published ones; the widths are not, since the real location encoder takes a minute for its
100,000 places. What the numbers must be is said by `tests/methods/geoclip/test_published.py`, against the package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

from geobatch.engine.pixels import Pixels

EMBEDDING, HIDDEN, SIZE, FEATURES, WIDTH = 24, 20, 16, 8, 12


def location_encoder(seed: int = 0, size: int = SIZE) -> dict[str, torch.Tensor]:
    """State of a location encoder as published: three capsules of three layers."""
    made = torch.Generator().manual_seed(seed)
    state = {}
    for scale, sigma in enumerate((1.0, 16.0, 256.0)):
        state[f"LocEnc{scale}.capsule.0.b"] = torch.randn(FEATURES, 2, generator=made) * sigma
        for place, (out, into) in zip((1, 3, 5), ((WIDTH, 2 * FEATURES), (WIDTH, WIDTH), (WIDTH, WIDTH)), strict=True):
            state[f"LocEnc{scale}.capsule.{place}.weight"] = torch.randn(out, into, generator=made) / into**0.5
            state[f"LocEnc{scale}.capsule.{place}.bias"] = torch.randn(out, generator=made)
        state[f"LocEnc{scale}.head.0.weight"] = torch.randn(size, WIDTH, generator=made)
        state[f"LocEnc{scale}.head.0.bias"] = torch.randn(size, generator=made)
    return state


def places(count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) degrees, half of them within a few km of three towns, to six decimals."""
    rng = np.random.default_rng(seed)
    far = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)], axis=1)
    towns = np.array([[-17.0, 179.99], [48.9, 2.3], [89.5, 0.0]])[rng.integers(0, 3, count)]
    near = towns + rng.normal(0, 0.05, (count, 2))
    found = np.where((np.arange(count) % 2 == 0)[:, None], far, near)
    return np.round(np.stack([found[:, 0].clip(-90, 90), (found[:, 1] + 180) % 360 - 180], axis=1), 6)


def weights(folder: Path, seed: int = 0, count: int = 300) -> Path:
    """The four files in `folder`, flat; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = torch.Generator().manual_seed(seed + 1)
    head = {
        "0.weight": torch.randn(HIDDEN, EMBEDDING, generator=made),
        "0.bias": torch.randn(HIDDEN, generator=made),
        "2.weight": torch.randn(SIZE, HIDDEN, generator=made),
        "2.bias": torch.randn(SIZE, generator=made),
    }
    torch.save(head, folder / "image_encoder_mlp_weights.pth")
    torch.save(location_encoder(seed), folder / "location_encoder_weights.pth")
    torch.save(torch.tensor(2.5), folder / "logit_scale_weights.pth")
    lines = [f"{lat},{lon}" for lat, lon in places(count, seed).tolist()]
    (folder / "coordinates_100K.csv").write_text("\n".join(["LAT,LON", *lines, ""]))
    return folder


def clip(folder: Path, embedding: int = EMBEDDING, side: int = 32) -> Path:
    """A CLIP with random weights in `folder`; returns it."""
    thin = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**thin, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**thin, "image_size": side, "patch_size": side // 4},
        projection_dim=embedding,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        with torch.no_grad():  # at its own small beginning every picture looks the same
            for parameter in model.vision_model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    Pixels(size=(side, 0), crop=(side, side), mean=mean, deviation=deviation, filter="bicubic").save(folder)
    return folder
