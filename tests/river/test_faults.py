"""The main job through a store that fails: a share of all requests meets an error, a reset, a cut, late or silent answer.

What comes out must be what the quiet run gave, row for row; objects that never can be read are rejections and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from geobatch.store import Store
from tests.conftest import S3Server
from tests.river.conftest import Tiny, arguments
from tests.river.job import Ended, run_job, said
from tests.river.test_geolocate import places
from tests.river.test_kills import rows
from tests.store.proxy import FaultyProxy, mixture

#: Little patience, so that what is silent is found out soon.
BRIEF = ("--store.backoff", "0.02", "--store.read-timeout", "2", "--store.request-timeout", "10")


@pytest.fixture(scope="module")
def faulty(s3: S3Server) -> Iterator[FaultyProxy]:
    """A proxy in front of the session's S3 server that lasts as long as a job."""
    made = FaultyProxy(s3.endpoint, seed=6)
    yield made
    made.close()


def through(proxy: FaultyProxy, bucket: str, output: str, tiny: Tiny, s3: S3Server) -> Ended:
    """The main job behind the proxy."""
    proxy.requests.clear()
    proxy.met.clear()
    return run_job(*arguments(bucket, output, tiny, s3), "--store.endpoint", proxy.endpoint, *BRIEF)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_fifth_of_all_requests_fails_and_no_image_is_lost(
    bucket: str, tiny: Tiny, s3: S3Server, first: Ended, faulty: FaultyProxy
) -> None:
    loose = sorted(path.name for path in (tiny.archive / "loose").glob("*.jpg"))[10:13]
    spoiled = dict(zip(loose, ("500", "cut", "403"), strict=True))
    faulty.rates = mixture(0.2)
    faulty.spoiled = {rf"^GET /{bucket}/archive/loose/{name}$": fault for name, fault in spoiled.items()}
    ended = through(faulty, bucket, "faults", tiny, s3)
    assert ended.status == 0, ended.output
    met = {fault: count for fault, count in faulty.met.items() if fault}
    print(f"{sum(met.values())} of {len(faulty.requests)} requests failed, {met}")
    print(f"{ended.seconds:.1f} s, {first.seconds:.1f} s quiet")
    assert sum(met.values()) > 0.15 * len(faulty.requests) and len(met) >= len(mixture(1.0))
    expected, found = rows(places(bucket, "first", s3)), rows(places(bucket, "faults", s3))
    lost = {f"s3://{bucket}/archive/loose/{name}" for name in spoiled}
    assert {name: (found[name]["stage"], found[name]["reason"]) for name in lost} == dict.fromkeys(lost, ("read", "unreadable"))
    assert {name: row for name, row in found.items() if name not in lost} == {
        name: row for name, row in expected.items() if name not in lost
    }
    done = json.loads(Store(s3.config()).get(f"s3://{bucket}/faults/runs/000001/done.json"))
    assert done["read"] == done["placed"] + done["rejected"] == len(tiny.names)
    assert done["reasons"]["unreadable"] == 3


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_one_fault_in_twenty_takes_no_more_than_twice_as_long(
    bucket: str, tiny: Tiny, s3: S3Server, faulty: FaultyProxy
) -> None:
    """Quiet runs pass through the same proxy, which itself takes time; alternating, the medians count."""
    seconds: dict[float, list[float]] = {0.0: [], 0.05: []}
    faulty.spoiled, quiet = {}, None
    for trial in range(3):
        for share, spent in seconds.items():
            faulty.rates = mixture(share)
            output = f"trial-{trial}-{share}"
            ended = through(faulty, bucket, output, tiny, s3)
            assert ended.status == 0, ended.output
            spent.append(ended.seconds)
            found = rows(places(bucket, output, s3))
            quiet = found if quiet is None else quiet
            assert found == quiet
        failed = sum(count for fault, count in faulty.met.items() if fault)
        print(f"trial {trial}: {failed} of {len(faulty.requests)} requests failed; {seconds}", flush=True)
    ratio = sorted(seconds[0.05])[1] / sorted(seconds[0.0])[1]
    print(f"at 5 % of faults a run takes {ratio:.2f} times as long as a quiet one")
    assert ratio < 2


def test_wrong_credentials_are_one_line_before_any_work(bucket: str, tiny: Tiny, s3: S3Server, faulty: FaultyProxy) -> None:
    """Also where only one of the two stores rejects them; and the other's flags do not help it."""
    faulty.rates, faulty.spoiled = {}, {}
    faulty.check = lambda _: (403, "InvalidAccessKeyId")
    try:
        for side in ("archive", "output"):
            ended = said(*arguments(bucket, "denied", tiny, s3), f"--{side}-store.endpoint", faulty.endpoint)
            assert ended.status == 2 and ended.output.count("\n") == 1, ended.output
            assert f"s3://{bucket}/{'archive' if side == 'archive' else 'denied'}" in ended.output
            assert "InvalidAccessKeyId" in ended.output and "renew them" in ended.output
            ended = said(*arguments(bucket, "denied", tiny, s3), f"--{side}-store.profile", "nobody")
            assert ended.status == 2 and "no usable AWS credentials" in ended.output, ended.output
    finally:
        faulty.check = lambda _: None
    assert [list(page) for page in Store(s3.config()).objects(f"s3://{bucket}/denied")] == [[]]
