"""The location encoder: the projection against published values, the features against their purpose, the files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine import gps
from geobatch.engine.gps import GEOCLIP_FILE, Gps, LocationEncoder, equal_earth
from geobatch.errors import UserError
from tests.methods.geoclip.miniature import location_encoder

SMALL = Gps(size=16, width=32, features=64)


def test_the_map_has_its_published_shape() -> None:
    """Šavrič et al. 2018, section 3: the map is 2.05458 times as wide as high, its poles 0.59247 of the equator."""
    flat = equal_earth(torch.tensor([0.0, 90.0, 90.0, 0.0]), torch.tensor([180.0, 0.0, 180.0, -180.0]))
    assert torch.allclose(flat[0], torch.tensor([1.0, 0.0]), atol=1e-4)
    assert torch.allclose(flat[3], -flat[0])
    assert abs(1 / flat[1, 1].item() - 2.05458) < 1e-3
    assert abs(flat[2, 0].item() - 0.59247) < 1e-3


@given(st.floats(-80, 80), st.floats(-170, 170))
def test_equal_areas_stay_equal(latitude: float, longitude: float) -> None:
    """The Jacobian of the projection is the cosine of the latitude, times one constant."""
    lat = torch.tensor([latitude], dtype=torch.float64, requires_grad=True)
    lon = torch.tensor([longitude], dtype=torch.float64, requires_grad=True)
    east, north = equal_earth(lat, lon)[0]
    (dx_lat, dx_lon) = torch.autograd.grad(east, (lat, lon), retain_graph=True)
    (dy_lat, _) = torch.autograd.grad(north, (lat, lon), allow_unused=True)
    assert dx_lat is not None
    area = (dx_lon * dy_lat).item() / np.cos(np.radians(latitude))
    assert abs(area / (np.radians(1) ** 2 / 2.7066**2) - 1) < 1e-3


def test_near_places_are_nearer_than_far_ones() -> None:
    encoder = LocationEncoder(Gps(size=64, width=64, sigmas=(1.0, 16.0)))
    lat, lon = torch.tensor([48.0, 48.05, 48.0, -33.0]), torch.tensor([2.0, 2.0, 9.0, 151.0])
    with torch.no_grad():
        vectors = encoder(lat, lon)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    near, middle, far = (vectors[0] @ vectors[1:].T).tolist()
    assert near > middle > far


def test_the_seed_is_in_the_weights() -> None:
    one, same = LocationEncoder(SMALL), LocationEncoder(SMALL)
    other = LocationEncoder(Gps(size=16, width=32, features=64, seed=1))
    place = (torch.tensor([10.0]), torch.tensor([20.0]))
    assert torch.equal(one(*place), same(*place)) and not torch.equal(one(*place), other(*place))
    other.load_state_dict(one.state_dict())  # frequencies included
    assert torch.equal(one(*place), other(*place))


def test_in_space_the_antimeridian_is_no_seam() -> None:
    lat, lon = torch.tensor([-17.0, -17.0]), torch.tensor([179.99999, -179.99999])
    flat, space = (LocationEncoder(Gps(size=16, width=32, features=64, projection=kind)) for kind in ("equal_earth", "space"))
    with torch.no_grad():
        a, b = flat(lat, lon)
        c, d = space(lat, lon)
    assert c @ d > 0.9999 > a @ b


def test_a_folder_gives_back_the_encoder(tmp_path: Path) -> None:
    one = LocationEncoder(replace(SMALL, sigmas=(1.0, 4.0), projection="space", stretch=66.50336, seed=3))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1)
    one.save(tmp_path / "gps")
    assert sorted(path.name for path in (tmp_path / "gps").iterdir()) == ["gps.json", "gps.safetensors"]
    again = LocationEncoder.load(tmp_path / "gps")
    assert again.config == one.config
    assert np.array_equal(again.encode([10.0, -80.0], [20.0, 170.0]), one.encode([10.0, -80.0], [20.0, 170.0]))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no location encoder \(no gps.json\)"):
        LocationEncoder.load(tmp_path)
    LocationEncoder(SMALL).save(tmp_path)
    (tmp_path / "gps.json").write_text(json.dumps({**asdict(SMALL), "size": 17}))
    with pytest.raises(UserError, match="does not load"):
        LocationEncoder.load(tmp_path)
    (tmp_path / "gps.json").write_text("{")
    with pytest.raises(UserError, match="does not load"):
        LocationEncoder.load(tmp_path)
    (tmp_path / "gps.json").write_text(json.dumps(asdict(SMALL)))
    for content in (b"", b"\xff" * 99):
        (tmp_path / "gps.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="does not load"):
            LocationEncoder.load(tmp_path)
    (tmp_path / "gps.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no location encoder \(no gps.safetensors\)"):
        LocationEncoder.load(tmp_path)


def test_many_at_a_time_are_the_same_as_few() -> None:
    encoder = LocationEncoder(SMALL)
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)
    with torch.no_grad():
        plain = encoder(torch.from_numpy(lat).float(), torch.from_numpy(lon).float()).numpy()
    for batch in (1, 7, 4096):
        assert np.abs(encoder.encode(lat, lon, batch) - plain).max() < 1e-4  # one place alone is another product


def test_bfloat16_does_not_reach_the_angles() -> None:
    """Under autocast the layers round, the waves do not: a place keeps its vector, where angles of bfloat16 would lose it."""
    encoder = LocationEncoder(Gps(size=16, width=32, sigmas=(256.0,)))
    lat, lon = torch.tensor([48.8584, -33.8568]), torch.tensor([2.2945, 151.2153])
    with torch.no_grad():
        exact = encoder(lat, lon)
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder(lat, lon)
    assert not torch.equal(exact, rough) and ((exact * rough.float()).sum(dim=1) > 0.99).all()


def written_out(state: dict[str, torch.Tensor], lat: float, lon: float) -> np.ndarray:
    """GeoCLIP's encoder from its paper, one place in float64: Equal Earth, waves, layers, the sum of the scales."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    theta = np.arcsin(np.sqrt(3) / 2 * np.sin(np.radians(lat)))
    slope = 3 * (9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1)
    x = 2 * np.sqrt(3) * np.radians(lon) * np.cos(theta) / slope
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    summed = np.zeros(state["LocEnc0.head.0.bias"].shape)
    for scale in range(3):
        part = {name.split(".", 1)[1]: value.double().numpy() for name, value in state.items() if f"LocEnc{scale}." in name}
        angle = 2 * np.pi * part["capsule.0.b"] @ (np.array([x, y]) * 66.50336 / 180)
        seen = np.concatenate([np.cos(angle), np.sin(angle)])
        for layer in (1, 3, 5):
            seen = np.maximum(part[f"capsule.{layer}.weight"] @ seen + part[f"capsule.{layer}.bias"], 0)
        summed += part["head.0.weight"] @ seen + part["head.0.bias"]
    return summed / np.linalg.norm(summed)


