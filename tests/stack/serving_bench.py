"""A serving process on free ports, as a target would start it, and what tests ask of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

import matcha
from matcha import inside
from support.matcha import until

TOKEN = "a token of the tests"
CAPTURE_TOKEN = "another token"
START_SECONDS = 90.0
CODE = Path(matcha.__file__).parent / "components" / "mlserver" / "inside"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def tensor(
    name: str, data: list[Any], datatype: str = "FP64", shape: list[int] | None = None, **more: Any
) -> Any:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data, **more}


def body(*tensors: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **more}


def credit(version: int, **more: Any) -> dict[str, Any]:
    uri = f"models:/credit/{version}"
    return {"name": "credit", "uri": uri, "model": "credit", "version": str(version), **more}


class Bench:
    """One serving process; start it again with the same folders to see what a restart keeps."""

    def __init__(self, python: Path, root: Path, **env: str) -> None:
        self.python = python
        self.root = root
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.live = root / "deployments.json"
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)

    def start(self) -> Bench:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.python), "-m", "matcha_serving", *self._ports()],
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
            )
        self._wait()
        return self

    def _ports(self) -> list[str]:
        return [
            "--bind=127.0.0.1",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
        ]

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(CODE), str(inside.FOLDER)]),
            "SLOW_FOLDER": str(self.root),
            "MATCHA_SERVING_TOKEN": TOKEN,
            "MATCHA_CAPTURE_TOKEN": CAPTURE_TOKEN,
            "MATCHA_MODELS_DIR": str(self.root / "models"),
            "MATCHA_DEPLOYMENTS": str(self.live),
            "MATCHA_HOSTS": f"127.0.0.1,localhost,127.0.0.1:{self.http_port}",
            **self.env,
        }

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.running.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/v2/health/live", timeout=2).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(f"it did not start:\n{self.log.read_text()[-3000:]}")

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def put(self, *entries: Mapping[str, Any], **more: Any) -> dict[str, str]:
        """Errors by name, after the list was applied."""
        answer = self.put_raw({"deployments": entries, **more}, TOKEN)
        assert answer.status_code == 200, answer.text
        return {r["name"]: r["error"] for r in answer.json()}

    def put_raw(self, content: Any, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.put(f"{self.url}/matcha/deployments", json=content, headers=headers, timeout=120)

    def shown(self, what: str = "error") -> dict[str, str]:
        """By name, why the model does not answer, or `refused`: why it is not the one asked for last."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.get(f"{self.url}/matcha/deployments", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return {entry["name"]: entry[what] for entry in answer.json()}

    def write_live(self, *entries: Mapping[str, Any]) -> None:
        self.live.write_text(json.dumps({"deployments": entries}))

    def over_grpc(self, python: Path, script: str, *arguments: str) -> Any:
        """What a script of this folder prints as JSON, run with the server's gRPC address by `python`."""
        file = Path(__file__).with_name(script)
        ran = subprocess.run(
            [str(python), str(file), f"127.0.0.1:{self.grpc_port}", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        return json.loads(ran.stdout)

    def infer(self, name: str, content: Any, timeout: float = 60, **headers: str) -> httpx.Response:
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        sent = {"Content-Type": "application/json", **headers}
        return httpx.post(f"{self.url}/v2/models/{name}/infer", content=text, headers=sent, timeout=timeout)

    def wait_ready(self, name: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not httpx.get(f"{self.url}/v2/models/{name}/ready", timeout=5).is_success:
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def ask_slowly(self) -> tuple[threading.Thread, list[httpx.Response]]:
        """A request that `slow` has begun to answer, and will end once the file `go` is made; its answer."""
        answers: list[httpx.Response] = []
        (self.root / "started").unlink(missing_ok=True)
        (self.root / "go").unlink(missing_ok=True)
        asking = threading.Thread(target=self._ask_slowly, args=(answers,), daemon=True)
        asking.start()
        until((self.root / "started").exists, 60)
        return asking, answers

    def _ask_slowly(self, answers: list[httpx.Response]) -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(self.infer("slow", body(tensor("seconds", [600.0])), timeout=600))

    def stop(self) -> float:
        """Seconds that a graceful stop took."""
        began = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise
        return time.monotonic() - began

    def kill(self) -> None:
        self.running.kill()
        self.running.wait(10)


class Receiver:
    """A monitoring service of a few lines: takes captures, remembers them."""

    def __init__(self, port: int = 0, status: int = 202) -> None:
        self.lines: list[dict[str, Any]] = []
        self.dropped: list[int] = []
        self.authorizations: set[str] = set()
        self.status = status
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, self.headers, raw)
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def take(self, path: str, headers: Any, raw: bytes) -> None:
        assert path == "/v1/captures"
        self.authorizations.add(headers["Authorization"])
        self.dropped.append(int(headers["X-Matcha-Dropped"]))
        self.lines += [json.loads(line) for line in raw.splitlines()]

    def wait(self, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        end = time.monotonic() + seconds
        while len(self.lines) < count:
            assert time.monotonic() < end, f"{len(self.lines)} of {count} captures came"
            time.sleep(0.05)
        return self.lines

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


class Load:
    """Clients that ask without pause until told to stop; every answer is remembered."""

    def __init__(self, bench: Bench, name: str, content: Any, clients: int) -> None:
        self.answers: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._work = (bench, name, json.dumps(content))
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def _ask(self) -> None:
        bench, name, content = self._work
        url = f"{bench.url}/v2/models/{name}/infer"
        with httpx.Client(headers={"Content-Type": "application/json"}, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(url, content=content)
                    said = answer.json()["parameters"]["model_version"] if answer.is_success else answer.text
                    self.answers.append((answer.status_code, said))
                except httpx.HTTPError as error:
                    self.answers.append((0, repr(error)))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(35)

    def failures(self) -> list[tuple[int, str]]:
        return [a for a in self.answers if a[0] != 200]

    def wait_for(self, version: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while version not in (v for _, v in self.answers[-5:]):
            assert time.monotonic() < end, self.answers[-3:]
            time.sleep(0.02)


def versions(answers: Iterable[tuple[int, str]]) -> list[str]:
    """The versions in the order in which they first answered."""
    return list(dict.fromkeys(v for _, v in answers))


Make = Callable[..., Bench]


def maker(python: Path, models: Path, root: Path) -> tuple[Make, list[Bench]]:
    """What makes serving processes below `root`, and those that it made."""
    made: list[Bench] = []

    def make(name: str = "serving", **env: str) -> Bench:
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{models / 'registry.db'}"}
        made.append(Bench(python, root / name, **{**tracking, **env}))
        return made[-1]

    return make, made


def stop_all(made: list[Bench]) -> None:
    for bench in made:
        if bench.process is not None and bench.process.poll() is None:
            bench.kill()
