"""Names of published tiles: places, buildings, and everything a name may be."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geobatch.archive.texts import _Ids
from geobatch.benchmark import named
from geobatch.benchmark.named import building_of, file_of, path_of, place_of, rows_of
from geobatch.benchmark.truth import truth_of
from geobatch.errors import UserError


def test_the_examples_hold() -> None:
    found = doctest.testmod(named)
    assert found.attempted == 6 and not found.failed


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("40.7580,-73.9855_2019-05_AbC-_x_d193_z3.png", (40.758, -73.9855)),
        ("s3://b/sat/-33.9,151.2_2020-01_p_d0_z3.png", (-33.9, 151.2)),
        ("s3://b/test.json#+35.6,139.7_x.png@3", (35.6, 139.7)),
        ("x/40.7,-74.0.png", (40.7, -74.0)),
        ("7,8", (7.0, 8.0)),
        ("90.1,0_x.png", None),
        ("40.7,-180.5_x.png", None),
        ("40.7,-74.0x.png", None),
        ("a40.7,-74.0_x.png", None),
        ("40.7;-74.0_x.png", None),
        ("0839/image-43.jpeg", None),
        ("", None),
    ],
)
def test_places(name: str, place: tuple[float, float] | None) -> None:
    assert place_of(name) == place


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_what_a_name_says_is_read_to_the_last_digit(latitude: float, longitude: float) -> None:
    name = f"{latitude:.7f},{longitude:.7f}_2021-11_panoid_d193_z3.png"
    assert place_of(f"file:///x/{name}") == (float(f"{latitude:.7f}"), float(f"{longitude:.7f}"))


@given(st.text(max_size=30))
def test_any_name_has_a_building_and_no_name_raises(name: str) -> None:
    place_of(name)
    assert isinstance(building_of(name), str) and "/" not in building_of(name)


@given(
    st.lists(st.sampled_from(["0839", "a b", "x%y", "#", "~2", "a@3", "row=4", "%7E", "é"]), min_size=1, max_size=3),
    st.integers(0, 3),
    st.booleans(),
)
@example(["a@3"], 1, True)
def test_an_id_tells_the_name_it_was_made_of(parts: list[str], again: int, several: bool) -> None:
    name = "/".join(parts)
    ids = _Ids("s3://b/te#xt.json")
    given_ids = [ids.give([name])[0] + ("@2" if several else "") for _ in range(again + 1)]
    assert len(set(given_ids)) == again + 1
    assert {path_of(each) for each in given_ids} == {name}
    assert file_of(given_ids[-1]) == parts[-1] and building_of(given_ids[0]) == building_of(given_ids[-1])


def test_texts_of_one_row_share_its_line_of_a_truth_and_may_have_their_own() -> None:
    names = ["0839/image-43", "odd@7", "b@2", "b"]
    truth = truth_of(names, np.zeros(4), np.zeros(4), "truth.csv")
    x = "s3://b/t.json#"
    asked = [f"{x}0839/image-43.jpeg@1", f"{x}0839/image-43.jpeg~2@3", f"{x}odd%407", f"{x}odd%407@2", f"{x}b@2", f"{x}b@1"]
    assert rows_of(truth, [*asked, "else"]).tolist() == [0, 0, 1, 1, 2, 3, -1]
    assert rows_of(truth, []).tolist() == []
    with pytest.raises(UserError, match="fits both"):
        rows_of(truth, ["x.json#0839/image-43.jpeg@1", "y.json#0839/image-43.jpeg@1"])