@pytest.mark.parametrize("place", [(48.8584, 2.2945), (-33.8568, 151.2153), (90.0, 0.0), (-17.0, 180.0), (0.0, -180.0)])
def test_geoclips_file_is_read_as_its_paper_says(place: tuple[float, float], tmp_path: Path) -> None:
    state = location_encoder()
    torch.save(state, tmp_path / GEOCLIP_FILE)
    for path in (tmp_path, tmp_path / GEOCLIP_FILE):
        ours = LocationEncoder.geoclip(path).encode([place[0]], [place[1]])[0]
        # An angle of 4,000 in float32 is off by 2e-4, so the exact value is met to that and no better.
        assert np.abs(ours - written_out(state, *place)).max() < 2e-3


def test_geoclips_file_may_be_missing_or_another(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*location_encoder_weights\.pth; pip install geoclip"):
        LocationEncoder.geoclip(tmp_path)
    path, state = tmp_path / GEOCLIP_FILE, location_encoder()
    wrong = [
        {},
        [1],
        {name: value for name, value in state.items() if name != "LocEnc1.capsule.3.weight"},
        {**state, "LocEnc3.other": torch.ones(1)},
        {**state, "LocEnc2.capsule.1.weight": torch.ones(2, 2)},
        {**state, "LocEnc0.capsule.0.b": torch.ones(8, 3)},
        {**state, "LocEnc0.capsule.0.b": torch.ones(8)},
        {**state, "LocEnc0.head.0.weight": "words"},
    ]
    for said in wrong:
        torch.save(said, path)
        with pytest.raises(UserError, match="holds no GeoCLIP location encoder"):
            LocationEncoder.geoclip(path)


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gps, "geoclip_package", lambda: None)
    with pytest.raises(UserError, match="pip install geoclip"):
        LocationEncoder.geoclip()
