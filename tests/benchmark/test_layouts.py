"""Every benchmark's truth is read in its true layout, its traps are named, and its archive's images find their places."""

from __future__ import annotations

from pathlib import Path

import pytest

from geobatch.benchmark.truth import load_truth, parse_truth
from geobatch.errors import UserError
from geobatch.store import Store
from tests.benchmark.layouts import LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_in_its_true_layout(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = LAYOUTS[name]()
    (tmp_path / "truth.csv").write_bytes(layout.data)
    found = load_truth(Store(), str(tmp_path / "truth.csv"))
    rows = found.match(list(layout.images))
    assert sorted(rows.tolist()) == list(range(len(layout.images))) == list(range(len(found.image_id)))
    assert list(zip(found.latitude[rows], found.longitude[rows], strict=True)) == list(layout.images.values())
    said = capsys.readouterr().out
    assert layout.note in said and len(found.notes) == bool(layout.note)
    assert said.count("\n") == len(found.notes)


def test_a_few_wild_latitudes_are_no_exchange() -> None:
    fine = "".join(f"{n},{n % 80},{n % 90}\n" for n in range(100))
    for lines in ("a,95,10\n", "a,95,10\nb,100,10\n", fine + "a,95,10\nb,95,20\nc,95,30\n"):
        with pytest.raises(UserError, match="which is nowhere; correct"):
            parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")
    both = "id,lat,lon\na,95,10\nb,95,20\nc,95,100\nd,95,30\n"  # a longitude beyond 90 as well: no exchange mends it
    with pytest.raises(UserError, match=r"row 1 of t.csv has latitude 95"):
        parse_truth(both.encode(), "t.csv")


def test_words_in_the_middle_are_no_second_table() -> None:
    for lines in ("a,1,2\nb,x1,y1\nc,3,4\n", "a,1,2\n\nb,x1,3\n", "a,1,2\n\nsome,other,words\n" + "c,1,2\n" * 6):
        with pytest.raises(UserError, match="is no latitude"):
            parse_truth(("id,lat,lon\n" + lines).encode(), "t.csv")
