"""Runs the real command line as a process of its own, in a project on the fake target."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from matcha.registry import component_catalogue

ENTRY = [sys.executable, "-c", "from matcha.cli.main import run; run()"]
TIMEOUT = 60
KEPT = ("experiment-tracker", "data-version-control")  # their set-up needs no server that answers


class Done(NamedTuple):
    code: int
    out: str
    err: str


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "TERM": "dumb", "LANG": "C.UTF-8"}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, **own, **(more or {})}


class Project:
    """A folder in which `matcha` is typed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder.parent / "home"
        self.home.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)

    @property
    def file(self) -> Path:
        return self.folder / "matcha.yaml"

    def write(self, extra: str = "", kept: Sequence[str] = KEPT) -> None:
        """A stack file for the fake target, with the components `kept` alone."""
        left_out = [role for role in component_catalogue() if role not in kept]
        components = "".join(f"  {role}: null\n" for role in left_out)
        self.file.write_text(f"target: fake\ncomponents:\n{components or '  {}'}\n{extra}")

    def __call__(self, *arguments: str, stdin: str = "", where: Path | None = None, **env: str) -> Done:
        done = subprocess.run(
            [*ENTRY, *arguments],
            cwd=where or self.folder,
            env=environment(self.home, env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def redirected(self, redirection: str, *arguments: str, **env: str) -> Done:
        """With a shell's redirection behind it, such as `>&-`."""
        done = subprocess.run(
            ["sh", "-c", f"exec {shlex.join([*ENTRY, *arguments])} {redirection}"],
            cwd=self.folder,
            env=environment(self.home, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Not waited for; the caller ends it."""
        return subprocess.Popen(
            [*ENTRY, *arguments],
            cwd=self.folder,
            env=environment(self.home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def typed(self, *arguments: str, answers: Sequence[str], **env: str) -> Done:
        """On a terminal: each answer is typed once its turn's question (`] ` or `: `) stands there."""
        return _on_terminal([*ENTRY, *arguments], self.folder, environment(self.home, env), list(answers))


def _on_terminal(command: list[str], folder: Path, env: dict[str, str], answers: list[str]) -> Done:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=_own_terminal,  # noqa: PLW1509 - this process has no threads
    )
    os.close(slave)
    seen, asked, deadline = "", 0, time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < deadline:
            text = _read(master)
            if text is None:
                break
            seen += text
            if answers and seen[asked:].rstrip("\n").endswith(("] ", ": ")):
                asked = len(seen)
                _until_it_waits(process.pid)
                os.write(master, answers.pop(0).encode())
        return Done(process.wait(timeout=10), seen.replace("\r\n", "\n"), "")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _until_it_waits(pid: int) -> None:
    """A signal that comes between the question and the wait for its answer is noticed only with the answer:
    nobody types that fast.
    """
    waiting, deadline = 0, time.monotonic() + TIMEOUT
    while waiting < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = waiting + 1 if psutil.Process(pid).status() == psutil.STATUS_SLEEPING else 0


def _own_terminal() -> None:
    """Makes stdin the terminal that Ctrl-C on it interrupts."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(master: int) -> str | None:
    """What came within a moment; None once the other side is closed."""
    if not select.select([master], [], [], 0.2)[0]:
        return ""
    try:
        return os.read(master, 65536).decode() or None
    except OSError:  # Linux says so when the last writer is gone
        return None


@pytest.fixture
def matcha(tmp_path: Path) -> Project:
    """A project with a stack file, not provisioned."""
    project = Project(tmp_path / "project")
    project.write()
    return project


@pytest.fixture
def stack(matcha: Project) -> Project:
    """The same, provisioned."""
    done = matcha("provision", "--yes")
    assert done.code == 0, done.err
    return matcha
