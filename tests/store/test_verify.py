"""Etags and digest lists against what they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geobatch.errors import UserError
from geobatch.store import Store
from geobatch.store.fetch import Remote
from geobatch.store.s3 import S3
from geobatch.store.verify import Piece, bring, multipart, parse_sums, same_bytes
from tests.conftest import S3Server
from tests.store.proxy import FaultyProxy

MIB = 1 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOBATCH_CACHE", str(tmp_path / "cache"))


def upload(s3: S3Server, bucket: str, key: str, parts: list[bytes]) -> None:
    """One object in several parts, as large files are put."""
    client = S3(s3.config())._client()
    number = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    done = [
        {
            "PartNumber": at,
            "ETag": client.upload_part(Bucket=bucket, Key=key, UploadId=number, PartNumber=at, Body=data)["ETag"],
        }
        for at, data in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=number, MultipartUpload={"Parts": done})


class Secretive(FaultyProxy):
    """A store whose etags are no digests, as under SSE-KMS: here they are written backwards."""

    def _asked(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if asked := request.headers.get("If-Match"):
            del request.headers["If-Match"]
            request.headers["If-Match"] = asked[::-1]
        status, headers, data = super()._asked(request, body)
        told = [(name, value[::-1] if name.lower() == "etag" else value) for name, value in headers]
        for part in data.split(b"<ETag>")[1:] if data.startswith(b"<?xml") else []:
            etag = part.split(b"</ETag>")[0].replace(b"&quot;", b"").replace(b'"', b"")
            data = data.replace(etag, etag[::-1])
        return status, told, data


@pytest.fixture
def secretive(s3: S3Server) -> Iterator[Secretive]:
    made = Secretive(s3.endpoint)
    yield made
    made.close()


@pytest.mark.parametrize(("part", "sizes"), [(5, (5, 5, 2)), (8, (8, 1))])
def test_an_object_in_parts_is_known_by_its_etag(s3: S3Server, tmp_path: Path, part: int, sizes: tuple[int, ...]) -> None:
    bucket = s3.bucket()
    data = [hashlib.sha256(bytes([at])).digest() * (size * MIB // 32) for at, size in enumerate(sizes)]
    upload(s3, bucket, "m/weights", data)
    store = Store(s3.config())
    found = store.head(f"s3://{bucket}/m/weights")
    assert found is not None and found.etag.endswith(f"-{len(sizes)}")
    path = tmp_path / "weights"
    trusted: set[str] = set()
    piece = Piece("weights", found.size, found.etag)
    digest = bring(store, found.uri, piece, path, None, trusted)
    assert digest == hashlib.sha256(b"".join(data)).hexdigest() and same_bytes(path, digest) and not trusted
    assert multipart(path, found.etag)
    with path.open("r+b") as file:
        file.write(b"!")
    assert not multipart(path, found.etag) and not same_bytes(path, digest)
    assert bring(store, found.uri, piece, path, None, trusted) == digest and not trusted


def test_an_etag_that_says_nothing_has_the_smallest_file_read_twice(s3: S3Server, secretive: Secretive) -> None:
    store, where = Store(s3.config(endpoint=secretive.endpoint)), f"s3://{s3.bucket()}/m"
    for number in range(5):
        store.put(f"{where}/{number}", bytes([number]) * (100 + number))
    one = Remote.of(store, where)
    assert one is not None
    secretive.requests.clear()
    here = Path(one.here())
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {str(n): bytes([n]) * (100 + n) for n in range(5)}
    asked = [each[1].rsplit("/", 1)[-1] for each in secretive.requests if "list-type" not in each[1]]
    assert sorted(asked) == ["0", "0", "1", "2", "3", "4"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=20).filter(
    lambda name: name.strip() == name and not name.startswith("./")
)


@given(st.dictionaries(NAMES, st.binary(max_size=8), max_size=6), st.sampled_from((" ", "*")), st.booleans(), st.booleans())
def test_a_list_of_digests_is_read_as_sha256sum_writes_it(files: dict[str, bytes], mode: str, dot: bool, windows: bool) -> None:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    end = "\r\n" if windows else "\n"
    text = "".join(f"{digest} {mode}{'./' if dot else ''}{name}{end}" for name, digest in digests.items())
    assert parse_sums(text, "list") == digests
    assert parse_sums(text.rstrip(end) if text else "", "list") == digests
    assert parse_sums(text + text, "list") == digests


@pytest.mark.parametrize("line", ["word", "0" * 63 + "  x", "0" * 64, "0" * 64 + " x", "0" * 64 + "  "])
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(UserError, match="line 2 of list"):
        parse_sums(f"{'1' * 64}  good\n{line}\n", "list")
    with pytest.raises(UserError, match="two digests"):
        parse_sums(f"{'1' * 64}  good\n{'2' * 64}  good\n", "list")
