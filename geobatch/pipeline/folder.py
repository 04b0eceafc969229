"""Model and gallery folders: brought to this machine, and fingerprinted by what they hold."""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
import tempfile
from pathlib import Path
from typing import Any

from geobatch.errors import UserError
from geobatch.store import Store
from geobatch.store.disk import home

#: The file that makes a folder a model: {"method": …, "gallery": …}.
CARD = "geobatch.json"

#: Bytes read of a large file at each of as many places, for its fingerprint.
_PIECE, _PIECES = 1 << 20, 16


def local_folder(store: Store, uri: str, what: str) -> Path:
    """The folder at `uri` as a local path: itself if it is one, else a copy named by the etags of what it holds.

    Raises:
        UserError: there is nothing at `uri`.
    """
    if not uri.startswith("s3://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_dir():
            raise UserError(f"there is no {what} folder {uri}; check the path, or make one with the jobs the README lists")
        return path.resolve()
    objects = [item for page in store.objects(uri.rstrip("/") + "/") for item in page]
    if not objects:
        raise UserError(f"there is no {what} at {uri}; check the bucket and prefix")
    digest = hashlib.sha256(json.dumps([[item.uri, item.etag] for item in objects]).encode()).hexdigest()[:20]
    target = home() / digest
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "copy"
        for item, content in zip(objects, store.get_many([item.uri for item in objects]), strict=True):
            if isinstance(content, BaseException):
                raise content
            path = (copy / item.uri[len(uri.rstrip("/")) + 1 :]).resolve()
            if not path.is_relative_to(copy.resolve()):
                raise UserError(f"{item.uri} would leave its folder; rename that object")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            copy.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(copy, ignore_errors=True)
    return target


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
    """SHA-256 over the names and bytes of every file below `folder`, but those below the names in `leave`."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        if relative.split("/")[0] in leave:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{relative}\0{digest}\n".encode())
    return total.hexdigest()


def fingerprint_of_base(base: str) -> str:
    """SHA-256 over names, sizes and bytes of a folder's files, of large ones 16 MiB in even steps; a hub name is itself.

    A fine-tuned copy differs everywhere, so a sample tells: hashing all 55 GB of Gemma 3 27B takes minutes, this a second.
    """
    folder = Path(base)
    total = hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(base.encode()).hexdigest()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
        size = path.stat().st_size
        total.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode())
        with path.open("rb") as file:
            if size <= _PIECE * _PIECES:
                total.update(file.read())
                continue
            for piece in range(_PIECES):
                file.seek(piece * (size - _PIECE) // (_PIECES - 1))
                total.update(file.read(_PIECE))
    return total.hexdigest()


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


def base_of(store: Store, name: str) -> str:
    """A base model as a local folder; one of the hub from its cache, or fetched unless HF_HUB_OFFLINE forbids it.

    Raises:
        UserError: it is in neither.
    """
    if is_path(name):
        return str(local_folder(store, name, "base model"))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{name} is no folder here and the Hugging Face hub did not give it ({type(error).__name__}); give a "
                        "folder, or fetch it first") from None  # fmt: skip
