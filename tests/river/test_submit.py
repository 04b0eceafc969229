"""Jobs submitted to a cluster: their exit statuses, how they are stopped, followed, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from geobatch.access import settle_mode
from geobatch.errors import UserError
from geobatch.methods.geolocsft.train import HISTORY
from geobatch.pipeline.submit import Head, Submit, submit
from geobatch.sink import latest, read
from geobatch.store import Store
from tests.conftest import S3Server
from tests.engine import tiny as engines
from tests.methods.geolocsft import pupil
from tests.river.cluster import TOKEN, Standing, head
from tests.river.conftest import Tiny, arguments, upload
from tests.river.job import ROOT
from tests.store.proxy import FaultyProxy


@pytest.fixture(scope="module")
def cluster(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """One head for all; this process has its token."""
    with pytest.MonkeyPatch.context() as patch, head(GEOBATCH_CACHE=str(tmp_path_factory.mktemp("node"))) as standing:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield standing
    settle_mode(joins=False)  # Ray keeps in memory what the environment said


@pytest.fixture(scope="module")
def command(bucket: str, tiny: Tiny, s3: S3Server) -> Callable[..., list[str]]:
    """The main job over the tiny archive, with the model and its gallery in the bucket."""
    upload(tiny.folder / "model", f"s3://{bucket}/models/tiny", s3.config())
    upload(tiny.folder / "gallery", f"s3://{bucket}/models/gallery", s3.config())

    def made(output: str, *more: str) -> list[str]:
        given = arguments(bucket, output, tiny, s3)
        given[given.index("--model") + 1] = f"s3://{bucket}/models/tiny"
        return ["python", "jobs/geolocate_bucket.py", *given, *more]

    return made


class Slow(FaultyProxy):
    """A store that takes its time to write, so that a run is half-way for some seconds."""

    seconds = 0.3

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if request.command == "PUT":
            time.sleep(self.seconds)
        super().pass_on(request)


@pytest.fixture
def slow(s3: S3Server) -> Iterator[Slow]:
    made = Slow(s3.endpoint)
    yield made
    made.close()


def settings(cluster: Standing, name: str, **more: object) -> Submit:
    return Submit(address=cluster.dashboard, name=name, wait=0.1, **more)  # type: ignore[arg-type]


def commits(store: Store, output: str) -> int:
    return sum(len(page) for page in store.objects(f"{output}/runs/000001/commits"))


@pytest.mark.timeout(1200)
def test_a_job_is_submitted_left_stopped_and_finished(
    cluster: Standing,
    command: Callable[..., list[str]],
    bucket: str,
    tiny: Tiny,
    s3: S3Server,
    slow: Slow,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In order: followed until Ctrl-C, found alive, stopped half-way (143), finished with too many rejections (3), done (0)."""
    store, output = Store(s3.config()), f"s3://{bucket}/submitted"
    asked, watched = (
        [each.replace(s3.endpoint, slow.endpoint) for each in command("submitted")],
        settings(cluster, "night", date="2026-11-21"),
    )
    with (tmp_path / "log").open("w+") as log:
        own = ["--address", cluster.dashboard, "--name", "night", "--date", "2026-11-21"]
        process = subprocess.Popen(
            [sys.executable, "jobs/submit.py", *own, "--", *asked],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Who is started in the background ignores Ctrl-C, and so does all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  it takes no lock
        )
        until = time.monotonic() + 400
        while commits(store, output) < 2:
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        log.seek(0)
        said = log.read()
    assert "submitted night-2026-11-21-a1" in said and "night-2026-11-21-a1 goes on" in said and "Traceback" not in said

    head = Head(cluster.dashboard)
    assert head.alive("night") == "night-2026-11-21-a1"
    with pytest.raises(UserError, match="is running another command"):
        submit(watched, ["python", "jobs/evaluate.py"])
    stopping = threading.Thread(target=head.client.stop_job, args=("night-2026-11-21-a1",))
    stopping.start()
    assert submit(watched, asked) == 143  # it follows the one that lives
    stopping.join()
    said = capfd.readouterr().out
    assert "running already" in said and "terminated; the same command goes on from here" in said and "Traceback" not in said
    done = commits(store, output)
    assert done > 0 and not store.exists(f"{output}/runs/000001/done.json")
    lease = [json.loads(store.get(item.uri)) for page in store.objects(f"{output}/lease") for item in page]
    assert lease[-1]["released"] and lease[-1]["who"] == "night-2026-11-21-a1"  # in the three seconds before SIGKILL

    slow.seconds = 0.0
    # 14 of 614 are no images: more than is allowed here, said when all is done and the table stands.
    assert submit(watched, [*asked, "--max-rejected", "0.02"]) == 3
    said = capfd.readouterr().out
    assert "submitted night-2026-11-21-a2" in said and "taking up run 000001" in said and "a2 ended with status 3" in said
    assert commits(store, output) > done
    table = read(output, store=s3.config())
    assert sorted(table["image_id"].to_pylist()) == sorted(f"s3://{bucket}/archive/{name}" for name in tiny.names)
    assert table["status"].to_pylist().count("rejected") == 14 and latest(store, output).version == 1  # type: ignore[union-attr]

    assert submit(watched, asked) == 0
    said = capfd.readouterr().out
    assert "submitted night-2026-11-21-a3" in said and "nothing new" in said and "Traceback" not in said


