"""The monitoring service as a process, and what tests send it and read of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from matcha.component import Deployment
from matcha.components.monitoring import Monitoring
from matcha.components.monitoring.component import Options
from matcha.service import PLACEHOLDER, Service
from support.objectstore import ACCESS_KEY, SECRET_KEY
from support.serving import answers, free_port

TOKEN = "capture-secret"
START_SECONDS = 60.0


class Bench:
    """Started from the component's own description; `rules` are laid over its settings.

    `store`: a folder, as on a local stack, or the URL of an object store with the bucket `matcha`.
    """

    def __init__(
        self,
        python: Path,
        root: Path,
        mlflow: str,
        deployments: Sequence[Deployment] = (),
        store: str = "",
        secret: str = SECRET_KEY,
        trust: str = "",
        apart: str = "",
    ) -> None:
        self.python = python
        self.root = root
        self.mlflow = mlflow
        self.apart = apart
        self.endpoint = store if store.startswith("http") else ""
        self.area = "s3://matcha/monitoring" if self.endpoint else store or str(root / "area")
        self.keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
        self.keys |= {"SSL_CERT_FILE": trust} if trust else {}
        self.rules: dict[str, Any] = {"tick_seconds": 3600}  # windows by themselves only where a test asks
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = root / "volume"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        root.mkdir(parents=True, exist_ok=True)
        self.deploy(*deployments)

    def deploy(self, *deployments: Deployment) -> None:
        """Rewrite the live file, as a target does."""
        (self.root / "deployments.json").write_bytes(msgspec.json.encode(deployments))

    def start(self, **rules: Any) -> None:
        self.rules |= rules
        service = self.service()
        settings = json.loads(service.files.get("settings.json", "{}")) | self.rules
        (self.root / "settings.json").write_text(json.dumps(settings))
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.python), *map(self._resolve, service.command)],
                cwd=self.root,
                env=self._env(service),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not answers(f"{self.url}{service.health.path}"):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def service(self) -> Service:
        return Monitoring(Options()).services(())[0]

    def _env(self, service: Service) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        own = {k: self._resolve(v) for k, v in service.env.items()}
        code = ":".join(map(str, service.code))
        store = {**self.keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1"}
        given = store if self.endpoint else {}
        return {**kept, **own, **given, "PYTHONPATH": code, "MATCHA_CAPTURE_TOKEN": TOKEN}

    def _resolve(self, text: str) -> str:
        places = {
            "bind": "127.0.0.1",
            "port:http": str(self.port),
            "hosts": f"127.0.0.1:{self.port},localhost:{self.port}",
            "volume:captures": str(self.data),
            "volume:work": str(self.data),
            "url:monitoring-work": self.apart,
            "store:monitoring": self.area,
            "files": str(self.root),
            "live": str(self.root),
            "url:experiment-tracker": self.mlflow,
        }
        return PLACEHOLDER.sub(lambda found: places[found[0].strip("{}")], text)

    def end(self, how: int = signal.SIGTERM) -> None:
        """Only the service itself: what it started must end by itself."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(20)
            self.client.close()
            self.client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        found = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, row.split())) for row in found.splitlines()]
        return [child for child, parent in pairs if parent == self.pid]

    def kill(self, victim: str) -> None:
        """The `service`, which is started again, or its `worker`s."""
        if victim == "service":
            self.end(signal.SIGKILL)
            self.start()
            return
        for worker in self.workers():
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    # what a sender and a person do

    def send(self, body: bytes, **headers: str) -> httpx.Response:
        given = {"Authorization": f"Bearer {TOKEN}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.client.post("/v1/captures", content=body, headers=given)

    def feed(self, lines: Sequence[bytes], batch: int = 1000) -> None:
        for start in range(0, len(lines), batch):
            answer = self.send(b"\n".join(lines[start : start + batch]))
            assert answer.status_code == 202, answer.text

    def ask_for_window(self) -> None:
        """Whatever comes of it."""
        with suppress(httpx.HTTPError, AssertionError):
            self.window()

    def window(self, name: str = "movie", take_in: bool = True) -> dict[str, Any]:
        answer = self.client.post(f"/v1/deployments/{name}/windows", json={"take_in": take_in})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def about(self, name: str = "movie") -> dict[str, Any]:
        found: dict[str, Any] = next(d for d in self.get("/v1/deployments").json() if d["name"] == name)
        return found


class Apart(Bench):
    """What makes windows apart, as a process of its own."""

    def service(self) -> Service:
        return Monitoring(Options()).services(())[1]


def line(columns: dict[str, Any], *, output: float = 0.5, **changes: Any) -> bytes:
    """One captured request of one row; a value that is a str goes as BYTES."""
    tensors = [[name, "BYTES" if isinstance(v, str) else "FP64", [1, 1], [v]] for name, v in columns.items()]
    sound = {
        "d": "movie",
        "v": "1",
        "t": time.time(),
        "id": uuid.uuid4().hex,
        "n": 1,
        "in": tensors,
        "out": [["prediction", "FP64", [1], [output]]],
    }
    return json.dumps({**sound, **changes}).encode()


def traffic(
    rows: int, columns: int = 20, *, seed: int, shift: dict[int, float] | None = None, **changes: Any
) -> list[bytes]:
    """Standard normal columns x0, x1, ...; `shift` adds to some."""
    rng = random.Random(seed)
    moved = shift or {}
    drawn = ({f"x{j}": rng.gauss(moved.get(j, 0.0), 1) for j in range(columns)} for _ in range(rows))
    return [line(row, **changes) for row in drawn]
