"""Real photographs and really broken files, made by others, through the jobs as users run them."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from geobatch.pipeline.folder import CARD
from geobatch.sink import read
from tests.river.conftest import Tiny
from tests.river.hostile_format import BLOAT, KILL, STALL
from tests.river.job import Ended, run_job

FOLDERS = ("hostile", "odd_valid", "exif_edge", "geotagged_photos")


def located(archive: Path, output: Path, model: Path, *more: str) -> tuple[Ended, dict[str, dict[str, object]]]:
    ended = run_job("--archive", str(archive), "--output", str(output), "--model", str(model), *more, weigh=True)
    assert ended.status == 0, ended.output
    assert "ended early" not in ended.output, ended.output  # no worker died and was not replaced
    table = read(str(output))
    found = {row["image_id"]: row for row in table.to_pylist()}
    assert len(found) == len(table)
    return ended, found


def stated(realdata: Path) -> dict[str, tuple[float, float]]:
    """Where each geotagged photograph says it was taken, by its name."""
    return {
        Path(row["file"]).name: (float(row["lat"]), float(row["lon"]))
        for row in csv.DictReader((realdata / "CATALOGUE.csv").read_text().splitlines())
        if row["file"].startswith("geotagged_photos/")
    }


def as_stated(rows: dict[str, dict[str, object]], truth: dict[str, tuple[float, float]]) -> bool:
    return all(
        (row["exif_latitude"], row["exif_longitude"]) == pytest.approx(truth[Path(name).name], abs=1e-6)
        for name, row in rows.items()
    )


@pytest.mark.timeout(600)
def test_every_broken_odd_and_sound_file_is_a_row(realdata: Path, tiny: Tiny, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in FOLDERS:
        (archive / name).symlink_to(realdata / name)
    files = [Path(folder) / name for folder, _, names in os.walk(archive, followlinks=True) for name in names]
    ended, rows = located(archive, tmp_path / "out", tiny.model, "--include", "*", "--decode.deadline-s", "30")
    assert len(rows) == len(files) >= 1100
    reasons = Counter(row["reason"] for row in rows.values())
    assert not {"crashed", "timeout", "failed"} & set(reasons), reasons
    hostile = [row for name, row in rows.items() if "/hostile/" in name]
    assert sum(row["status"] == "rejected" for row in hostile) >= 0.98 * len(hostile)
    odd = [row for name, row in rows.items() if "/odd_valid/" in name]
    assert sum(row["status"] == "placed" for row in odd) >= 0.95 * len(odd)
    sound = {name: row for name, row in rows.items() if "/geotagged_photos/" in name}
    assert len(sound) == 66 and {row["status"] for row in sound.values()} == {"placed"} and as_stated(sound, stated(realdata))
    print(f"{len(files)} files, peak {ended.peak_bytes / 2**30:.2f} GiB, {ended.seconds:.0f} s, {dict(reasons)}")
    assert ended.peak_bytes < 8 << 30


@pytest.mark.torture  # images that kill and stall, in one night, are in test_nightly
@pytest.mark.timeout(300)
def test_files_that_kill_stall_or_bloat_their_decoder_are_one_rejection_each(tiny: Tiny, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(tiny.archive / "loose", archive)
    for path in archive.iterdir():
        if path.name[0] not in "0123" or not path.name[0].isdigit():
            path.unlink()
    good = {path.name for path in archive.iterdir()}
    bad = {"1kill.jpg": KILL, "1stall.jpg": STALL, "2bloat.jpg": BLOAT}
    for name, content in bad.items():
        (archive / name).write_bytes(content)
    _, rows = located(
        archive, tmp_path / "out", tiny.model,
        *("--decode.plugins", "tests.river.hostile_format", "--decode.deadline-s", "8"),
        *("--decode.memory-bytes", str(600 << 20)),
    )  # fmt: skip
    named = {Path(name).name: row for name, row in rows.items()}
    assert set(named) == good | set(bad)
    assert {name: named[name]["reason"] for name in bad} == {
        "1kill.jpg": "crashed", "1stall.jpg": "timeout", "2bloat.jpg": "out_of_memory"
    }  # fmt: skip
    for name in good:
        assert named[name]["status"] == "placed", named[name]


@pytest.fixture(scope="module")
def halves(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The geotagged photographs, every second one to learn from, the others to locate."""
    folder = tmp_path_factory.mktemp("photos")
    for side in ("known", "new"):
        (folder / side).mkdir()
    for number, path in enumerate(sorted((realdata / "geotagged_photos").iterdir())):
        (folder / ("new" if number % 2 else "known") / path.name).symlink_to(path)
    return folder


@pytest.mark.torture  # four jobs, four minutes of two cores; `make demo` is the same from end to end, on the embedded world
@pytest.mark.timeout(900)
def test_real_photographs_end_to_end(realdata: Path, halves: Path) -> None:
    encoder = str(realdata / "weights/hf_mobilenet_v1_0.25_224")
    known, gallery, model = (str(halves / name) for name in ("known", "gallery", "model"))
    shared = ("--archive", known, "--encoder", encoder)
    built = run_job(*shared, "--output", gallery, job="build_gallery")
    assert built.status == 0, built.output
    trained = run_job(
        *(*shared, "--gallery", gallery, "--output", model, "--preset", "small"),
        *("--steps", "6", "--batch", "16", "--validation", "0", "--loop.workers", "2"),
        job="geotoken_train",
    )
    assert trained.status == 0, trained.output
    assert json.loads((halves / "model" / CARD).read_text())["images"] == 33
    _, rows = located(halves / "new", halves / "located", halves / "model")
    assert len(rows) == 33 and {row["status"] for row in rows.values()} == {"placed"}
    assert as_stated(rows, stated(realdata))
    assert all(len(row["neighbours"]) >= 5 and row["candidates"] for row in rows.values())
    judged = run_job("--places", str(halves / "located"), job="evaluate")
    assert judged.status == 0 and "33 judged" in judged.output, judged.output
