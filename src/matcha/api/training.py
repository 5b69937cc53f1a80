"""A user's own code against the stack: its environment variables, its packages, its process."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha import nearest, pythons
from matcha.access import Output
from matcha.api import _models, _workspace
from matcha.api import queued as remote
from matcha.api._project import Folder, Project, open_project
from matcha.api._workspace import WORKSPACE
from matcha.component import Component, ModelRegistry
from matcha.errors import BadInput, MatchaError, NotProvisioned
from matcha.events import Emit, Event, silent
from matcha.job import Demand, Job, JobQueue, JobRunner
from matcha.state import State


def env(project: Folder = ".", *, target: str | None = None) -> dict[str, Output]:
    """Environment variables with which MLflow, ZenML and the rest reach this stack."""
    opened = open_project(project, target)
    access = opened.access()
    found: dict[str, Output] = dict(access.store_env())
    for component in opened.components:
        try:
            found.update(component.client_env(access))
        except NotProvisioned as error:
            raise opened.lacking(error) from None
    return {**found, "MATCHA_PROJECT": Output(str(opened.root))}


def connect(project: Folder | None = None) -> dict[str, str]:
    """Set the stack's variables in this process, for notebooks and scripts; returns them.

    Without `project` it is what MATCHA_PROJECT names, as in a job; otherwise the nearest folder upwards that
    has a matcha.yaml; otherwise the current one. Warns (UserWarning) for an installed client library of
    another version than the stack's. Raises NotProvisioned where there is no stack.
    """
    if given := os.environ.get(remote.VARIABLES):  # in a job, which has them already
        return {name: os.environ[name] for name in given.split(",") if name in os.environ}
    root, how = _where(project)
    try:
        variables = {name: output.value for name, output in env(root).items()}
    except NotProvisioned as error:
        error.details = "\n".join(filter(None, [f"Looked in {root}{how}.", error.details]))
        raise
    os.environ.update(variables)
    for message in client_mismatches(open_project(root, None).components):
        warnings.warn(message, stacklevel=2)
    return variables


def _where(project: Folder | None) -> tuple[Path, str]:
    """The project's folder, and how it was found."""
    if project is not None:
        return Path(project).resolve(), ""
    if told := os.environ.get("MATCHA_PROJECT"):
        return Path(told).resolve(), ", as MATCHA_PROJECT says"
    here = Path().resolve()
    found = nearest.project(here)
    if found is None:
        return here, f"; neither it nor a folder above it has a {nearest.FILE}"
    return found, "" if found == here else f", the nearest folder above {here} that has a {nearest.FILE}"


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
    folder: Folder | None = None,
    gpu: int = 0,
    cpu: float | None = None,
    memory: str | None = None,
    image: str = "",
    detach: bool = False,
    pipeline: bool = False,
    emit: Emit = silent,
    say: remote.Say = lambda _: None,
) -> int:
    """Run `command` with the stack's variables set, in an environment that has the stack's client libraries
    and the project's own requirements; the command's exit code.

    `folder` is where it runs: one of the project, whose own is taken without it. The project's requirements
    are resolved under the serving environment's versions, so that what is trained loads where it is served;
    where they cannot be, that is said and they are resolved without.

    On a target with machines of its own the project's files go there, as .gitignore has them, and `say` gets
    what the job writes, line by line; on this machine it writes to this process's own output. `image`: one to
    run in instead, with its own packages. `detach`: return once it is queued; `say` gets its name.
    `pipeline`: the command runs on this machine, and each step of a pipeline that it starts is a job there,
    of the step's own size; the demands here are of steps that say nothing. Without such machines it changes
    nothing.

    Raises BadInput for an empty command, a folder elsewhere, or resources that this target does not have.
    """
    if not command or not command[0].strip():
        raise BadInput("There is no command to run.", resolution="matcha run -- python train.py")
    opened = open_project(project, target)
    where = _inside(opened, folder)
    state = opened.state()
    if state.phase == "stopped":
        raise MatchaError("The stack is stopped.", resolution="matcha start")
    runner, demand = opened.target, Demand(gpu=gpu, cpu=cpu, memory=memory)
    if isinstance(runner, JobQueue):
        if pipeline:
            return _lead(opened, runner, command, demand, where, image or detach, target, emit, say)
        return remote.run_remote(
            opened, runner, command, demand, where, image=image, detach=detach, emit=emit, say=say
        )
    if image or detach:
        raise BadInput(
            f"Jobs on the {runner.name} target run in this terminal, and in no image.",
            resolution="Run it without --image and --detach, or on a cluster.",
        )
    if not isinstance(runner, JobRunner):
        raise BadInput(
            f"The {opened.target.name} target does not run jobs.",
            details="Your own code reaches the stack with its environment variables set.",
            resolution="matcha env",
        )
    runner.check(demand)
    began = int(time.time() * 1000)
    code = runner.run(_here(opened, command, demand, where, target, emit))
    _keep_references(opened, state, where, began, emit)
    return code


def _here(
    opened: Project,
    command: Sequence[str],
    demand: Demand,
    where: Path,
    target: str | None,
    emit: Emit,
) -> Job:
    """The command as a process of this machine."""
    workspace = _workspace.prepare(opened, emit)
    variables = {n: o.value for n, o in env(opened.root, target=target).items()}
    variables[pythons.CALLER] = f"{sys.version_info.major}.{sys.version_info.minor}"
    imported = (opened.root, _importable(opened), *workspace.packages)
    variables["PYTHONPATH"] = os.pathsep.join(map(str, imported))
    return Job(command=tuple(command), demand=demand, python=workspace.python, env=variables, folder=where)


def _lead(
    opened: Project,
    queue: JobQueue,
    command: Sequence[str],
    demand: Demand,
    where: Path,
    alone: bool | str,
    target: str | None,
    emit: Emit,
    say: remote.Say,
) -> int:
    """`alone`: an option was given that is for a single job."""
    from matcha.api import pipelines  # noqa: PLC0415 - of those that run jobs, the fewest run these

    if alone:
        raise BadInput(
            "A pipeline is led from this terminal, and its steps run in the project's environment.",
            resolution="Run it without --image and --detach, or without --pipeline, as one job.",
        )
    queue.check_files(opened.root)
    like = remote.described(opened, queue, (), demand, where, "", emit)
    job = _here(opened, command, demand, where, target, emit)
    return pipelines.lead(
        opened, queue, job, msgspec.structs.replace(like, shown=tuple(command)), emit=emit, say=say
    )


def runs_jobs(project: Folder = ".", *, target: str | None = None) -> bool:
    """Whether `run` is of use there."""
    return isinstance(open_project(project, target).target, (JobRunner, JobQueue))


def _inside(opened: Project, folder: Folder | None) -> Path:
    """Raises BadInput for a folder that is not in the project."""
    where = opened.root if folder is None else Path(folder).resolve()
    if not where.is_relative_to(opened.root):
        raise BadInput(f"{where} is not in the project {opened.root}.", resolution="matcha run --help")
    return where


def _keep_references(opened: Project, state: State, where: Path, began: int, emit: Emit) -> None:
    """Sample the training data of the job's runs, for drift to be measured against."""
    tracker = next((c for c in opened.components if isinstance(c, ModelRegistry)), None)
    if tracker and tracker.has_runs_since(opened.target.access(state), began):
        since = ["--experiment-since", str(began)]
        _tell_references(_models.log_references(opened, state, since, where), emit)


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
