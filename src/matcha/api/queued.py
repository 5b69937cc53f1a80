"""Training jobs: run on a target's machines, listed, followed, ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

from matcha.access import Output
from matcha.api import _relayed, _workspace, serving
from matcha.api._project import Folder, Project, open_project
from matcha.api.types import DeployResult
from matcha.component import ModelRegistry
from matcha.errors import BadInput, MatchaError, NotFound
from matcha.events import Emit, Event, silent
from matcha.job import OVER, Demand, JobQueue, Jobs, JobStatus, RemoteJob
from matcha.target import OnePython

BESIDE = ".matcha"  # what goes along stands there, in the project's folder
VARIABLES = "MATCHA_VARIABLES"  # names of those that are the stack's
Say = Callable[[str], None]


def jobs(project: Folder = ".", *, target: str | None = None) -> list[JobStatus]:
    """The jobs of the stack, newest first: on this machine those that run, in a cluster also those that ended
    within the last day.
    """
    opened = open_project(project, target)
    opened.state()
    return list(_known(opened).jobs())


def cancel(name: str, project: Folder = ".", *, target: str | None = None) -> JobStatus:
    """End a job; what it was before. Raises NotFound; MatchaError for one that is over."""
    opened = open_project(project, target)
    opened.state()
    found = next((job for job in _known(opened).jobs() if job.name == name), None)
    if found and found.condition in OVER:
        raise MatchaError(f"{name} is over: it {_said(found)}.", resolution="matcha jobs list")
    _known(opened).cancel(name)  # which says what it is not
    return found or JobStatus(name=name, condition="running")


def job_logs(
    name: str,
    project: Folder = ".",
    *,
    target: str | None = None,
    lines: int = 100,
    follow: bool = False,
    emit: Emit = silent,
) -> Iterator[str]:
    """What a job wrote: the last `lines`; with `follow` all that comes, until it is over. Raises NotFound."""
    opened = open_project(project, target)
    opened.state()
    queue = _queue(opened)
    if follow:
        yield from followed(opened, queue, name, target, emit, lines=lines)
        emit(Event(f"job/{name}", "note", f"{name} {_said(queue.job(name))}."))
        return
    ours, said = _addresses(opened), queue.job_log(name, lines=lines + 1)
    if len(said) > lines:
        more = f"The last {lines} lines; more of them by --lines."
        emit(Event(f"job/{name}", "note", more))
    yield from (_as_here(line, ours) for line in (said[-lines:] if lines else ()))
    found = queue.job(name)
    if not said and found.condition not in OVER:
        emit(Event(f"job/{name}", "note", f"{name} wrote nothing yet: {found.detail or found.condition}."))


def run_remote(
    opened: Project,
    queue: JobQueue,
    command: Sequence[str],
    demand: Demand,
    where: Path,
    *,
    image: str,
    detach: bool,
    emit: Emit,
    say: Say,
) -> int:
    """The job's exit code; 0 with `detach`, once it is queued.

    Ctrl-C ends the job. Whatever else ends this process does not: `job_logs` goes on with it.
    """
    for note in queue.check_remote(demand, image):
        emit(Event("job", "note", note))
    queue.check_files(opened.root)
    name = queue.submit(described(opened, queue, command, demand, where, image, emit), emit)
    if detach:
        say(name)
        emit(Event(f"job/{name}", "note", f"Queued. Its log: matcha jobs logs {name} --follow"))
        return 0
    try:
        emit(Event(f"job/{name}", "note", f"{name} is queued, and goes on without this terminal."))
        # Closed before Ctrl-C is heeded: nothing is deployed for a job that is being ended.
        with contextlib.closing(followed(opened, queue, name, opened.target.name, emit, lines=-1)) as lines:
            for line in lines:
                say(line)
    except KeyboardInterrupt:
        emit(Event(f"job/{name}", "note", f"Ending {name}."))
        _end(queue, name)
        raise
    except NotFound:
        raise
    except MatchaError as error:
        error.resolution = f"matcha jobs logs {name} --follow"  # the job itself goes on
        raise
    return _ended(queue.job(name), emit)


def _end(queue: JobQueue, name: str) -> None:
    """Raises MatchaError, saying that the job may go on."""
    try:
        queue.cancel(name)
    except NotFound:
        return
    except MatchaError as error:
        error.message = f"{name} could not be ended, and may go on. {error.message}"
        error.resolution = f"matcha jobs cancel {name}"
        raise


def followed(
    opened: Project, queue: JobQueue, name: str, target: str | None, emit: Emit, *, lines: int
) -> Generator[str, None, None]:
    """A job's log, doing what it asks for meanwhile."""
    ours = _addresses(opened)
    with _relayed.answering(queue, name, _deploying(opened, target, emit), emit):
        for line in queue.follow(name, emit, lines=lines):
            yield _as_here(line, ours)


