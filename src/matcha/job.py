"""The contract of targets that run training jobs: beside the user, or on other machines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from matcha.access import Access, Output
from matcha.errors import BadInput
from matcha.events import Emit
from matcha.service import Environment
from matcha.state import State

JobCondition = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled"]
UNITS = {
    "": 1,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
LEAST_MEMORY = 2**20
OVER: tuple[JobCondition, ...] = ("succeeded", "failed", "cancelled")


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs: GPUs and CPU cores by number, memory as `8Gi`. None is no demand.

    Raises BadInput for what is no amount.
    """

    gpu: int = 0
    cpu: float | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        if self.gpu < 0 or (self.cpu is not None and not 0 < self.cpu < math.inf):  # nan is not
            raise BadInput("--gpu and --cpu take positive numbers.", resolution="matcha run --help")
        if self.memory is not None and memory_bytes(self.memory) < LEAST_MEMORY:
            raise BadInput(
                f"No program runs in {self.memory} of memory: a number alone is bytes.",
                resolution="--memory 8Gi",
            )


def memory_bytes(text: str) -> int:
    """`8Gi` -> bytes. Raises BadInput for what is not a Kubernetes-style quantity."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)(k|[KMGT]i?)?", text.strip(), re.ASCII)
    if not match:
        raise BadInput(f'"{text}" is not an amount of memory.', resolution="--memory 8Gi")
    return int(float(match[1]) * UNITS[match[2] or ""])


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
    description. It runs in `environment`; None: in what `image` has. `code`: what `JobQueue.bring` answered,
    where that was asked before. `step` of `pipeline` is what it runs, if it is one.
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
    code: str = ""
    pipeline: str = ""
    step: str = ""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times are Unix seconds, 0 where there is none yet; `exit_code` is -1 until it ended by itself.

    `detail`: what it waits for, or why it failed. `owner`: who started it, `user@machine`. `step` of
    `pipeline` is what it runs, if it is one.
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
    pipeline: str = ""
    step: str = ""


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

    def check_remote(self, demand: Demand, image: str = "") -> Sequence[str]:
        """Notes on how it may come to run (waits, a node that is added); raises MatchaError, saying what was
        found, for what no machine there can ever have, and for an `image` that is none.
        """

    def check_files(self, project: Path) -> None:
        """Raises BadInput for a project that cannot go along: it is too large, or leads out of itself."""

    def inside(self, state: State) -> Access:
        """How a job reaches the stack."""

    def bring(self, job: RemoteJob, emit: Emit) -> str:
        """Bring its code there, for several jobs to run: `RemoteJob.code`."""

    def submit(self, job: RemoteJob, emit: Emit) -> str:
        """Bring its environment about, and its code there, then queue it; its name."""

    def job(self, name: str) -> JobStatus:
        """Raises NotFound."""

    def job_log(self, name: str, *, lines: int) -> Sequence[str]:
        """The last `lines` of what it wrote so far. Raises NotFound."""

    def follow(self, name: str, emit: Emit, *, lines: int) -> Iterator[str]:
        """Its log, from the last `lines` of what is there (-1: all), until it is over; what it waits for as
        events. Ends a job of which a machine found that it can never start. Raises NotFound for one that
        is not there, or goes before it is over.
        """


@runtime_checkable
class Relaying(JobQueue, Protocol):
    """A target on which jobs have no right: what they ask for, whoever follows them does. In such a job the
    variable MATCHA_RELAY names a module with `ask(text, seconds) -> text`.
    """

    def asked(self, name: str) -> Mapping[str, str]:
        """Requests of the job without an answer, by number, oldest first."""

    def answer(self, name: str, number: str, text: str) -> None: ...
