"""The real command line against a project folder, and an independent look at what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

COMMAND = (sys.executable, "-m", "matcha.cli")
LONG = 900.0  # seconds; a first install on a slow machine and a cold cache


class Matcha:
    """`matcha` in the folder `project`, with user data under `home`; the cache is the user's own."""

    def __init__(self, project: Path, home: Path) -> None:
        self.project = project
        self.home = home
        project.mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        """As a user's shell has it: nothing that another stack or this test run set."""
        dropped = ("MLFLOW_", "ZENML_", "MATCHA_PROJECT", "PYTHONDONTWRITEBYTECODE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        return {**kept, "XDG_DATA_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "100"}

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*COMMAND, *args], cwd=self.project, env=self.env, text=True, **options)

    def __call__(
        self,
        *args: str,
        code: int | None = 0,
        stdin: str = "",
        timeout: float = LONG,
        env: Mapping[str, str] | None = None,
        where: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; fails the test, showing all output, for another exit code than `code`."""
        done = subprocess.run(
            [*COMMAND, *args],
            cwd=where or self.project,
            env={**self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"matcha {' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *args: str, code: int | None = 0) -> Any:
        return json.loads(self(*args, "--output", "json", code=code).stdout)

    def url(self, resource: str, prop: str) -> str:
        return self("get", resource, prop).stdout.strip()

    def predict_url(self, name: str) -> str:
        return f"{self.url('model-deployer', 'base-url')}/v2/models/{name}/infer"

    @property
    def stack(self) -> Path:
        return self.project / ".matcha" / "stack"

    def secrets(self) -> dict[str, str]:
        [path] = self.home.glob("matcha/stacks/*/secrets.json")
        return dict(json.loads(path.read_text()))

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.stack / "supervisor" / "supervisord.pid").read_text()))

    def services(self) -> dict[str, int]:
        """Pid of each service's first process: a child of the supervisor's."""
        marks = {p.pid: _environ(p).get("MATCHA_PROGRAM", "") for p in self.supervisor().children()}
        return {name: pid for pid, name in marks.items() if name}

    def processes(self) -> list[psutil.Process]:
        """Every process of this user that names the project in its arguments, environment or folder."""
        return processes_of(self.project)

    def left(self) -> list[str]:
        """What a destroyed stack still has: processes, files of the project, files of the user."""
        own = self.project / ".matcha"
        files = [*([own] if own.exists() else []), *own.rglob("*"), *self.home.rglob("*")]
        return [*map(str, self.processes()), *map(str, files)]


def processes_of(project: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _names(p, str(project))]


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return {}


def _names(process: psutil.Process, text: str) -> bool:
    try:
        told = [*process.cmdline(), *process.environ().values(), process.cwd()]
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return False
    return any(text in word for word in told)


def until(what: Callable[[], Any], seconds: float, every: float = 0.1) -> Any:
    """The first true answer of `what`; fails the test when none came in time."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := what():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing within {seconds} s")
        time.sleep(every)
