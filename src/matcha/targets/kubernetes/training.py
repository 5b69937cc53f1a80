"""Jobs on the stack's cluster, as the target hands them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from matcha.access import Access
from matcha.events import Emit
from matcha.job import Demand, JobStatus, RemoteJob
from matcha.state import State
from matcha.targets.kubernetes.access import InsideAccess
from matcha.targets.kubernetes.known import KnownStack
from matcha.targets.kubernetes.names import STORE
from matcha.targets.kubernetes.setting import for_jobs

if TYPE_CHECKING:
    from matcha.targets.kubernetes.jobs.delivery import Delivery
    from matcha.targets.kubernetes.jobs.queue import Queue


class Training(KnownStack):
    """`matcha.job.Relaying`."""

    root: ClassVar[str] = "/matcha/project"

    @cached_property
    def _queue(self) -> Queue:
        from matcha.targets.kubernetes.jobs.queue import Queue  # noqa: PLC0415 - only for jobs

        return Queue(self._cluster, self._store, self._secrets)

    def check_remote(self, demand: Demand, image: str = "") -> Sequence[str]:
        self._queue.refuse(image)
        return self._queue.place(self._known(), demand).notes

    def check_files(self, project: Path) -> None:
        from matcha.targets.kubernetes.jobs import packing  # noqa: PLC0415 - only for jobs

        packing.check(project)

    def inside(self, state: State) -> Access:
        found = self._setting or self._remembered(state)
        here = self._here.access(state, found, self._secrets)
        return InsideAccess(for_jobs(found), self._secrets, here)

    def bring(self, job: RemoteJob, emit: Emit) -> str:
        return self._queue.bring(self._known(), self.access(self._state()), job, emit)

    def submit(self, job: RemoteJob, emit: Emit) -> str:
        access, place = self.access(self._state()), self._place(STORE)
        return self._queue.submit(self._known(), access, job, place, emit)

    def follow(self, name: str, emit: Emit, *, lines: int) -> Iterator[str]:
        return self._queue.follow(name, emit, lines=lines)

    @cached_property
    def _delivery(self) -> Delivery:
        from matcha.targets.kubernetes.jobs.delivery import Delivery  # noqa: PLC0415

        return Delivery(self._cluster, self._known(), self.access(self._state()))

    def asked(self, name: str) -> Mapping[str, str]:
        return self._delivery.asked(name)

    def answer(self, name: str, number: str, text: str) -> None:
        self._delivery.answer(name, number, text)

    def job(self, name: str) -> JobStatus:
        return self._queue.status(name)

    def job_log(self, name: str, *, lines: int) -> Sequence[str]:
        return self._queue.log(name, lines)

    def jobs(self) -> Sequence[JobStatus]:
        return self._queue.jobs()

    def cancel(self, name: str) -> None:
        self._queue.cancel(name)
