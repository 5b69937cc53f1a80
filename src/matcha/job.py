"""The contract of targets that run training jobs: beside the user, or on other machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from matcha.component import Access, Environment, Output
from matcha.events import Emit
from matcha.state import State

JobCondition = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled"]
OVER: tuple[JobCondition, ...] = ("succeeded", "failed", "cancelled")


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs: GPUs and CPU cores by number, memory as `8Gi`. None is no demand."""

    gpu: int = 0
    cpu: float | None = None
    memory: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A training job as a process of this machine."""

    command: tuple[str, ...]
    demand: Demand = Demand()
    python: Path = Path()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    folder: Path = Path()


class RemoteJob(msgspec.Struct, frozen=True, kw_only=True):
    """A training job for machines of the target.

    `command` is what runs there, `shown` what its user typed. The files of `project` are packed, less what
    its .gitignore files leave out, and `beside` them these folders (name there -> folder here). `folder`
    is where it runs, relative to the project. Of `env`, what is sensitive reaches the job apart from its
    description. It runs in `environment`; None: in what `image` has.
    """

    command: tuple[str, ...]
    shown: tuple[str, ...]
    project: Path
    demand: Demand = Demand()
    folder: str = "."
    env: dict[str, Output] = msgspec.field(default_factory=dict)
    beside: dict[str, Path] = msgspec.field(default_factory=dict)
    environment: Environment | None = None
    image: str = ""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times are Unix seconds, 0 where there is none yet; `exit_code` is -1 until it ended by itself.

    `detail`: what it waits for, or why it failed. `owner`: who started it, `user@machine`.
    """

    name: str
    condition: JobCondition
    command: tuple[str, ...] = ()
    detail: str = ""
    exit_code: int = -1
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    gpu: int = 0
    cpu: float | None = None
    memory: str | None = None
    node: str = ""
    owner: str = ""
    resolution: str = ""


@runtime_checkable
class JobRunner(Protocol):
    """A target that runs jobs as processes of this machine, in the foreground."""

    def check(self, demand: Demand) -> None:
        """Raises BadInput, saying what was found, for what can never be had here."""

    def run(self, job: Job) -> int:
        """Run it to its end, its output streaming to this process's; its exit code."""


@runtime_checkable
class Jobs(Protocol):
    """A target that knows the jobs of a stack."""

    def jobs(self) -> Sequence[JobStatus]:
        """Newest first."""

    def cancel(self, name: str) -> None:
        """End it; nothing where it is over. Raises NotFound."""


@runtime_checkable
class JobQueue(Jobs, Protocol):
    """A target whose machines run jobs, which go on when this one does not."""

    root: ClassVar[str]  # the folder there that `RemoteJob.project` and `beside` are in

    def check_remote(self, demand: Demand) -> Sequence[str]:
        """Notes on how it may come to run (waits, a node that is added); raises MatchaError, saying what was
        found, for what no machine there can ever have.
        """

    def inside(self, state: State) -> Access:
        """How a job reaches the stack."""

    def submit(self, job: RemoteJob, emit: Emit) -> str:
        """Bring its environment about and its code there, then queue it; its name."""

    def job(self, name: str) -> JobStatus:
        """Raises NotFound."""

    def job_log(self, name: str, *, lines: int) -> Sequence[str]:
        """The last `lines` of what it wrote so far. Raises NotFound."""

    def follow(self, name: str, emit: Emit, *, lines: int) -> Iterator[str]:
        """Its log, from the last `lines` of what is there (-1: all), until it is over; what it waits for as
        events. Raises NotFound for a job that is not there, or goes before it is over.
        """


@runtime_checkable
class Relaying(JobQueue, Protocol):
    """A target on which jobs have no right: what they ask for, whoever follows them does. In such a job the
    variable MATCHA_RELAY names a module with `ask(text, seconds) -> text`.
    """

    def asked(self, name: str) -> Mapping[str, str]:
        """Requests of the job without an answer, by number, oldest first."""

    def answer(self, name: str, number: str, text: str) -> None: ...
