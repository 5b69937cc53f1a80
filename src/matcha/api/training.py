"""A user's own code against the stack: its environment variables, its packages, its process."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha import environments, pythons
from matcha.api import _models
from matcha.api._project import Folder, Project, open_project
from matcha.component import Component, Environment, ModelRegistry, Output
from matcha.errors import BadInput, MatchaError
from matcha.events import Emit, Event, silent
from matcha.state import State
from matcha.target import Job, JobRunner

WORKSPACE = Path(__file__).resolve().parent.parent / "components" / "workspace"
PYTHON = ">=3.10,<3.13"


def env(project: Folder = ".", *, target: str | None = None) -> dict[str, Output]:
    """Environment variables with which MLflow, ZenML and the rest reach this stack."""
    opened = open_project(project, target)
    access = opened.access()
    found: dict[str, Output] = {}
    for component in opened.components:
        found.update(component.client_env(access))
    return {**found, "MATCHA_PROJECT": Output(str(opened.root))}


def connect(project: Folder | None = None) -> dict[str, str]:
    """Set the stack's variables in this process, for notebooks and scripts; returns them.

    Warns (UserWarning) for an installed client library of another version than the stack's. Raises
    NotProvisioned where there is no stack.
    """
    root = project if project is not None else os.environ.get("MATCHA_PROJECT", ".")
    variables = {name: output.value for name, output in env(root).items()}
    os.environ.update(variables)
    for message in client_mismatches(open_project(root, None).components):
        warnings.warn(message, stacklevel=2)
    return variables


def client_mismatches(components: Sequence[Component]) -> list[str]:
    """A sentence for each client library beside this process in another version than the stack's."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    locked = workspace_versions()
    found: list[str] = []
    for package in (name for component in components for name in component.clients):
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if package in locked and installed != locked[package]:
            found.append(f"{package} {installed} is installed here, the stack runs {locked[package]}.")
    return found


