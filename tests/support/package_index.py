"""A package index on this machine, with faults: what pip and uv call a simple index."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Fault = Literal["", "error", "cut", "refuse", "stall"]


def wheel(name: str, filler: int = 0) -> bytes:
    """A pure-Python wheel of one package with a submodule and `filler` bytes of data that do not compress."""
    info = f"{name}-1.0.dist-info"
    files: dict[str, bytes] = {
        f"{name}/__init__.py": f"from {name} import inner\n".encode(),
        f"{name}/inner.py": b"answer = 42\n",
        f"{name}/broken.py": b"print 'written for Python 2'\n",
        f"{name}/data.bin": hashlib.shake_128(name.encode()).digest(filler),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join([*map(_row, files.items()), f"{info}/RECORD,,\n"]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(file), content)
    return packed.getvalue()


def _row(file: tuple[str, bytes]) -> str:
    name, content = file
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(content)}\n"


class PackageIndex:
    """Serves `wheels` (name -> content). `fault` is what happens to downloads from now on.

    `refuse` asks for credentials; `stall` sends half a file and waits until `released` is set.
    """

    def __init__(self, **wheels: bytes) -> None:
        self.wheels = wheels
        self.fault: Fault = ""
        self.downloads: list[str] = []
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://someone:s3kret@127.0.0.1:{self.server.server_port}/simple"

    def lock(self, path: Path, *names: str, sizes: bool = False, spoil: bool = False) -> Path:
        """Writes a lock of some wheels; `spoil` names hashes that no file has."""
        chosen = names or tuple(self.wheels)
        digests = {name: hashlib.sha256(self.wheels[name]).hexdigest() for name in chosen}
        lines = [f"{n}==1.0 --hash=sha256:{'0' * 64 if spoil else d}" for n, d in digests.items()]
        lines += [f"#   {name}==1.0 {len(self.wheels[name])}" for name in chosen if sizes]
        path.write_text("\n".join(lines) + "\n")
        return path


@contextlib.contextmanager
def serving(index: PackageIndex) -> Iterator[PackageIndex]:
    thread = threading.Thread(target=index.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.released.set()
        index.server.shutdown()
        index.server.server_close()
        thread.join(timeout=5)


def _handler(index: PackageIndex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").split("/")[-1].split("-")[0]
            if index.fault == "error":
                self.send_error(500)
            elif index.fault == "refuse":
                self.send_error(401)
            elif name not in index.wheels:
                self.send_error(404)
            elif self.path.startswith("/simple"):
                file = f"{name}-1.0-py3-none-any.whl"
                self.answer(f'<a href="/files/{file}">{file}</a>'.encode(), "text/html")
            else:
                index.downloads.append(name)
                self.download(index.wheels[name])

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def download(self, body: bytes) -> None:
            if not index.fault:
                self.answer(body, "application/octet-stream")
                return
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if index.fault == "stall":
                index.stalled.set()
                index.released.wait(30)
                with contextlib.suppress(OSError):
                    self.wfile.write(body[len(body) // 2 :])
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is enough."""

    return Handler
