"""What tests of several rooms stand on: an S3 server, a tiny language model behind vLLM, and the real data where there is any.

The server is moto's, in a process of its own: there it honours conditional writes, and cannot deadlock with pyarrow.
"""

from __future__ import annotations

import importlib.util
import os

# Before anything imports torch or numpy: networks of these sizes are faster on one thread, many times so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from geobatch.store import StoreConfig
from geobatch.store.s3 import S3
from tests.store.proxy import FaultyProxy

if TYPE_CHECKING:
    from geobatch.engine.generator import Generator


# A busy machine is no counterexample; pytest's own timeout ends what hangs.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

#: Modules that look at one and the same undisturbed run, a minute of two cores: one process tests them all.
TOGETHER = {"tests/river/test_geolocate.py": "first", "tests/river/test_kills.py": "first"}


class Modules(LoadFileScheduling):
    """A module's tests stay in one process, and so do those of modules that share a run."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """See `Modules`."""
    return Modules(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs, the longest tests, come first, so that two test processes end at the same time."""
    items.sort(key=lambda item: "tests/river/" not in item.nodeid)


#: Ray's workers listen here.
RAY_PORTS = range(10002, 20000)


def free_port() -> int:
    """A port on loopback that nobody listens on, outside of Ray's."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in RAY_PORTS:
            return port


@dataclass
class S3Server:
    """A running S3 server."""

    endpoint: str

    @cached_property
    def _s3(self) -> S3:  # making a client costs 0.4 s
        return S3(self.config())

    def config(self, **settings: object) -> StoreConfig:
        """How to reach it, waiting little between attempts."""
        return StoreConfig(**{"endpoint": self.endpoint, "region": "us-east-1", "backoff": 0.01, **settings})  # type: ignore[arg-type]

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self._s3._client().create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """moto's S3 server for the session, and credentials for it in the environment."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        try:
            _await(server, port)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait(10)


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"moto's server ended with status {server.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("moto's server did not answer within a minute")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    """A proxy in front of the session's S3 server."""
    made = FaultyProxy(s3.endpoint)
    yield made
    made.close()


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data that GEOBATCH_REALDATA names."""
    folder = os.environ.get("GEOBATCH_REALDATA")
    if not folder:
        pytest.skip("GEOBATCH_REALDATA is unset: the real data is not here")
    return Path(folder)


@pytest.fixture(scope="session")
def vllm_there() -> None:
    """vLLM must really run: without it tests are skipped, with the reason, and fail where GEOBATCH_REQUIRE_VLLM=1, as in CI."""
    if importlib.util.find_spec("vllm") is None:
        assert os.environ.get("GEOBATCH_REQUIRE_VLLM") != "1", "vLLM is not installed; see .lock/install_vllm.py"
        pytest.skip("vLLM is not installed: multimodal LLMs are tested on transformers alone")


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Gemma 3 with random weights."""
    from tests.engine import tiny

    return tiny.gemma3(tmp_path_factory.mktemp("gemma") / "model", sharpness=6)


@pytest.fixture(scope="session")
def served(vllm_there: None, gemma: Path) -> Iterator[Generator]:
    """It behind vLLM, started once for all tests: an engine takes 25 to 70 s to start."""
    from geobatch.engine.opening import serve
    from tests.engine import tiny

    made = serve(str(gemma), tiny.CONFIG)
    yield made
    made.close()
