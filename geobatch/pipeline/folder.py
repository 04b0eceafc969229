"""Model and gallery folders: brought to this machine, sent to the others, and fingerprinted by what they hold.

The driver opens folders by local paths, whatever they were named as; `sent` puts into a river's arguments what other nodes find
them by. A base model in a bucket is not fetched by the driver at all: its settings are (`outline`), its fingerprint is of
pieces read through Range requests.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geobatch.actors import Hands
from geobatch.errors import MachineError, UserError
from geobatch.store import Store, join
from geobatch.store.fetch import Remote, absent, remote_of
from geobatch.store.travel import mounts, travelling
from geobatch.store.verify import Piece

#: The file that makes a folder a model: {"method": …, "gallery": …}.
CARD = "geobatch.json"

#: The record of a canary that may lie beside a model and decides nothing (`canary`).
RECORD = "canary.json"

#: What may lie beside a model's weights and decides nothing.
_PAPERS = ("README.md", "SHA256SUMS")

#: Bytes read of a large file at each of as many places, for its fingerprint.
_PIECE, _PIECES = 1 << 20, 16

#: Seconds within which every node must say whether it sees a path: a worker process starts in 2 to 10.
_LOOK = 120.0


def local_folder(store: Store, uri: str, what: str, outline: bool = False) -> Path:
    """The folder at `uri` as a local path: itself if it is one, else a copy that is fetched once (`geobatch.store.fetch`).

    Args:
        store: reaches it, if it is in a bucket.
        uri: path or s3:// prefix.
        what: the word for it, for errors.
        outline: leave out the large files of one in a bucket: settings are enough here, weights are for other nodes.

    Raises:
        UserError: there is nothing at `uri`.
    """
    if not uri.startswith("s3://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_dir():
            raise UserError(f"there is no {what} folder {uri}; check the path, or make one with the jobs the README lists")
        return path.resolve()
    found = Remote.of(store, uri)
    if found is None:
        raise UserError(f"there is no {what} at {uri}; check the bucket and prefix")
    return Path(found.outline() if outline else found.here())


def written_to(output: str, what: str, ours: Callable[[Path], bool]) -> Path:
    """The folder that a training writes to.

    Args:
        output: as the user named it.
        what: the word for what is written, with its article, for the errors.
        ours: whether what the training replaces in a folder that holds something is its own.

    Raises:
        UserError: it is none of a file system, or holds what is not the training's to replace.
    """
    if "://" in output and not output.startswith("file://"):
        raise UserError(f"{what} is written to a folder, not to {output}; copy it into the bucket afterwards")
    folder = Path(output.removeprefix("file://"))
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not ours(folder))):
        raise UserError(f"{folder} holds something else than {what} of this job; choose another --output")
    return folder


def card(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Raises:
        UserError: it is none.
    """
    path = folder / CARD
    if not path.is_file():
        raise UserError(
            f"{folder} is no geobatch model (it has no {CARD}); make one with jobs/geotoken_train.py, geolocsft_train.py or "
            "ngcg_train.py, or add --method geolocsft (to ask it) or ngcg (to search tiles) for a model as it was published"
        )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def fingerprint_of(folder: Path, leave: tuple[str, ...] = ()) -> str:
    """SHA-256 over the names and bytes of every file below `folder`, but those below the names in `leave`.

    Nor do the checkpoints count of a part of the model that is being trained (`geobatch.train.loop.Loop.kept`).
    """
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        first = relative.split("/")[0]
        if first in leave or (first.startswith(".") and first.endswith(".training")):
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{relative}\0{digest}\n".encode())
    return total.hexdigest()


def fingerprint_of_weights(folder: Path) -> str:
    """`fingerprint_of` what a model computes with: neither its hidden files, which git and hubs write anew, nor its papers."""
    aside = [each.name for each in folder.iterdir() if each.name.startswith(".") or each.name in _PAPERS]
    return fingerprint_of(folder, tuple(aside))


def fingerprint_of_base(base: str) -> str:
    """SHA-256 over names, sizes and bytes of a folder's files, of large ones 16 MiB in even steps; a hub name is itself.

    A fine-tuned copy differs everywhere, so a sample tells: hashing all 55 GB of Gemma 3 27B takes minutes, this a second. Of
    an outline what it leaves out is read in the bucket.
    """
    folder = Path(base)
    total = hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(base.encode()).hexdigest()
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    far = {piece.name: piece for piece in absent(folder)}
    sizes.update({name: piece.size for name, piece in far.items()})
    for name in sorted(sizes, key=lambda name: PurePosixPath(name).parts):
        if PurePosixPath(name).name in ("README.md", RECORD):
            continue
        total.update(f"{name}\0{sizes[name]}\n".encode())
        for data in _far_samples(folder, far[name]) if name in far else _samples(folder / name, sizes[name]):
            total.update(data)
    return total.hexdigest()


