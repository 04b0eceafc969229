"""Both stores of a job are asked before anything is started, each as its own flags say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geobatch.errors import UserError
from geobatch.pipeline.reach import proofs, reached
from geobatch.store import NoBucket, Store, StoreConfig, StoreOverride
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job says about its stores."""

    archive: str
    output: str
    store: StoreConfig = field(default_factory=StoreConfig)
    archive_store: StoreOverride = field(default_factory=StoreOverride)
    output_store: StoreOverride = field(default_factory=StoreOverride)


def test_what_is_named_for_one_of_them_holds_for_it_alone(s3: S3Server, proxy: FaultyProxy) -> None:
    bucket = s3.bucket()
    job = Job(
        archive=f"s3://{bucket}/a",
        output=f"s3://{bucket}/out",
        store=s3.config(),
        archive_store=StoreOverride(endpoint=proxy.endpoint, requester_pays=True),
        output_store=StoreOverride(kms_key="default"),
    )
    reach = reached(job)
    assert reach.archive == s3.config(endpoint=proxy.endpoint, requester_pays=True)
    assert reach.output == s3.config(kms_key="default")
    assert len(proxy.requests) == 1, "one page of the archive, and nothing of the output"


def test_folders_are_not_asked(tmp_path: Path) -> None:
    job = Job(archive=str(tmp_path / "none"), output=str(tmp_path / "out"))
    assert reached(job).archive == StoreConfig() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("side", ["archive", "output"])
def test_what_must_be_put_right_is_said_of_the_one_it_is_wrong_with(s3: S3Server, tmp_path: Path, side: str) -> None:
    wrong = {"archive": str(tmp_path), "output": str(tmp_path / "out"), side: "s3://no-such-bucket/x"}
    with pytest.raises(NoBucket, match="no-such-bucket"):
        reached(Job(**wrong, store=s3.config()))
    with pytest.raises(UserError, match=f"no usable AWS credentials for {wrong[side]}"):
        reached(Job(**wrong, store=s3.config(), **{f"{side}_store": StoreOverride(profile="nobody")}))  # type: ignore[arg-type]


def test_a_row_that_is_no_uri_proves_nothing_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    uris = ["https://host/x.jpg", "s3://", f"file://{tmp_path}/a.jpg"]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "plan.parquet")
    task = pa.table({"plan": [f"{tmp_path}/plan.parquet"], "group": [0]})
    assert proofs(Store(), Store(), [task]) == (uris[-1],)
