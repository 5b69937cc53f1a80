"""Small jobs at the object store: a bucket, a try of it, dumps of the database, a prefix no longer wanted."""

from __future__ import annotations

import re
import secrets
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from hashlib import md5
from itertools import islice
from pathlib import Path
from xml.sax.saxutils import escape

from .archive import chunks
from .ending import Code, Failed, Progress, disk_failure, megabytes, say
from .multipart import NAMESPACE, abandon, upload
from .s3 import Asked, Place, Store

AT_ONCE = 1000  # keys in one request, the most that S3 takes
TAIL = 4096
GZIP = 31  # zlib's name for it


def ensure_bucket(store: Store, at: Place) -> None:
    """Also waits for a store that is just starting."""
    bucket = Place(at.bucket, "")
    try:
        store.ask(Asked("GET", bucket, {"list-type": "2", "max-keys": "1"}))
        return
    except Failed as error:
        if error.reason != "NoSuchBucket":
            raise
    try:
        store.ask(Asked("PUT", bucket, body=_location(store.region)))
        say(f"made the bucket {at.bucket}")
    except Failed as error:
        if error.reason != "BucketAlreadyOwnedByYou":
            raise


def probe(store: Store, at: Place) -> None:
    """Lists, writes, reads and deletes below `at`, as a stack does. Nothing stays there."""
    under = f"{at.key.rstrip('/')}/".lstrip("/")
    store.ask(Asked("GET", Place(at.bucket, ""), {"list-type": "2", "max-keys": "1", "prefix": under}))
    place = Place(at.bucket, f"{under}probe-{secrets.token_hex(8)}")
    content = place.key.encode()
    store.ask(Asked("PUT", place, body=content))
    try:
        if store.ask(Asked("GET", place)).body != content:
            message = f"The object store at {store.endpoint} has another {place} than was written."
            raise Failed(message, Code.DAMAGED)
    finally:
        store.ask(Asked("DELETE", place))
    say(f"{at} can be listed, written, read and deleted from")


def _location(region: str) -> bytes:
    """S3 wants to hear of every region but its first one."""
    if region == "us-east-1":
        return b""
    inner = f"<LocationConstraint>{escape(region)}</LocationConstraint>"
    return f'<CreateBucketConfiguration xmlns="{NAMESPACE}">{inner}</CreateBucketConfiguration>'.encode()


def upload_dated(store: Store, source: Path, to: Place, keep: int, ends_with: str) -> None:
    """`source`, or the one file in it, as `to-<time>.<suffix>.gz`; then all but the newest `keep` go.

    `ends_with` is what the end of a whole file holds: without it nothing is uploaded and nothing goes.
    """
    try:
        file = _only_file(source)
        _check_end(file, ends_with)
        size = file.stat().st_size
    except OSError as error:
        raise disk_failure(error, str(source)) from error
    suffix = f"{file.suffix}.gz"
    dated = to._replace(key=f"{to.key}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}{suffix}")
    upload(store, dated, _compressed(chunks(file, Progress(f"uploading {dated}", size))), {})
    say(f"uploaded {dated}, {megabytes(size)} before compression")
    shape = re.compile(re.escape(to.key) + r"-\d{8}T\d{6}Z" + re.escape(suffix))
    found = sorted(key for key in store.keys(to) if shape.fullmatch(key))
    _delete(store, to.bucket, found[: max(0, len(found) - max(1, keep))])


def _only_file(source: Path) -> Path:
    files = [source] if source.is_file() else [path for path in source.iterdir() if path.is_file()]
    if len(files) != 1:
        raise Failed(f"{source} holds {len(files)} files; one was expected.", Code.USAGE)
    return files[0]


def _check_end(file: Path, ends_with: str) -> None:
    with file.open("rb") as source:
        source.seek(max(0, file.stat().st_size - TAIL))
        if ends_with.encode() not in source.read():
            message = f"{file} is not whole: {ends_with!r} does not stand at its end. Nothing was uploaded."
            raise Failed(message, Code.DAMAGED)


def _compressed(plain: Iterator[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(wbits=GZIP)
    for chunk in plain:
        yield squeeze.compress(chunk)
    yield squeeze.flush()


def delete_prefix(store: Store, at: Place) -> None:
    """Everything under `at`, unfinished uploads too. Raises Failed for a whole bucket."""
    if not at.key.endswith("/"):
        raise Failed(f"{at} does not end with a slash, so it would take its neighbours along.", Code.USAGE)
    gone = 0
    while found := list(islice(store.keys(at), AT_ONCE)):
        _delete(store, at.bucket, found)
        gone += len(found)
    say(f"deleted {gone} objects under {at}")
    abandon(store, at)


def _delete(store: Store, bucket: str, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), AT_ONCE):
        inner = "".join(f"<Object><Key>{escape(k)}</Key></Object>" for k in keys[start : start + AT_ONCE])
        body = f'<Delete xmlns="{NAMESPACE}"><Quiet>true</Quiet>{inner}</Delete>'.encode()
        sums = {"Content-MD5": b64encode(md5(body, usedforsecurity=False).digest()).decode()}
        answer = store.ask(Asked("POST", Place(bucket, ""), {"delete": ""}, sums, body))
        if kept := answer.all("Code"):
            raise Failed(f"The object store keeps {len(kept)} objects: {kept[0]}.", Code.REFUSED)
