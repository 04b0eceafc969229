"""Archives change between runs: what is new is located, what changed is replaced, what is the same is left alone."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from geobatch.benchmark.deposit import write_tar
from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.conftest import Tiny, arguments, upload
from tests.river.job import run_job, said
from tests.river.test_geolocate import places


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


@pytest.mark.torture  # four jobs; random histories without Ray (tests/sink/test_histories.py) know every such night
@pytest.mark.timeout(600)
def test_overwritten_objects_and_tars_are_located_anew(
    tiny: Tiny, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, store = s3.bucket(), Store(s3.config())
    loose = sorted((tiny.archive / "loose").glob("*.jpg"))[:40]
    tar = sorted((tiny.archive / "shards").glob("0*.tar"))[0]
    prefix = f"s3://{bucket}/archive"
    for path in loose[:30]:
        store.put(f"{prefix}/{path.name}", path.read_bytes())
    store.put(f"{prefix}/a.tar", tar.read_bytes())
    upload(tiny.folder / "model", f"s3://{bucket}/models/model", s3.config())  # the same model, in a bucket
    upload(tiny.folder / "gallery", f"s3://{bucket}/models/gallery", s3.config())
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))
    first = run_job(*arguments(bucket, "out", tiny, s3), "--model", f"s3://{bucket}/models/model")
    assert first.status == 0, first.output
    before = {row["image_id"]: row for row in places(bucket, "out", s3).to_pylist()}
    assert len(before) == 30 + 100
    # Between the runs: one object gets other bytes, one is broken, ten are new, the tar loses half and gains one.
    store.put(f"{prefix}/{loose[0].name}", loose[39].read_bytes())
    store.put(f"{prefix}/{loose[1].name}", b"no longer an image")
    for path in loose[30:39]:
        store.put(f"{prefix}/{path.name}", path.read_bytes())
    kept = members(tar)
    write_tar(tmp_path / "a.tar", [*kept[:50], ("new.jpg", loose[39].read_bytes())])
    store.put(f"{prefix}/a.tar", (tmp_path / "a.tar").read_bytes())
    second = run_job(*arguments(bucket, "out", tiny, s3))
    assert second.status == 0, second.output
    after = {row["image_id"]: row for row in places(bucket, "out", s3).to_pylist()}
    names = [f"{prefix}/{path.name}" for path in loose[:39]]
    assert set(after) == {*names, *(f"{prefix}/a.tar#{name}" for name, _ in kept[:50]), f"{prefix}/a.tar#new.jpg"}
    changed = {name for name in after if name not in before or after[name]["run"] != before[name]["run"]}
    assert changed == {names[0], names[1], *names[30:], *(name for name in after if "a.tar#" in name)}
    assert after[names[0]]["sha256"] != before[names[0]]["sha256"]
    assert (after[names[1]]["status"], after[names[1]]["reason"]) == ("rejected", "not_an_image")
    for name in names[2:30]:
        assert after[name] == before[name]
    done = json.loads(store.get(f"s3://{bucket}/out/runs/000002/done.json"))
    assert (done["read"], done["known"]) == (2 + 9 + 51, 28)
    refused = said(*arguments(bucket, "out", tiny, s3), "--geotoken.sampling.seed", "7")
    assert refused.status == 2 and refused.output.count("\n") == 1 and "--relocate" in refused.output, refused.output


def test_bad_arguments_are_one_line(tiny: Tiny, s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.bucket()
    good = arguments(bucket, "out", tiny, s3)
    for wrong in (
        [*good, "--model", str(tmp_path)],
        [*good, "--gallery", str(tmp_path / "none")],
        [*good, "--method", "guess"],
        [*good, "--decode.side", "0"],
        [*good, "--output", f"s3://{bucket}/archive/out"],
        [*good, "--archive", f"s3://{bucket}/nothing"],
        [*good, "--archive", "s3://no-such-bucket/x"],
    ):
        ended = said(*wrong)
        assert ended.status == 2, ended.output
        assert ended.output.startswith("error: ") and ended.output.count("\n") == 1, ended.output
    assert not Store(s3.config()).exists(f"s3://{bucket}/out/runs/000001/run.json")
