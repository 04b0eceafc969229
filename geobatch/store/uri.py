"""Names of objects: what a URI is here, and how one is put together.

Two kinds exist: `s3://bucket/key` and local paths, written `file:///abs/path` or plainly. The text after the bucket or
after `file://` *is* the key or the path: nothing is percent-decoded, so `100%.jpg`, `a b.jpg` and `x#y.jpg` mean what they
say. A store always answers with absolute URIs.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from geobatch.errors import UserError


class Object(NamedTuple):
    """What a listing or a HEAD says about some bytes."""

    uri: str
    size: int
    etag: str


class Place(NamedTuple):
    """A URI taken apart: `bucket` is None for a local path, and `key` is then the absolute path."""

    bucket: str | None
    key: str

    @property
    def uri(self) -> str:
        """The URI again, absolute."""
        return f"file://{self.key}" if self.bucket is None else f"s3://{self.bucket}/{self.key}"


def split(uri: str) -> Place:
    """Takes a URI or a local path apart.

    Raises:
        UserError: another scheme than s3 and file, no bucket, a host in a file URI, or a zero byte in a path.
    """
    if uri.startswith("s3://"):
        bucket, _, key = uri[5:].partition("/")
        if not bucket:
            raise UserError(f"{uri!r} names no bucket; write s3://bucket/prefix")
        return Place(bucket, key)
    if uri.startswith("file://"):
        if not uri.startswith("file:///"):
            raise UserError(f"{uri!r} names a host; write file:///absolute/path")
        uri = uri[7:]
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", uri):
        raise UserError(f"{uri!r} is of an unknown scheme; write s3://bucket/prefix or a local path")
    if "\0" in uri:
        raise UserError(f"{uri!r} holds a zero byte, as no path does; write s3://bucket/prefix or a local path")
    if not uri:
        raise UserError("an empty path; write s3://bucket/prefix or a local path")
    return Place(None, os.path.abspath(uri))  # noqa: PTH100 — `resolve` would follow links and rename what the user named


def join(uri: str, *parts: str) -> str:
    """`parts` below `uri`, each after exactly one slash; the result is absolute."""
    place = split(uri)
    key = place.key.rstrip("/")
    for part in parts:
        key = f"{key}/{part.strip('/')}" if key or place.bucket is None else part.strip("/")
    return place._replace(key=key).uri
