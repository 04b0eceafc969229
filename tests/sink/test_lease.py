"""Who may work at an output, on a disk and in a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from geobatch.errors import MachineError, UserError
from geobatch.sink import lease as leases
from geobatch.sink.lease import Lease
from geobatch.store import Store, StoreConfig, join
from tests.conftest import S3Server

#: Takes a lease, says so, and lives until it is killed.
HOLDER = """
import sys, time
from geobatch.sink.lease import Lease
from geobatch.store import Store, StoreConfig
with Lease(Store(StoreConfig(endpoint=sys.argv[2] or None)), sys.argv[1], "tonight", 0.2, 1.5):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["disk", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, str, str]:
    """A store, an output, and the endpoint."""
    if request.param == "disk":
        return Store(), str(tmp_path / "out"), ""
    s3: S3Server = request.getfixturevalue("s3")
    return Store(s3.config()), f"s3://{s3.bucket()}/out", str(s3.config().endpoint)


def quick(store: Store, output: str, ttl: float = 1.5) -> Lease:
    return Lease(store, output, "a test", 0.2, ttl)


def record(store: Store, output: str, number: int) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.get(join(output, "lease", f"{number}.json")))
    return found


def test_one_after_the_other(where: tuple[Store, str, str]) -> None:
    store, output, _ = where
    for number in (1, 2, 3):
        with quick(store, output) as held:
            held.check()
            assert not record(store, output, number)["released"]
        assert record(store, output, number)["released"]
    assert sum(len(page) for page in store.objects(join(output, "lease"))) <= 2


def test_the_second_is_told_who_holds_it(where: tuple[Store, str, str]) -> None:
    store, output, endpoint = where
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, output, endpoint], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"process {holder.pid} on .*tonight.*wait for that run"), quick(store, output):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        begun = time.monotonic()
        with quick(store, output, ttl=60):  # its process is gone from this machine: nobody waits
            assert time.monotonic() - begun < 20
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def silent(store: Store, output: str, **about: object) -> None:
    """A lease of a machine that is not this one."""
    told = {"host": "elsewhere", "boot": "x", "pid": 1, "born": "2", "who": "", "renewed": "then", "at": time.time()}
    store.put(join(output, "lease", "7.json"), json.dumps({**told, "released": False, **about}).encode())


def test_a_silent_holder_elsewhere_is_waited_for(where: tuple[Store, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    store, output, _ = where
    silent(store, output)
    begun = time.monotonic()
    with quick(store, output):
        assert time.monotonic() - begun >= 1.5
        assert not record(store, output, 8)["released"]
    assert "silent" in "".join(capsys.readouterr())


def test_a_holder_of_yesterday_is_not(tmp_path: Path) -> None:
    silent(Store(), str(tmp_path), at=time.time() - 3600)
    begun = time.monotonic()
    with quick(Store(), str(tmp_path), ttl=60):
        assert time.monotonic() - begun < 20


def test_a_holder_that_ends_while_it_is_watched(tmp_path: Path) -> None:
    silent(Store(), str(tmp_path))
    later = threading.Timer(0.5, lambda: silent(Store(), str(tmp_path), released=True))
    later.start()
    with quick(Store(), str(tmp_path), ttl=60):
        pass
    later.join()


def test_who_slept_too_long_is_told(where: tuple[Store, str, str]) -> None:
    store, output, _ = where
    with quick(store, output) as first:
        store.put(join(output, "lease", "2.json"), store.get(join(output, "lease", "1.json")))
        until = time.monotonic() + 20
        while time.monotonic() < until:
            time.sleep(0.1)
            try:
                first.check()
            except MachineError as error:
                assert "taken over" in str(error)
                break
        else:
            pytest.fail("nobody noticed")
    assert not record(store, output, 2)["released"]  # what is another's is not given back


def test_of_many_at_once_one_gets_it(where: tuple[Store, str, str]) -> None:
    _, output, endpoint = where
    said: list[str] = []
    entered, leave = threading.Semaphore(0), threading.Event()

    def claim() -> None:
        try:
            with quick(Store(StoreConfig(endpoint=endpoint or None)), output):
                said.append("held")
                entered.release()
                leave.wait(30)
        except UserError as error:
            said.append(str(error))
            entered.release()

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert entered.acquire(timeout=30)
    leave.set()
    for thread in threads:
        thread.join()
    assert said.count("held") == 1 and sum("being worked on" in each for each in said) == 5


def test_what_is_no_lease(tmp_path: Path) -> None:
    Store().put(str(tmp_path / "lease/1.json"), b"{")
    with pytest.raises(UserError, match="delete it"), quick(Store(), str(tmp_path)):
        pass


def test_a_store_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quick(Store(), str(tmp_path)) as held:
        failed = threading.Event()

        def fails(*_: object) -> None:
            failed.set()
            raise MachineError("no answer")

        monkeypatch.setattr(held.store, "put", fails)
        assert failed.wait(10)
        time.sleep(0.3)
        held.check()
    assert held._thread.is_alive() is False


@pytest.mark.parametrize("odd", [{}, {"host": 1}, {"pid": "x" * 3, "host": "elsewhere"}])
def test_records_that_say_little(tmp_path: Path, odd: dict[str, object]) -> None:
    Store().put(str(tmp_path / "lease/3.json"), json.dumps(odd).encode())
    with quick(Store(), str(tmp_path)) as held:
        held.check()


def test_a_number_used_again_is_another_process() -> None:
    ours = leases._this_process()
    assert not leases._gone(ours)
    assert leases._gone({**ours, "born": "1"}) and leases._gone({**ours, "pid": 2**22 + os.getpid() % 7})
    assert not leases._gone({**ours, "host": "elsewhere", "born": "1"}) and not leases._gone({**ours, "boot": "x", "born": "1"})


def test_the_numbers_of_another_container_say_nothing_here() -> None:
    """Same host name (Kubernetes gives it to all that share a host's network), same kernel, numbers of their own."""
    gone = {**leases._this_process(), "born": "1"}
    assert leases._gone(gone)
    assert not leases._gone({**gone, "space": "pid:[1]"})
    assert not leases._gone({name: value for name, value in gone.items() if name != "space"})  # by an older release