def test_a_user_s_mistake_is_no_reason_to_try_again(cluster: Standing, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(settings(cluster, "wrong"), ["python", "jobs/geolocate_bucket.py", "--archiv", "x"]) == 2
    said = capfd.readouterr().out
    assert "--archiv" in said and said.count("submitted") == 1 and said.rstrip().endswith("status 2")


@pytest.mark.torture
def test_ray_s_own_command_submits_the_same_job(
    cluster: Standing, command: Callable[..., list[str]], bucket: str, tiny: Tiny, s3: S3Server
) -> None:
    """With a variable that the driver would set as well; Ray knows 0 and 1 alone, the job's log says the rest."""

    def by_hand(name: str, *job: str) -> subprocess.CompletedProcess[str]:
        ray = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard]
        own = ["--submission-id", name, "--runtime-env-json", '{"env_vars": {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}}']
        return subprocess.run([*ray, *own, "--", *job], capture_output=True, text=True, timeout=500, check=False)

    ran = by_hand("by-hand-1", *command("by_hand"))
    assert ran.returncode == 0 and "Job 'by-hand-1' succeeded" in ran.stdout, ran.stdout[-3000:] + ran.stderr[-3000:]
    table = read(f"s3://{bucket}/by_hand", store=s3.config())
    assert sorted(table["image_id"].to_pylist()) == sorted(f"s3://{bucket}/archive/{name}" for name in tiny.names)
    store = Store(s3.config())
    lease = [json.loads(store.get(item.uri)) for page in store.objects(f"s3://{bucket}/by_hand/lease") for item in page]
    assert lease[-1]["released"] and lease[-1]["who"] == "by-hand-1"
    ran = by_hand("by-hand-2", *command("by_hand", "--max-cost", "no number"))
    assert ran.returncode == 1 and "--max-cost" in ran.stdout and "Traceback" not in ran.stdout


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_training_is_submitted_stopped_and_gone_on_with(
    cluster: Standing, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the same command; the one that goes on begins at the last checkpoint."""
    base = pupil.base(engines.gemma3, tmp_path / "base")
    captions = pupil.captions(tmp_path / "captions.parquet", pupil.crops(12))
    job = ["python", "jobs/geolocsft_train.py", "--captions", str(captions), "--base", base, "--output", str(tmp_path / "out")]
    job += ["--loop.workers", "2", "--loop.checkpoint-steps", "5", "--loop.storage", str(tmp_path / "kept")]
    job += ["--tuning.steps", "40", "--tuning.batch", "4", "--tuning.no-bf16", "--tuning.no-checkpointing"]
    job += ["--validation.share", "0.2", "--validation.tokens", "5"]
    head, watched = Head(cluster.dashboard), settings(cluster, "training", date="2026-11-21")

    def stopped() -> None:
        until = time.monotonic() + 400
        while time.monotonic() < until and len(list((tmp_path / "kept").glob("**/checkpoint*"))) < 2:
            time.sleep(0.1)
        head.client.stop_job("training-2026-11-21-a1")

    stopping = threading.Thread(target=stopped)
    stopping.start()
    assert submit(watched, job) == 143
    stopping.join()
    assert not list((tmp_path / "out").glob("**/adapter_model.safetensors"))
    assert submit(watched, job) == 0
    said = capfd.readouterr().out
    assert "training-2026-11-21-a2" in said and "Traceback" not in said
    (adapter,) = (tmp_path / "out").glob("**/adapter_model.safetensors")
    (history,) = (tmp_path / "out").glob(f"**/{HISTORY}")
    assert adapter.stat().st_size > 0
    assert [each["step"] for each in json.loads(history.read_text())] == list(range(1, 41))


@pytest.mark.torture
def test_faults_of_machines_are_tried_again_under_a_new_name(
    cluster: Standing, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """First a fault, then a death by SIGKILL, as by an out-of-memory killer, then done."""
    script = f"n=$(ls {tmp_path} | wc -l); touch {tmp_path}/$n; case $n in 0) exit 1;; 1) kill -9 $$;; esac; echo third"
    assert submit(settings(cluster, "faults"), ["bash", "-c", script]) == 0
    said = capfd.readouterr().out
    assert [f"-a{n} ended with status {status}" in said for n, status in ((1, 1), (2, 137), (3, 0))] == [True] * 3
    assert submit(settings(cluster, "faults", attempts=2), ["bash", "-c", "exit 1"]) == 1
    said = capfd.readouterr().out
    assert "-a4 ended" in said and "-a5 ended" in said and said.count("trying again") == 1
    assert submit(settings(cluster, "faults"), ["bash", "-c", "exit 4"]) == 4


def test_who_has_another_token_stays_outside(cluster: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UserError, match=r"refuses this token \(RAY_AUTH_MODE is token\); set RAY_AUTH_MODE"):
        Head(cluster.dashboard)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(UserError, match=r"refuses this token \(RAY_AUTH_MODE is disabled\)"):
        Head(cluster.dashboard)
    with pytest.raises(UserError, match=r"nothing answers at http://127\.0\.0\.1:9"):
        Head("http://127.0.0.1:9")


@pytest.mark.torture
@pytest.mark.parametrize(("mode", "token"), [("token", "0" * 64), ("disabled", "")])
def test_a_driver_with_another_token_ends_in_one_line(
    cluster: Standing, command: Callable[..., list[str]], mode: str, token: str
) -> None:
    """Ray itself takes 20 s to say that it cannot connect."""
    ran = subprocess.run(
        [sys.executable, *command("refused", "--address", cluster.gcs)[1:]],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert "not to this token" in ran.stderr.splitlines()[-1]