def _spans(size: int) -> list[tuple[int, int]]:
    """First and last (exclusive) byte of what is read of a file for its fingerprint."""
    if size <= _PIECE * _PIECES:
        return [(0, size)]
    starts = [piece * (size - _PIECE) // (_PIECES - 1) for piece in range(_PIECES)]
    return [(start, start + _PIECE) for start in starts]


def _samples(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start, end in _spans(size):
            file.seek(start)
            yield file.read(end - start)


def _far_samples(folder: Path, piece: Piece) -> Iterator[bytes]:
    remote = remote_of(folder)
    assert remote is not None  # only fetched folders leave files out
    store, uri = Store(remote.store), join(remote.uri, piece.name)
    with ThreadPoolExecutor(_PIECES, "sample") as pool:
        yield from pool.map(lambda span: store.get(uri, *span, if_match=piece.etag), _spans(piece.size))


def fingerprint(decides: dict[str, Any]) -> str:
    """Hash of a JSON-able description of everything that decides a row."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def beside(model: str, name: str) -> str:
    """A path that a card gives relative to its model's folder, as one that can be opened.

    Args:
        model: path or URI of the model's folder, as the user named it.
        name: relative path, absolute path or URI.
    """
    if "://" in name or name.startswith("/"):
        return name
    if model.startswith("s3://"):
        return "s3://" + posixpath.normpath(f"{model.removeprefix('s3://')}/{name}")
    return str((Path(model.removeprefix("file://")) / name).resolve())


def is_path(name: str) -> bool:
    """Whether a model's name is a place in a file system or bucket; else it is one on the Hugging Face hub."""
    return name.startswith(("s3://", "file://", "/", ".")) or Path(name).is_dir()


def base_of(store: Store, name: str, outline: bool = False) -> str:
    """A base model as a local folder; one of the hub from its cache, or fetched unless HF_HUB_OFFLINE forbids it.

    Args:
        store: reaches it, if it is in a bucket.
        name: path, URI or hub name.
        outline: as in `local_folder`.

    Raises:
        UserError: it is in neither.
    """
    if is_path(name):
        return str(local_folder(store, name, "base model", outline))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{name} is no folder here and the Hugging Face hub did not give it ({type(error).__name__}); give a "
                        "folder, or fetch it first") from None  # fmt: skip


def has_card(store: Store, model: str) -> bool:
    """Whether a model's name is of a folder with a card; one in a bucket is only asked for that."""
    if model.startswith("s3://"):
        return store.exists(join(model, CARD))
    return is_path(model) and (local_folder(store, model, "model") / CARD).is_file()


def sent(river: list[Hands], address: str | None = None) -> list[Hands]:
    """The river with its stages' paths as other nodes find them: fetched there, or seen by all.

    Args:
        river: the stages.
        address: Ray cluster that was joined, as in the jobs; None: RAY_ADDRESS, else this machine.

    Raises:
        UserError: a node that lives now does not see a local path; one that comes later says so itself.
    """
    joined = (address or os.environ.get("RAY_ADDRESS") or "local") != "local"
    river = [replace(hands, make=travelling(hands.make, mounted=joined)) for hands in river]
    if joined and ray.is_initialized():
        paths = [path for hands in river for path in mounts(hands.make)]
        seen_by_all(dict(zip(paths, paths, strict=True)))
    return river


def seen_by_all(paths: Mapping[str, str]) -> None:
    """That every node alive sees what this one sees. Takes 1 to 3 s where there are others, since a process starts on each.

    Args:
        paths: files and folders of this machine, and what each of them stands for.

    Raises:
        UserError: a node does not.
        MachineError: a node does not answer.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if not paths or len(nodes) < 2:
        return

    def missing(wanted: list[str]) -> str:
        """The first path that this node does not see."""
        return next((path for path in wanted if not os.path.exists(path)), "")  # noqa: PTH110 — sent by value, with `os` alone

    try:
        found = ray.get(
            [
                ray.remote(missing)
                .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
                .remote(sorted(paths))
                for node in nodes
            ],
            timeout=_LOOK,
        )
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise MachineError(
            f"a node did not say within {_LOOK:.0f} s what it sees ({type(error).__name__}); run again"
        ) from error
    for path in filter(None, found):
        raise UserError(
            f"{sum(each == path for each in found)} of {len(nodes)} nodes do not see {paths[path]}; put it into a bucket "
            "(s3://…), or on a disk that all nodes mount at the same place"
        )
