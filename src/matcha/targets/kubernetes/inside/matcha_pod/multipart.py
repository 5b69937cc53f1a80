"""Uploads that are there whole or not at all."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from xml.sax.saxutils import escape

from .ending import Code, Failed
from .s3 import META, Asked, Place, Store

PART = 8 << 20  # bytes
MOST_PARTS = 10_000
MARK = "upload"  # metadata that tells our object from one that stood there before
END_SECONDS = 10.0
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def upload(store: Store, place: Place, chunks: Iterable[bytes], metadata: Mapping[str, str]) -> None:
    """Put what `chunks` give; an upload that fails takes its parts away again.

    What earlier uploads to the same place left is taken away too, so there must be one at a time.
    """
    metadata = {**metadata, MARK: uuid.uuid4().hex}
    headers = {META + name: value for name, value in metadata.items()}
    parts = pieces(chunks, PART)
    first = next(parts)
    abandon(store, place)
    if len(first) < PART:
        store.ask(Asked("PUT", place, headers=headers, body=first))
    else:
        _upload_parts(store, place, first, parts, headers, metadata[MARK])


def abandon(store: Store, under: Place) -> None:
    """End unfinished uploads to `under` and to all that starts with it, as far as our rights go."""
    try:
        found = store.ask(Asked("GET", Place(under.bucket, ""), {"uploads": "", "prefix": under.key}))
        for key, identity in zip(found.all("Key"), found.all("UploadId"), strict=False):
            if key == under.key or under.key.endswith("/"):
                store.ask(Asked("DELETE", Place(under.bucket, key), {"uploadId": identity}))
    except Failed as error:
        if not error.status:
            raise


def _upload_parts(
    store: Store,
    place: Place,
    first: bytes,
    rest: Iterator[bytes],
    headers: Mapping[str, str],
    mark: str,
) -> None:
    identity = store.ask(Asked("POST", place, {"uploads": ""}, headers)).first("UploadId")
    try:
        tags = [_put_part(store, place, identity, 1, first)]
        for number, part in enumerate(rest, start=2):
            tags.append(_put_part(store, place, identity, number, part))
        _complete(store, place, identity, tags, mark)
    except BaseException:
        with contextlib.suppress(Failed):
            store.within(END_SECONDS).ask(Asked("DELETE", place, {"uploadId": identity}))
        raise


def _put_part(store: Store, place: Place, identity: str, number: int, part: bytes) -> str:
    if number > MOST_PARTS:
        raise Failed(f"{place} would be larger than {MOST_PARTS * PART // 10**9} GB.", Code.FAILED)
    answer = store.ask(Asked("PUT", place, {"partNumber": str(number), "uploadId": identity}, body=part))
    return answer.headers.get("etag", "")


def _complete(store: Store, place: Place, identity: str, tags: list[str], mark: str) -> None:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
        for number, tag in enumerate(tags, start=1)
    )
    body = f'<CompleteMultipartUpload xmlns="{NAMESPACE}">{parts}</CompleteMultipartUpload>'.encode()
    try:
        answer = store.ask(Asked("POST", place, {"uploadId": identity}, body=body))
    except Failed as error:
        if error.reason != "NoSuchUpload" or store.ask(Asked("HEAD", place)).metadata.get(MARK) != mark:
            raise
        return  # an earlier try got through, only its answer did not
    if code := answer.first("Code"):  # it may fail after it has begun to answer
        raise Failed(f"The object store could not put {place} together: {code}.", Code.UNREACHABLE)


def pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """`chunks` in pieces of exactly `size`, but for the last; one that is empty where there is nothing."""
    waiting = bytearray()
    piece = b""
    for chunk in chunks:
        waiting += chunk
        while len(waiting) >= size:
            piece = bytes(waiting[:size])
            del waiting[:size]
            yield piece
    if waiting or not piece:
        yield bytes(waiting)
