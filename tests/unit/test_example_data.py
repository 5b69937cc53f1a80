"""The recommendation example's download: what it accepts, where it writes, and that it ends."""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "recommendation"
Serve = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's module, which users import from its own folder."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("download")
    sys.modules.pop("download")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(body)` is a URL that answers with it, `pause` seconds between the bytes."""
    servers: list[ThreadingHTTPServer] = []

    def start(body: bytes, status: int = 200, pause: float = 0.0) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(body, status, pause))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/ml-100k.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def handler(body: bytes, status: int, pause: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                piece = 1 if pause else max(1, len(body))
                for start in range(0, len(body), piece):
                    self.wfile.write(body[start : start + piece])
                    time.sleep(pause)
            except OSError:
                return  # the client had enough

        def log_message(self, *_: object) -> None: ...

    return Handler


def archive(**others: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as members:
        for name in ("u.data", "u.item", "u.user"):
            members.writestr(f"ml-100k/{name}", f"content of {name}")
        for name, content in others.items():
            members.writestr(name, content)
    return packed.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def test_the_three_files_are_written(example: Any, serve: Serve, tmp_path: Path) -> None:
    body = archive()
    example.download(tmp_path / "new" / "folder", url=serve(body), sha256=sha256(body))
    assert files_below(tmp_path) == {
        f"new/folder/{name}": f"content of {name}" for name in ("u.data", "u.item", "u.user")
    }


def test_members_that_escape_are_not_written(example: Any, serve: Serve, tmp_path: Path) -> None:
    escaping = {
        "../up": b"x",
        "ml-100k/../../up": b"x",
        str(tmp_path / "absolute"): b"x",
        "ml-100k/more": b"x",
    }
    body = archive(**escaping)
    example.download(tmp_path / "folder", url=serve(body), sha256=sha256(body))
    assert set(files_below(tmp_path)) == {"folder/u.data", "folder/u.item", "folder/u.user"}


def test_another_archive_is_refused(example: Any, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checksum"):
        example.download(tmp_path / "folder", url=serve(archive()))
    assert files_below(tmp_path) == {}


def test_a_sign_in_page_is_refused(example: Any, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checksum"):
        example.download(tmp_path / "folder", url=serve(b"<html>Welcome to the airport</html>"))


def test_no_more_is_read_than_the_limit(
    example: Any, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "LARGEST", 1000)
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        example.download(tmp_path / "folder", url=serve(b"x" * 100_000))


@pytest.mark.parametrize("pause", [0.05, 30.0], ids=["trickle", "stall"])
def test_a_slow_server_is_given_up(example: Any, serve: Serve, tmp_path: Path, pause: float) -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match=r"took longer than 1 s|timed out"):
        example.download(tmp_path / "folder", url=serve(b"x" * 1000, pause=pause), seconds=1)
    assert time.monotonic() - began < 25


def test_no_server_and_no_file_are_os_errors(example: Any, serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="404"):
        example.download(tmp_path / "folder", url=serve(b"", status=404))
    with pytest.raises(OSError, match="refused"):
        example.download(tmp_path / "folder", url="http://127.0.0.1:9/ml-100k.zip")
