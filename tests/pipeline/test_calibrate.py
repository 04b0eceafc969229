"""The job on a table as a run leaves it, and the evaluation that reads what it wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from geobatch.errors import UserError
from geobatch.methods.geotoken.calibration import FILE, Calibration
from geobatch.methods.geotoken.select import Select
from geobatch.pipeline.calibrate import Calibrate, calibrate
from geobatch.pipeline.evaluate import Evaluate, evaluate_places
from geobatch.sink import Stamp, Write, begin, open_run
from geobatch.store import Store, StoreConfig
from tests.methods.geotoken.pools import known
from tests.sink.rows import located, manifest, piece


def written(folder: Path, seed: int, images: int, calibration: Calibration | None = None) -> tuple[str, str]:
    """A finished table of made pools and a CSV of the truth, of which the last ten images are missing."""
    table, latitude, longitude = known(images, seed)
    names = table["image_id"].to_pylist()
    rows = located(names)
    for name in Select.adds:
        if name.name in rows.column_names:
            rows = rows.drop_columns(name.name)
    for name in ("candidates", "neighbours"):
        rows = rows.set_column(rows.column_names.index(name), name, table[name])
    run, _ = open_run(
        Store(),
        str(folder / f"places{seed}"),
        method="geotoken",
        fingerprint="f",
        archive={"uri": "s3://a/b", "include": [], "exclude": []},
        relocate=False,
    )
    run = begin(run)
    plan = run.freeze([manifest([("object", names)])], {"listed": images, "skipped": 0, "known": 0})
    stamp = Stamp(run=run.id, method="geotoken", model="f")
    Write(run.output, stamp, StoreConfig())(piece(0, Select(None, None, calibration)(rows)))
    run.finish(plan)
    with (folder / f"truth{seed}.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("image_id", "latitude", "longitude"), *zip(names, latitude, longitude, strict=True)][: images - 9]
        )
    return str(folder / f"places{seed}"), str(folder / f"truth{seed}.csv")


def model_of(folder: Path, method: str = "geotoken") -> Path:
    folder.mkdir()
    (folder / "geobatch.json").write_text(json.dumps({"method": method}))
    return folder


def test_a_table_calibrates_its_model_and_the_next_one_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(tmp_path / "model")
    places, truth = written(tmp_path, 1, 500)
    fitted = calibrate(Calibrate(places=places, truth=truth, model=str(model)))
    assert fitted == Calibration.load(model) and fitted.images == 490
    assert f"{FILE}: fitted to 490 images placed by expected_share; expected calibration error" in capsys.readouterr().out
    places, truth = written(tmp_path, 2, 1500, fitted)
    found = evaluate_places(
        Evaluate(places=places, truth=truth, model=str(model), output=str(tmp_path / "out"), bootstrap=200, analyses=())
    )
    for name in ("latitude", "longitude"):
        assert np.isfinite(getattr(found, name)).all()
    assert np.array_equal(found.distances["expected share"], found.distances["chosen"])
    assert found.calibration[1].error < 0.06 and found.calibration[1].log_loss < found.calibration[1].constant_loss
    assert {one.name for one in found.coverage} == {"radius_90_km", "area"}
    assert 0.86 < found.coverage[0].held.value < 0.94
    assert found.chosen_by == {"expected_share": 1490} and not found.fallbacks
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("evaluation.json", "failed.csv", "run.png", "reliability.png")
    }
    without = evaluate_places(Evaluate(places=places, truth=truth, bootstrap=200, analyses=()))
    assert not np.array_equal(without.distances["expected share"], found.distances["expected share"])


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    places, truth = written(tmp_path, 3, 60)
    with pytest.raises(UserError, match=r"no folder of this machine.*copy the model here"):
        calibrate(Calibrate(places=places, truth=truth, model="s3://bucket/model"))
    with pytest.raises(UserError, match="names another method"):
        calibrate(Calibrate(places=places, truth=truth, model=str(model_of(tmp_path / "other", "geolocsft"))))
    model = model_of(tmp_path / "model")
    with pytest.raises(UserError, match="50 located images"):
        calibrate(Calibrate(places=places, truth=truth, model=str(model)))
    assert not (model / FILE).exists()
