"""Heads that fall silent, die and are replaced, as a submission meets them: an HTTP server in their place, Ray's own client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import ray

from geobatch.access import settle_mode
from geobatch.errors import MachineError, UserError
from geobatch.pipeline import submit as submitting
from geobatch.pipeline.submit import Head, Submit, submit

ENDLESS = 1 << 30


class Cluster:
    """A head that takes jobs. Each job ends well after `looks` looks at it; the faults are what happens meanwhile.

    Fields:
        jobs: looks at each job so far.
        taken: names of all jobs it ever took.
        silent: so many requests get no answer.
        lost: so many replies to a submission go astray.
        replaced: asked at each look at a job; True: the head is a new one, which knows none.
    """

    def __init__(self, looks: int = 3) -> None:
        self.looks, self.silent, self.lost = looks, 0, 0
        self.jobs: dict[str, int] = {}
        self.taken: list[str] = []
        self.replaced: Callable[[], bool] = lambda: False
        self.open()

    def open(self, port: int = 0) -> None:
        """Listens, at this port if one is given."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                cluster.answer(self, None)

            def do_POST(self) -> None:
                cluster.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        self.ended = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        """Refuses connections from now on."""
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler, asked: dict[str, Any] | None) -> None:
        if self.silent:
            self.silent -= 1
            self.ended.wait(20)
            return
        status, told = self.told(request.path.strip("/").split("/")[1:], asked)
        if asked is not None and self.lost:
            self.lost -= 1
            return  # the connection ends without a word
        body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def told(self, path: list[str], asked: dict[str, Any] | None) -> tuple[int, Any]:
        """Status and body, as Ray 2.60 answers."""
        if path == ["version"]:
            return 200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "c"}
        if asked is not None:
            return self.take(asked["submission_id"])
        if len(path) == 1:
            return 200, [self.about(name) for name in self.jobs]
        if self.replaced():
            self.jobs.clear()
        if path[1] not in self.jobs:
            return 404, f"Job {path[1]} does not exist"
        if path[2:] == ["logs"]:
            return 200, {"logs": "at work\n"}
        self.jobs[path[1]] += 1
        return 200, self.about(path[1])

    def take(self, name: str) -> tuple[int, Any]:
        if name in self.jobs:
            return 500, f"Job with submission_id {name} already exists. Please use a different submission_id."
        self.jobs[name] = 0
        self.taken.append(name)
        return 200, {"job_id": name, "submission_id": name}

    def about(self, name: str) -> dict[str, Any]:
        status = "SUCCEEDED" if self.jobs[name] >= self.looks else "RUNNING"
        return {"type": "SUBMISSION", "submission_id": name, "status": status, "entrypoint": "job"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head, asked by somebody with little patience."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name, seconds in (("LOOK", 0.02), ("ANSWER", 0.3), ("PATIENCE", 1.0)):
        monkeypatch.setattr(submitting, name, seconds)
    made = Cluster()
    yield made
    made.close()
    settle_mode(joins=False)


def config(cluster: Cluster, **more: Any) -> Submit:
    return Submit(address=cluster.address, name="night", date="2026-11-21", wait=0.0, **more)


def test_a_head_that_is_replaced_has_the_job_tried_again(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    looks = iter([False, True])
    cluster.replaced = lambda: next(looks, False)
    assert submit(config(cluster), ["job"]) == 0
    said = capsys.readouterr().out
    assert "knows nothing of night-2026-11-21-a1 any more: its head was replaced" in said
    assert said.count("submitted") == 2 and "ended with status 1" in said and said.rstrip().endswith("ended with status 0")
    assert cluster.taken == ["night-2026-11-21-a1"] * 2  # the new head has never heard of the first


def test_heads_that_never_last_end_with_the_machines_status(cluster: Cluster) -> None:
    cluster.replaced = lambda: True
    assert submit(config(cluster, attempts=2), ["job"]) == 1
    assert len(cluster.taken) == 2


def test_a_head_that_says_nothing_for_a_while_is_waited_for(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    head = Head(cluster.address)
    head.submit("x", ["job"], None)
    cluster.silent = 2
    assert head.follow("x") == 0
    assert "at work" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["silent", "dead"])
def test_a_head_that_says_nothing_any_more_is_given_up_in_one_line(cluster: Cluster, fault: str) -> None:
    head = Head(cluster.address)
    head.submit("x", ["job"], None)
    if fault == "silent":
        cluster.silent = ENDLESS
    else:
        cluster.close()
    began = time.monotonic()
    with pytest.raises(MachineError, match=r"has not answered for 1 s .* the same command follows it or takes it up") as raised:
        head.follow("x")
    assert 1.0 <= time.monotonic() - began < 10.0 and "\n" not in str(raised.value)
    if fault == "dead":
        cluster.open()  # for the fixture to close


def test_a_head_that_comes_back_at_its_address_is_another(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    head, port = Head(cluster.address), cluster.server.server_port
    head.submit("x", ["job"], None)
    cluster.close()
    cluster.jobs.clear()
    back = threading.Timer(0.3, cluster.open, (port,))
    back.start()
    assert head.follow("x") == 1
    back.join()
    assert "knows nothing of x any more" in capsys.readouterr().out


def test_a_reply_that_went_astray_is_no_second_job(cluster: Cluster) -> None:
    head = Head(cluster.address)
    cluster.lost = 1
    assert head.submit("x", ["job"], None) == "x" and cluster.taken == ["x"]
    with pytest.raises(UserError, match="submitted by somebody else this moment"):
        head.submit("x", ["job"], None)


def test_who_asks_a_new_head_for_a_job_of_the_last_one_is_told_so(cluster: Cluster) -> None:
    with pytest.raises(MachineError, match="its head was replaced; run the same command again"):
        Head(cluster.address).entrypoint("gone")


def test_what_is_no_head_is_said_in_one_line(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.silent = ENDLESS
    with pytest.raises(MachineError, match=r"takes connections and did not answer for 0 s; .* run the same command again"):
        Head(cluster.address)
    cluster.silent = 0
    for answer in ((404, "no such page"), (200, "<html>"), (200, {})):
        monkeypatch.setattr(cluster, "told", lambda *_, answer=answer: answer)
        with pytest.raises(UserError, match=r"is no Ray head .*; give --address its dashboard, such as") as raised:
            Head(cluster.address)
        assert "\n" not in str(raised.value)
