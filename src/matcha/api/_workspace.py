"""The environment of a project's own code: the stack's client libraries and what the project requires."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matcha import environments, lockfiles, requirements
from matcha.api._project import Project
from matcha.errors import BadInput
from matcha.events import Emit, Event
from matcha.requirements import Required
from matcha.service import Environment

WORKSPACE = Path(__file__).resolve().parent.parent / "components" / "workspace"
PYTHON = ">=3.10,<3.13"
SUBJECT = "environment/workspace"
_UNCONSTRAINED = (
    "The project's requirements do not fit the serving environment's versions; resolved without them. "
    "A model trained here gets a serving environment of its own."
)


class Workspace(NamedTuple):
    """An interpreter, and the folders of packages that stand beside its own."""

    python: Path
    packages: tuple[Path, ...] = ()


def environment() -> Environment:
    """The ready-made workspace, for projects without requirements of their own."""
    return Environment(name="workspace", lock=WORKSPACE / "requirements.lock", python=PYTHON)


def prepare(opened: Project, emit: Emit) -> Workspace:
    """The project's workspace, made where it does not exist yet.

    Requirements that have no hash, such as folders of the project, change without their name changing. They
    stay out of the shared environment, and stand in a folder of the stack.
    """
    own = requirements.of_project(opened.root)
    lock = _lock(opened, own, emit)
    python = _install(lock, emit)
    listed = lock.with_suffix(".unlocked")
    return Workspace(python, (_packages(opened, listed, own, python, emit),) if listed.exists() else ())


class Distant(NamedTuple):
    """What a job on another machine needs: its environment, and folders of packages that go with its code."""

    environment: Environment
    packages: Path | None = None


def distant(opened: Project, python: str, emit: Emit) -> Distant:
    """The project's workspace for machines that run `python` ("3.12"), resolved here and built there.

    Raises BadInput for a package of the project that only this machine could run.
    """
    own = requirements.of_project(opened.root)
    if own.shelves:
        raise BadInput(
            f"The project's packages are in a folder of this machine: {own.shelves[0]}",
            details="Jobs run on other machines, in an environment that is built from package indexes.",
            resolution="Publish them to an index: targets.kubernetes.index-url in matcha.yaml names it",
        )
    lock = _lock(opened, own, emit, python)
    made = Environment(name="workspace", lock=lock, python=PYTHON)
    listed = lock.with_suffix(".unlocked")
    if not listed.exists():
        return Distant(made)
    folder = _packages(opened, listed, own, Path(sys.executable), emit)
    if built := next((path for path in sorted(folder.rglob("*.so"))), None):
        raise BadInput(
            f"A package of the project was compiled for this machine: {built.relative_to(folder)}",
            details="Jobs run on other machines, in an environment that is built from package indexes.",
            resolution="Publish it to an index, or give the job an image that has it: matcha run --image",
        )
    return Distant(made, folder)


def _install(lock: Path, emit: Emit) -> Path:
    python = environments.python_for(PYTHON)
    if environments.is_installed(lock, python):
        return environments.environment_path(lock, python) / "bin" / "python"
    emit(Event(SUBJECT, "started", "installing what your code needs"))
    began = time.monotonic()

    def report(progress: environments.InstallProgress) -> None:
        emit(Event(SUBJECT, "progress", str(progress), time.monotonic() - began))

    home = environments.install(lock, python, report=report)
    emit(Event(SUBJECT, "done", "", time.monotonic() - began))
    return home / "bin" / "python"


def _lock(opened: Project, own: Required, emit: Emit, python: str = "") -> Path:
    """The lock of the workspace with the project's own requirements; the ready-made one where it has none.

    `python`: of other machines; empty for this one.
    """
    base = WORKSPACE / "requirements.lock"
    if not own.lines:
        return base
    about = [base.read_bytes(), *requirements.described(own)]
    about += [f"-c {line}".encode() for line in own.limits]
    about += [f"for {python}".encode()] if python else []
    lock = opened.access().folder("locks") / f"workspace-{_digest(about)}.lock"
    if not lock.exists():
        _resolve(own, lock, emit, python)
    return lock


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _resolve(own: Required, lock: Path, emit: Emit, python: str) -> None:
    emit(Event(SUBJECT, "progress", "resolving the project's requirements"))
    whole = lock.with_suffix(".whole")
    clients = requirements.of_file(WORKSPACE / "requirements.in").lines
    _compile([*clients, *_matcha(), *own.lines], own.limits, whole, emit, python)
    locked, unlocked = lockfiles.split(whole.read_text())
    if unlocked:
        lockfiles.write_whole(lock.with_suffix(".unlocked"), unlocked)
    lockfiles.write_whole(lock, locked)  # last: what is beside it is there when it is
    whole.unlink()


def _compile(
    wanted: Sequence[str], limits: Sequence[str], output: Path, emit: Emit, python: str = ""
) -> None:
    def resolve(constraints: Path | None) -> None:
        environments.compile_lock(
            wanted,
            constraints=constraints,
            limits=limits,
            python=python or environments.python_for(PYTHON),
            output=output,
            universal=bool(python),
        )

    try:
        resolve(WORKSPACE / "requirements.lock")
    except environments.EnvironmentUnresolvable as error:
        resolve(None)  # the note stands only where this works
        emit(Event(SUBJECT, "note", f"{_UNCONSTRAINED}\n{error.details}"))


def _matcha() -> list[str]:
    """What `import matcha` needs in a job; supervisor runs beside the stack only."""
    from importlib.metadata import requires  # noqa: PLC0415 - costs tens of milliseconds

    return [line for line in requires("matcha-ml") or () if not line.startswith("supervisor")]


def _packages(opened: Project, listed: Path, own: Required, python: Path, emit: Emit) -> Path:
    """The folder of what is `listed`, made anew when a source has changed.

    Earlier ones stay until the stack goes: a job may be running with them.
    """
    about = [listed.read_bytes(), str(python).encode(), *map(requirements.fingerprint, own.trees)]
    folder = opened.access().folder("packages") / _digest(about)
    if not folder.exists():
        emit(Event(SUBJECT, "progress", "building packages of the project"))
        environments.install_apart(listed, python, folder)
    return folder
