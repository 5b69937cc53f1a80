"""Code on its way to the object store, against a small S3 server that makes trouble."""

from __future__ import annotations

import email.utils
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from matcha.access import Output
from matcha.errors import MatchaError
from matcha.events import silent
from matcha.targets.kubernetes import KubernetesOptions
from matcha.targets.kubernetes.jobs import delivery
from matcha.targets.kubernetes.setting import setting

DAY = 86400.0
LARGE = 9 * 2**20  # more than one part


class Bucket:
    """`made`: when each object was put. `others`: somebody else puts the same while parts come in, and ends
    this upload; what is theirs is there `later` looks afterwards, or never.
    """

    def __init__(self) -> None:
        self.made: dict[str, float] = {}
        self.puts = 0
        self.later: int | None = None
        bucket = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                key = urlsplit(self.path).path
                if key not in bucket.made and bucket.later is not None and bucket.puts:
                    bucket.later -= 1
                    if not bucket.later:
                        bucket.made[key] = time.time()
                found = bucket.made.get(key)
                when = email.utils.formatdate(found, usegmt=True) if found else ""
                self._say(200 if found else 404, b"", {"Last-Modified": when})

            def do_GET(self) -> None:
                self._say(200, b"<ListMultipartUploadsResult/>")

            def do_POST(self) -> None:
                self._say(200, b"<Result><UploadId>u1</UploadId></Result>")

            def do_DELETE(self) -> None:
                self._say(204, b"")

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                bucket.puts += 1
                url = urlsplit(self.path)
                if "uploadId" in parse_qs(url.query):
                    self._say(404, b"<Error><Code>NoSuchUpload</Code></Error>")
                    return
                bucket.made[url.path] = time.time()
                self._say(200, b"")

            def _say(self, status: int, body: bytes, headers: Any = ()) -> None:
                self.send_response(status)
                for name, value in dict(headers, **{"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def store_env(self) -> dict[str, Output]:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
        return {name: Output(value) for name, value in {"AWS_ENDPOINT_URL": address, **keys}.items()}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(delivery, "POLL", 0.01)
    made = Bucket()
    yield made
    made.server.shutdown()
    made.server.server_close()


def brought(bucket: Bucket, tmp_path: Path, size: int = 10) -> str:
    file, unused, access = tmp_path / "code.tar.gz", None, bucket
    file.write_bytes(b"x" * size)
    stack: Any = setting(KubernetesOptions(namespace="ml"), [], [])
    there: Any = (unused, stack, access)
    return delivery.Delivery(*there).put_code(file, "0" * 64, silent)


def test_code_is_brought_once_and_again_before_others_take_it_for_old(bucket: Bucket, tmp_path: Path) -> None:
    """Whoever tidies removes what is older than a week and in no job, as it is until the job is queued."""
    brought(bucket, tmp_path)
    brought(bucket, tmp_path)
    assert bucket.puts == 1
    [key] = bucket.made
    bucket.made[key] = time.time() - 6.9 * DAY
    brought(bucket, tmp_path)
    assert bucket.puts == 2


def test_of_two_who_bring_the_same_at_once_one_does(bucket: Bucket, tmp_path: Path) -> None:
    bucket.later = 3
    assert brought(bucket, tmp_path, LARGE).startswith("s3://")


def test_an_upload_that_somebody_ended_and_nobody_made_is_told(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "OTHERS_SECONDS", 0.1)
    with pytest.raises(MatchaError, match="bringing the code there"):
        brought(bucket, tmp_path, LARGE)
