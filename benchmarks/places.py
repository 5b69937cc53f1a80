"""Environments, ports and processes that both sides of a benchmark use alike."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil

from matcha import environments, registry
from matcha.component import Component
from matcha.service import Environment, Service

COMPILE_SECONDS = 600.0
# What the variables of a test run or of another stack would change; servers write bytecode as a user's do.
FOREIGN = ("MLFLOW_", "ZENML_", "MLSERVER_", "MATCHA_PROJECT", "PYTHONDONTWRITEBYTECODE", "XDG_DATA_HOME")


def user_env(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return {**kept, "NO_COLOR": "1", **more}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes at the end, whatever half-stopped process still writes into it."""
    with TemporaryDirectory(prefix="matcha-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def components() -> list[Component]:
    return [c(c.Options()) for flavors in registry.component_catalogue().values() for c in flavors.values()]


def services() -> list[Service]:
    """Those of a default stack that serves no model yet."""
    return [service for component in components() for service in component.services(())]


def wanted() -> dict[str, Environment]:
    """The environments that a default stack's servers run in, by name."""
    used = {service.environment for service in services()}
    return {e.name: e for component in components() for e in component.environments() if e.name in used}


def installed() -> dict[str, Path]:
    """Folders of those environments, installed and with all bytecode compiled."""
    made = {name: _install(environment) for name, environment in wanted().items()}
    for folder in made.values():
        environments.compile_rest(folder)
    deadline = time.monotonic() + COMPILE_SECONDS
    for folder in made.values():
        while not (folder / environments.BYTECODE_MARKER).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"bytecode of {folder} is not compiled")
            time.sleep(0.5)
    return made


def _install(environment: Environment) -> Path:
    python = environments.python_for(environment.python)
    return environments.install(environment.lock, python, warm=environments.warm_modules(environment.warm))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(url: str) -> bool:
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=3)
    try:
        link.request("GET", parts.path)
        return 200 <= link.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def wait_for(urls: Mapping[str, str], began: float, seconds: float = 240.0) -> dict[str, float]:
    """Seconds from `began` (monotonic) until each URL answered 2xx, by name. Raises TimeoutError."""
    took: dict[str, float] = {}
    while len(took) < len(urls):
        for name, url in urls.items():
            if name not in took and answers(url):
                took[name] = time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"no answer from {sorted(set(urls) - set(took))} in {seconds:g} s")
        time.sleep(0.05)
    return took


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def megabytes(processes: list[psutil.Process]) -> float:
    """Memory in MB that these processes have for themselves and as their share of what they map with others
    (PSS; where the system does not tell it, only what is their own).
    """
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            told = process.memory_full_info()
            total += getattr(told, "pss", 0) or told.uss
    return total / 1e6


def end(processes: list[psutil.Process], grace: float = 20.0) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=grace)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
