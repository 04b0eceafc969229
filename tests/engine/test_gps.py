"""The location encoder: the projection against published values, the features against their purpose."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from geobatch.engine.gps import Gps, LocationEncoder, equal_earth

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
