"""The bare tools, started by hand as their documentation says, lean: one worker, no job processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import places

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "ZENML_ANALYTICS_OPT_IN": "false"}


@dataclass(frozen=True)
class Server:
    """A command to start, and the URL that answers 2xx when it can do its work."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    health: str


@dataclass(frozen=True)
class Running:
    """Servers that were started; `seconds` until each was healthy, counted from the first start."""

    seconds: Mapping[str, float]
    pids: tuple[int, ...]

    def processes(self) -> list[psutil.Process]:
        return [process for pid in self.pids for process in places.family(pid)]


def mlflow(python: Path, folder: Path) -> Server:
    [port] = places.free_ports(1)
    command = (
        *(str(python.parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    )
    return Server(command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, f"http://127.0.0.1:{port}/health")


def zenml(python: Path, folder: Path) -> Server:
    [port] = places.free_ports(1)
    app = "zenml.zen_server.zen_server_api:app"
    command = (str(python), "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port))
    env = {
        "ZENML_CONFIG_PATH": str(folder / "zenml"),
        "ZENML_SERVER_AUTO_ACTIVATE": "1",
        "ZENML_DEFAULT_USER_NAME": "admin",
        "ZENML_DEFAULT_USER_PASSWORD": "only-for-this-benchmark",
    }
    return Server(command, env, f"http://127.0.0.1:{port}/health")


def mlserver(python: Path, folder: Path) -> Server:
    """Serves the models whose folders, each with a model-settings.json, lie in `folder`."""
    http, grpc, metrics = places.free_ports(3)
    settings = {
        **{"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics},
        "parallel_workers": 0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    command = (str(python.parent / "mlserver"), "start", str(folder))
    return Server(command, {}, f"http://127.0.0.1:{http}/v2/health/ready")


def all_servers(environments: Mapping[str, Path], folder: Path) -> dict[str, Server]:
    """MLflow, ZenML and MLServer with fresh databases below `folder`."""
    pythons = {name: path / "bin" / "python" for name, path in environments.items()}
    return {
        "mlflow": mlflow(pythons["mlflow"], folder),
        "zenml": zenml(pythons["zenml"], folder),
        "mlserver": mlserver(pythons["mlserver"], folder / "mlserver"),
    }


@contextmanager
def running_all(environments: Mapping[str, Path]) -> Iterator[Running]:
    """As `running`, all three in a folder of their own."""
    with places.scratch() as folder, running(all_servers(environments, folder), folder) as started:
        yield started


@contextmanager
def running(servers: Mapping[str, Server], folder: Path) -> Iterator[Running]:
    """All at once; yields when all are healthy."""
    started: list[subprocess.Popen[bytes]] = []
    began = time.monotonic()
    try:
        for name, server in servers.items():
            started.append(_start(server, folder / f"{name}.log", folder))
        seconds = places.wait_for({name: server.health for name, server in servers.items()}, began)
        yield Running(seconds, tuple(process.pid for process in started))
    finally:
        # With their children: MLflow forks, and its worker must not outlive it.
        places.end([process for one in started for process in _family(one)])
        for one in started:
            one.wait(20)


def _start(server: Server, log: Path, folder: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            server.command,
            env=places.user_env(**QUIET, **server.env),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return places.family(process.pid) if process.poll() is None else []
