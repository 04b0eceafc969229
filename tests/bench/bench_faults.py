"""What faults of a store cost: GETs while a share of them fails, from a store that takes only so many, and a deadline's price.

All of it goes through the tests' proxy to moto's server, whose own 3 ms or so of a core a request are part of every figure.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

from geobatch.store import Store, StoreConfig
from geobatch.store.pace import Pace
from geobatch.store.session import Session
from tests.conftest import _await, free_port
from tests.store.proxy import FaultyProxy, mixture

#: Objects of 50 KB that are fetched, and requests a second that a small store takes.
OBJECTS, LIMIT = 300, 40.0

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


def run() -> list[dict[str, object]]:
    """Rows for `python -m tests.bench`."""
    with mock.patch.dict("os.environ", KEYS), _served() as (proxy, direct):
        uris = [f"s3://bench/{number}" for number in range(OBJECTS)]
        direct._s3._client().create_bucket(Bucket="bench")
        for uri in uris:
            direct.put(uri, bytes(50_000))
        return [_faulty(proxy, uris), _limited(proxy, uris), _deadline(direct, uris[0])]


@contextmanager
def _served() -> Iterator[tuple[FaultyProxy, Store]]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(server, port)
        endpoint = f"http://127.0.0.1:{port}"
        proxy = FaultyProxy(endpoint, seed=1)
        try:
            yield proxy, Store(StoreConfig(endpoint=endpoint, region="us-east-1"))
        finally:
            proxy.close()
    finally:
        server.terminate()
        server.wait(10)


def _fetch(proxy: FaultyProxy, uris: list[str]) -> float:
    """Seconds for all of them; every one must come whole."""
    store = Store(StoreConfig(endpoint=proxy.endpoint, region="us-east-1", read_timeout=2.0))
    store._s3._client()
    began = time.perf_counter()
    assert all(isinstance(body, bytes) and len(body) == 50_000 for body in store.get_many(uris))
    return time.perf_counter() - began


def _faulty(proxy: FaultyProxy, uris: list[str]) -> dict[str, object]:
    spent: dict[float, list[float]] = {0.0: [], 0.05: [], 0.2: []}
    for _ in range(3):
        for share, seconds in spent.items():
            proxy.rates = mixture(share)
            seconds.append(_fetch(proxy, uris))
    proxy.rates = {}
    quiet, some, many = (statistics.median(seconds) for seconds in spent.values())
    return {
        "name": "GETs while 5 % of all requests fail",
        "rival": "the same without faults",
        "ratio": quiet / some,
        "measured": f"{OBJECTS} objects of 50 KB by 32 threads: {quiet:.1f} s quiet, {some:.1f} s at 5 %, {many:.1f} s at 20 %",
    }


def _limited(proxy: FaultyProxy, uris: list[str]) -> dict[str, object]:
    """One pace for all threads against each thread for itself, from a store that says SlowDown."""
    proxy.limit = LIMIT
    made: dict[str, list[tuple[int, float]]] = {"alone": [], "paced": []}
    for _ in range(2):
        for name, told in made.items():
            time.sleep(1.1)  # the store forgets what it was asked
            proxy.requests.clear()
            with mock.patch.object(Pace, "_adapt") if name == "alone" else nullcontext():
                seconds = _fetch(proxy, uris)
            told.append((len(proxy.requests), seconds))
    proxy.limit = None
    (alone, slow), (paced, fast) = (tuple(map(statistics.median, zip(*told, strict=True))) for told in made.values())
    return {
        "name": f"GETs from a store of {LIMIT:.0f} requests a second",
        "rival": "each thread waits for itself",
        "ratio": alone / paced,
        "measured": f"{OBJECTS} objects took {paced:.0f} requests in {fast:.1f} s, {alone:.0f} in {slow:.1f} s without a pace",
    }


def _deadline(store: Store, uri: str) -> dict[str, object]:
    """GETs one after another, with a deadline for each in all and without."""
    spent: dict[str, list[float]] = {"watched": [], "plain": []}
    for _ in range(7):
        for name, seconds in spent.items():
            with mock.patch.object(Session, "within", lambda *_: nullcontext()) if name == "plain" else nullcontext():
                began = time.process_time()
                for _ in range(100):
                    store.get(uri)
                seconds.append((time.process_time() - began) / 100)
    watched, plain = (statistics.median(seconds) for seconds in spent.values())
    return {
        "name": "GETs that have a deadline in all",
        "rival": "a timeout of each read alone",
        "ratio": plain / watched,
        "measured": f"{watched * 1e6:.0f} µs of a core a request, {plain * 1e6:.0f} without",
    }


if __name__ == "__main__":
    for row in run():
        print(row)
