"""Matcha as a user runs it: its command in a fresh project, with fresh user data and the user's own cache."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import places

SECONDS = 900.0


def command() -> list[str]:
    """The installed script of this interpreter's environment."""
    script = Path(sys.executable).with_name("matcha")
    return [str(script)] if script.exists() else [sys.executable, "-m", "matcha.cli"]


@dataclass(frozen=True)
class Project:
    """A project folder below `root`. `env` is added to the user's environment."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / "project"

    def __call__(self, *arguments: str) -> str:
        """What it wrote to stdout. Raises RuntimeError with all it said where it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [*command(), *arguments],
            cwd=self.folder,
            env=places.user_env(XDG_DATA_HOME=str(self.root / "data"), **self.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"matcha {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def timed(self, *arguments: str) -> float:
        """Seconds from the start of the command to its end."""
        began = time.monotonic()
        self(*arguments)
        return time.monotonic() - began

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--output", "json"))

    def processes(self) -> list[psutil.Process]:
        """Supervisor, listener and servers."""
        pid = self.folder / ".matcha" / "stack" / "supervisor" / "supervisord.pid"
        return places.family(int(pid.read_text()))


@contextmanager
def project(**env: str) -> Iterator[Project]:
    """One that is destroyed at the end, whatever was done with it."""
    with places.scratch() as root:
        made = Project(root, env)
        try:
            yield made
        finally:
            made("destroy", "--yes", "--delete-data")