def _deploying(opened: Project, target: str | None, emit: Emit) -> _relayed.Do:
    """What a job asks for is done as whoever follows it would by hand."""

    def do(wish: _relayed.Wish) -> DeployResult:
        return serving.deploy(
            wish.model,
            name=wish.name,
            sensitive=wish.sensitive,
            dedicated=wish.dedicated,
            project=opened.root,
            target=target,
            emit=emit,
        )

    return do


def _addresses(opened: Project) -> dict[str, str]:
    """Base URLs in the stack -> those that lead there from this machine."""
    with contextlib.suppress(MatchaError):  # a stopped stack has none
        there, here = _queue(opened).inside(opened.state()), opened.access()
        roles = [c.role for c in opened.components if c.services(())]
        return {there.url(role): here.url(role) for role in roles}
    return {}


def _as_here(line: str, addresses: Mapping[str, str]) -> str:
    """A link that a job writes leads to the same page for whoever reads it."""
    for there, here in addresses.items():
        line = line.replace(there, here)
    return line


def _ended(found: JobStatus, emit: Emit) -> int:
    """Raises MatchaError for a job whose command never came to an end of its own."""
    if found.condition == "succeeded":
        return 0
    if found.condition == "cancelled" or found.exit_code <= 0:
        raise MatchaError(
            f"{found.name} {_said(found)}.", resolution=found.resolution or f"matcha jobs logs {found.name}"
        )
    then = f" {found.resolution}" if found.resolution else ""
    emit(Event(f"job/{found.name}", "note", f"{found.name}: {found.detail}.{then}"))
    return found.exit_code


def _said(found: JobStatus) -> str:
    if found.condition == "cancelled":
        return f"was {found.detail}"
    return f"{found.condition}: {found.detail}" if found.detail else found.condition


def described(
    opened: Project,
    queue: JobQueue,
    command: Sequence[str],
    demand: Demand,
    where: Path,
    image: str,
    emit: Emit,
) -> RemoteJob:
    """The job that runs `command` in the project's environment, or in `image`."""
    folder = where.relative_to(opened.root).as_posix()
    env, root = _env(opened, queue), queue.root
    if image:
        env["PYTHONPATH"] = Output(root)
        return RemoteJob(
            command=tuple(command),
            shown=tuple(command),
            project=opened.root,
            demand=demand,
            folder=folder,
            env=env,
            image=image,
        )
    if not isinstance(opened.target, OnePython):
        raise BadInput(f"The {opened.target.name} target has no Python for jobs.", resolution="matcha env")
    workspace = _workspace.distant(opened, opened.target.python(), emit)
    beside = {f"{BESIDE}/python/matcha": Path(__file__).resolve().parent.parent}
    tracker = next((c for c in opened.components if isinstance(c, ModelRegistry)), None)
    after: tuple[str, ...] = ()
    if tracker:
        beside[f"{BESIDE}/tools"] = tracker.toolbox()[1]
        after = ("--after", "matcha_reference")
    if workspace.packages:
        beside[f"{BESIDE}/packages"] = workspace.packages
    paths = [root, *(f"{root}/{BESIDE}/{name}" for name in ("python", "tools", "packages"))]
    env["PYTHONPATH"] = Output(os.pathsep.join(paths))
    return RemoteJob(
        command=("python", "-m", "matcha.worker", *after, "--", *command),
        shown=tuple(command),
        project=opened.root,
        demand=demand,
        folder=folder,
        env=env,
        beside=beside,
        environment=workspace.environment,
    )


def _env(opened: Project, queue: JobQueue) -> dict[str, Output]:
    """The stack's variables as the job's machine needs them."""
    access = queue.inside(opened.state())
    found: dict[str, Output] = dict(access.store_env())
    for component in opened.components:
        found.update(component.client_env(access))
    names = Output(",".join(sorted(found)))
    return {**found, "MATCHA_PROJECT": Output(queue.root), VARIABLES: names}


def _known(opened: Project) -> Jobs:
    if isinstance(opened.target, Jobs):
        return opened.target
    raise BadInput(f"The {opened.target.name} target does not run jobs.", resolution="matcha env")


def _queue(opened: Project) -> JobQueue:
    if isinstance(opened.target, JobQueue):
        return opened.target
    raise BadInput(
        f"Jobs on the {opened.target.name} target write to the terminal they were started in.",
        details="Nothing is kept of it.",
        resolution="matcha jobs list",
    )
