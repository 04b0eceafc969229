"""The whole product on real imagery, on one machine: the embedded world from the first crop to the last figure.

Every step but the first two is a job that a user runs, started as a user starts it, by the command that is printed before it.
The bucket lies in moto's S3 server on loopback, in a process of its own; from the upload on the images are known as `s3://…`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from geobatch.benchmark import deposit
from geobatch.benchmark.world import World, compress, earth
from geobatch.errors import MachineError
from geobatch.progress import Progress, say
from geobatch.sink import latest
from geobatch.store import Store, StoreConfig

JOBS = Path(__file__).parent.parent.parent / "jobs"
BUCKET = "demo"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Runs everything on the embedded world."""

    folder: str = ".demo"
    """Where the world and what is made of it lie; emptied first."""
    gallery: int = 30_000
    """Crops in the gallery."""
    training: int = 30_000
    """Crops to train on, of other places."""
    archive: int = 2_000
    """Held-out crops in the bucket, of other places again, taken by other cameras."""
    align_steps: int | None = None
    """Steps of the encoder's training; default: the preset's."""
    train_steps: int | None = None
    """Steps of GeoToken's training; default: the preset's."""
    seed: int = 0
    """Seed of everything."""


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        say(f"\n── {title}")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def demo(config: Demo) -> dict[str, Any]:
    """Runs the demo; returns the figures that `figures.json` holds.

    Raises:
        MachineError: a step failed; what it said stands above.
    """
    folder = Path(config.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    clock = _Clock()
    with clock.step("cut", "Cutting crops out of NASA's Blue Marble: training, gallery, and a held-out archive"):
        world = _cut(config, folder)
    with _s3_server() as endpoint:
        _environment(endpoint)
        store = Store(StoreConfig())
        with clock.step("upload", f"Putting the archive into a bucket of an S3 server at {endpoint}"):
            _upload(store, folder / "archive", f"s3://{BUCKET}/archive")
        _train(config, folder, clock)
        located = f"s3://{BUCKET}/located"
        with clock.step("locate", "Locating every image of the bucket"):
            _run("geolocate_bucket", archive=f"s3://{BUCKET}/archive", output=located, model=f"{folder}/model")
        seed, likeliest = _again(folder, located, clock)
        with clock.step("evaluate", "Judging the places against the truth, with every analysis there is"):
            _run("evaluate", places=located, truth=f"{folder}/truth.csv", output=f"{folder}/evaluation",
                 background=f"{folder}/earth.jpg", model=f"{folder}/model", seeds=seed,
                 against=likeliest)  # fmt: skip
        with clock.step("report", "Making a page of it that opens in any browser"):
            _run("report", places=located, truth=f"{folder}/truth.csv", evaluation=f"{folder}/evaluation",
                 gallery=f"{folder}/gallery", output=f"{folder}/report.html")  # fmt: skip
        account = _fetch(store, located, folder)
    figures = {
        "seconds": clock.seconds,
        "account": account,
        **json.loads((folder / "evaluation/evaluation.json").read_text()),
        "world": {"gallery": config.gallery, "training": config.training, "archive": config.archive, "pixel_km": world},
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    total = sum(clock.seconds.values())
    say(f"\nall in {total:.0f} s: " + ", ".join(f"{name} {spent:.0f}" for name, spent in clock.seconds.items()))
    say(f"open {folder}/report.html in a browser; figures in {folder}/figures.json, the picture in {folder}/evaluation/run.png")
    say("the model locates your own images of the Earth from above, too:")
    say(f"  python jobs/geolocate_bucket.py --archive YOUR/IMAGES/OF/THE/EARTH --output out --model {folder}/model")
    return figures


def _cut(config: Demo, folder: Path) -> float:
    world = World()
    (folder / "earth.jpg").write_bytes(earth())
    for name, count, offset in (("training", config.training, 1), ("gallery_crops", config.gallery, 2)):
        with Progress(f"{name.split('_')[0]} crops", count) as progress:
            _deposit(world, folder, name, count, config.seed * 10 + offset, progress)
    latitude, longitude = world.scatter(config.archive, seed=config.seed * 10 + 3)
    files = world.photograph(latitude, longitude, seed=config.seed * 10 + 3)
    truth = deposit.write_archive(folder / "archive", files, list(latitude), list(longitude), seed=config.seed)
    deposit.write_truth(folder / "truth.csv", truth)
    names = deposit.write_broken(folder / "archive")
    say(f"{config.training:,} crops to train on, {config.gallery:,} for the gallery, {config.archive:,} held out, disturbed, "
        f"with {len(names)} broken files among them")  # fmt: skip
    return world.camera.pixel_km


def _deposit(world: World, folder: Path, name: str, count: int, seed: int, progress: Progress) -> None:
    """Tar shards of 1,000 labelled crops: as they are for the gallery, as cameras see them for training."""
    latitude, longitude = world.scatter(count, seed=seed)
    truth: deposit.Truth = {}
    for shard, at in enumerate(range(0, count, 1000)):
        part = slice(at, at + 1000)
        lat, lon = latitude[part], longitude[part]
        files = (
            world.photograph(lat, lon, seed=seed * 1000 + shard) if name == "training" else compress(world.cut(lat, lon), 90)
        )
        names = [f"{name}-{at + row:06d}.jpg" for row in range(len(files))]
        deposit.write_tar(folder / name / f"{shard:04d}.tar", zip(names, files, strict=True))
        truth |= {each: (float(a), float(b)) for each, a, b in zip(names, lat, lon, strict=True)}
        progress.add(len(files))
    deposit.write_truth(folder / f"{name.split('_', maxsplit=1)[0]}.csv", truth)


def _train(config: Demo, folder: Path, clock: _Clock) -> None:
    with clock.step("align", "Training the image encoder, two workers (GeoToken's phase 1)"):
        _run("geotoken_align", archive=f"{folder}/training", truth=f"{folder}/training.csv", output=f"{folder}/encoder",
             preset="small", steps=config.align_steps, seed=config.seed)  # fmt: skip
    with clock.step("gallery", "Building the gallery"):
        _run("build_gallery", archive=f"{folder}/gallery_crops", truth=f"{folder}/gallery.csv", encoder=f"{folder}/encoder",
             output=f"{folder}/gallery")  # fmt: skip
    with clock.step("train", "Training GeoToken, two workers"):
        _run("geotoken_train", archive=f"{folder}/training", truth=f"{folder}/training.csv", encoder=f"{folder}/encoder",
             gallery=f"{folder}/gallery", output=f"{folder}/model", preset="small", steps=config.train_steps,
             seed=config.seed)  # fmt: skip


def _again(folder: Path, located: str, clock: _Clock) -> tuple[str, str]:
    """The same images located with other draws, and placed by the likeliest draw: what an evaluation compares with."""
    seed, likeliest = f"{located}-seed-1", f"{located}-likeliest"
    with clock.step("again", "Locating them with other draws, then by the likeliest draw alone, to compare with"):
        for output, flags in (
            (seed, {"geotoken.sampling.seed": 1}),
            (likeliest, {"geotoken.selection.selector": "log_probability"}),
        ):
            _run("geolocate_bucket", archive=f"s3://{BUCKET}/archive", output=output, model=f"{folder}/model", **flags)
    return seed, likeliest


def _run(job: str, **flags: object) -> None:
    """Prints the command and runs it."""
    words = [str(word) for name, value in flags.items() if value is not None for word in (f"--{name}", value)]
    say(f"$ python jobs/{job}.py {shlex.join(words)}")
    ended = subprocess.run([sys.executable, str(JOBS / f"{job}.py"), *words], check=False)
    if ended.returncode:
        raise MachineError(f"jobs/{job}.py ended with status {ended.returncode}; what it said stands above")


def _environment(endpoint: str) -> None:
    """The bucket's address and keys, where every S3 client looks for them."""
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    os.environ.update(settings)
    say("$ export " + " ".join(f"{name}={value}" for name, value in settings.items()))


@contextmanager
def _s3_server() -> Iterator[str]:
    """moto's S3 server on a free port of loopback, as long as the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise MachineError("the S3 server did not start; pip install 'geobatch[demo]' and try again") from error
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def _upload(store: Store, folder: Path, prefix: str) -> None:
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with Progress("uploaded", len(files), unit="objects") as progress:
        for path in files:
            store.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
            progress.add()


def _fetch(store: Store, located: str, folder: Path) -> dict[str, Any]:
    """The table's parts as files, and the account of the run."""
    table = latest(store, located)
    if table is None:
        raise MachineError(f"{located} holds no table; a bug, report it")
    (folder / "places").mkdir()
    for part, data in zip(table.parts, store.get_many(table.uris()), strict=True):
        if isinstance(data, BaseException):
            raise data
        (folder / "places" / Path(part["path"]).name).write_bytes(data)
    account: dict[str, Any] = json.loads(store.get(f"{located}/runs/{table.record['run']}/done.json"))
    return account