def workspace_versions() -> dict[str, str]:
    """Package -> version of the workspace lock."""
    lines = (WORKSPACE / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = (
        line.split(";")[0].split("\\")[0].strip() for line in lines if "==" in line and line[:1].isalnum()
    )
    return {name.partition("[")[0]: pin for name, _, pin in (p.partition("==") for p in pins)}


def run(
    command: Sequence[str],
    *,
    project: Folder = ".",
    target: str | None = None,
    gpu: int = 0,
    cpu: float | None = None,
    memory: str | None = None,
    emit: Emit = silent,
) -> int:
    """Run `command` with the stack's variables set, in an environment that has the stack's client libraries
    and the project's own requirements; the command's exit code.

    The project's requirements are resolved under the serving environment's versions, so that what is
    trained loads where it is served; where they cannot be, that is said and they are resolved without.
    Raises BadInput for an empty command or resources that this target does not have.
    """
    if not command:
        raise BadInput("There is no command to run.", resolution="matcha run -- python train.py")
    opened = open_project(project, target)
    state = opened.state()
    if state.phase == "stopped":
        raise MatchaError("The stack is stopped.", resolution="matcha start")
    runner = opened.target
    if not isinstance(runner, JobRunner):
        raise BadInput(f"The {opened.target.name} target does not run jobs.")
    job = Job(command=tuple(command), gpu=gpu, cpu=cpu, memory=memory)
    runner.check(job)
    python = workspace(opened, emit)
    began = int(time.time() * 1000)
    variables = {n: o.value for n, o in env(opened.root, target=target).items()}
    variables[pythons.CALLER] = f"{sys.version_info.major}.{sys.version_info.minor}"
    variables["PYTHONPATH"] = os.pathsep.join([str(opened.root), str(_importable(opened))])
    code = runner.run(msgspec.structs.replace(job, python=python, env=variables, folder=opened.root))
    _keep_references(opened, state, began, emit)
    return code


def _keep_references(opened: Project, state: State, began: int, emit: Emit) -> None:
    """Sample the training data of the job's runs, for drift to be measured against."""
    tracker = next((c for c in opened.components if isinstance(c, ModelRegistry)), None)
    if tracker and tracker.has_runs_since(opened.target.access(state), began):
        _tell_references(_models.log_references(opened, state, ["--experiment-since", str(began)]), emit)


def _tell_references(said: Mapping[str, Any], emit: Emit) -> None:
    """What is to be said of the job's training data, where drift cannot be measured against it."""
    quiet = ("done", "logged", "exists", "no-dataset")
    for each in (said, *said.get("runs", ())):
        if each.get("status") not in quiet and each.get("message"):
            emit(Event("reference", "note", str(each["message"])))


def _importable(opened: Project) -> Path:
    """A folder from which jobs import this very Matcha, and nothing else of this interpreter."""
    folder = opened.access().folder("python")
    link, package = folder / "matcha", Path(__file__).resolve().parent.parent
    if link.is_symlink() and link.readlink() != package:
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(package, target_is_directory=True)
    return folder


def workspace(opened: Project, emit: Emit) -> Path:
    """The interpreter of the project's own environment, made where it does not exist yet."""
    lock = workspace_lock(opened, emit)
    python = environments.python_for(PYTHON)
    if environments.is_installed(lock, python):
        return environments.environment_path(lock, python) / "bin" / "python"
    emit(Event("environment/workspace", "started", "installing what your code needs"))
    began = time.monotonic()

    def report(progress: environments.InstallProgress) -> None:
        emit(Event("environment/workspace", "progress", str(progress), time.monotonic() - began))

    home = environments.install(lock, python, report=report)
    emit(Event("environment/workspace", "done", "", time.monotonic() - began))
    return home / "bin" / "python"


def workspace_lock(opened: Project, emit: Emit) -> Path:
    """The lock of the workspace with the project's own requirements; the ready-made one where it has none."""
    base = WORKSPACE / "requirements.lock"
    own = own_requirements(opened.root)
    if not own:
        return base
    digest = hashlib.sha256(base.read_bytes() + "\n".join(own).encode()).hexdigest()[:16]
    lock = opened.access().folder("locks") / f"workspace-{digest}.lock"
    if not lock.exists():
        _resolve(own, lock, emit)
    return lock


def _resolve(own: Sequence[str], lock: Path, emit: Emit) -> None:
    base = WORKSPACE / "requirements.lock"
    wanted = [*_plain_lines(WORKSPACE / "requirements.in"), *matcha_requirements(), *own]
    python = environments.python_for(PYTHON)
    emit(Event("environment/workspace", "progress", "resolving the project's requirements"))
    try:
        environments.compile_lock(wanted, constraints=base, python=python, output=lock)
    except environments.EnvironmentUnresolvable as error:
        emit(Event("environment/workspace", "note", f"{_UNCONSTRAINED}\n{error.details}"))
        environments.compile_lock(wanted, constraints=None, python=python, output=lock)


_UNCONSTRAINED = (
    "The project's requirements do not fit the serving environment's versions; resolved without them. "
    "A model trained here gets a serving environment of its own."
)


def matcha_requirements() -> list[str]:
    """What `import matcha` needs in a job; supervisor runs beside the stack only."""
    from importlib.metadata import requires  # noqa: PLC0415 - costs tens of milliseconds

    return [line for line in requires("matcha-ml") or () if not line.startswith("supervisor")]


def own_requirements(root: Path) -> list[str]:
    """Requirement lines of the project: pyproject.toml's [project] dependencies, else requirements.txt."""
    pyproject, listed = root / "pyproject.toml", root / "requirements.txt"
    if pyproject.is_file() and (found := _pyproject(pyproject)):
        return found
    return _plain_lines(listed) if listed.is_file() else []


def _plain_lines(path: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    found: list[str] = []
    for line in lines:
        if line.startswith(("-r ", "--requirement ")):
            found += _plain_lines(path.parent / line.split(None, 1)[1])
        elif line and not line.startswith(("#", "-c ", "--constraint ")):
            found.append(line)
    return found


def _pyproject(path: Path) -> list[str]:
    try:
        if sys.version_info >= (3, 11):
            import tomllib  # noqa: PLC0415

            data: Mapping[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            data = msgspec.toml.decode(path.read_bytes())
    except ValueError as error:
        raise BadInput(f"{path.name} is not valid TOML: {error}") from error
    table = data.get("project")
    return [str(line) for line in table.get("dependencies", [])] if isinstance(table, dict) else []


def workspace_environment() -> Environment:
    """The ready-made workspace, for projects without requirements of their own."""
    return Environment(name="workspace", lock=WORKSPACE / "requirements.lock", python=PYTHON)
