"""Pipelines whose steps are jobs: led by the user's own process here, which asks this one for each."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from matcha import worker
from matcha.access import Output
from matcha.api import _steps, queued
from matcha.api._project import Project
from matcha.component import StepRunner
from matcha.errors import BadInput, MatchaError
from matcha.events import Emit, Event
from matcha.host import foreground
from matcha.job import Demand, Job, JobQueue, RemoteJob

ADDRESS = "MATCHA_STEPS"  # variable of the leader: where it asks for jobs
BESIDE = f"{queued.BESIDE}/steps"
CLOCKS = 60.0  # seconds by which the clock of this machine may be before those of the others
GRACE = 60.0  # seconds that the leader has after Ctrl-C: the jobs of its steps end first


def lead(opened: Project, queue: JobQueue, job: Job, shown: RemoteJob, *, emit: Emit, say: queued.Say) -> int:
    """Run `job`, which leads a pipeline, in the foreground; its exit code.

    `shown` is what would run as one job: each step is one like it, with the step's own command and, where it
    asks for something, the step's own size. Jobs that are left when the leader ends are ended.
    """
    runner = next((c for c in opened.components if isinstance(c, StepRunner)), None)
    if runner is None:
        raise BadInput(
            "This stack has no pipelines.", resolution="Add pipeline under components: in matcha.yaml."
        )
    extra = dict(runner.steps_env(queue.inside(opened.state())))
    each = _like(shown, queue, runner.steps_code(), extra)
    each = msgspec.structs.replace(each, code=queue.bring(each, emit))
    variables = {**job.env, **{name: output.value for name, output in extra.items()}}
    variables["PYTHONPATH"] = os.pathsep.join([job.env.get("PYTHONPATH", ""), str(runner.steps_code())])
    # `matcha.connect()` in the leader finds them set, and leaves them.
    variables[queued.VARIABLES] = ",".join(sorted(variables))
    with _steps.answering(_Steps(opened, queue, each, job.demand, emit, say)) as address:
        return foreground.run(msgspec.structs.replace(job, env={**variables, ADDRESS: str(address)}), GRACE)


def _like(shown: RemoteJob, queue: JobQueue, code: Path, extra: dict[str, Output]) -> RemoteJob:
    # All steps may log to one run of the tracker, whose training data the step samples that has it.
    began = Output(str(int((time.time() - CLOCKS) * 1000)))
    env = {**shown.env, **extra, worker.BEGAN: began}
    env["PYTHONPATH"] = Output(os.pathsep.join([shown.env["PYTHONPATH"].value, f"{queue.root}/{BESIDE}"]))
    return msgspec.structs.replace(shown, env=env, beside={**shown.beside, BESIDE: code})


class _Steps(_steps.Doing):
    """`each`: the job of a step, but for what is the step's own; `demand`: of steps that say nothing."""

    def __init__(
        self, opened: Project, queue: JobQueue, each: RemoteJob, demand: Demand, emit: Emit, say: queued.Say
    ) -> None:
        self._opened = opened
        self._queue = queue
        self._each = each
        self._demand = demand
        self._emit = emit
        self._say = say
        self._queueing = threading.Lock()  # what several steps need is built once
        self._saying = threading.Lock()

    def check(self, steps: tuple[_steps.Sized, ...]) -> None:
        noted: set[str] = set()
        for step in steps:
            try:
                notes = self._queue.check_remote(self._of(step.demand))
            except MatchaError as error:
                error.message = f"Step {step.step}: {error.message}"
                raise
            for note in notes:
                if note not in noted:
                    self._emit(Event("job", "note", f"Step {step.step}: {note}"))
                noted.add(note)

    def run(self, step: _steps.Step, queued_as: Callable[[str], None], ended: _steps.Ended) -> _steps.Over:
        own = {name: Output(value, sensitive=True) for name, value in step.env.items()}
        job = msgspec.structs.replace(
            self._each,
            command=(*self._each.command, *step.command),
            demand=self._of(step.demand),
            env={**self._each.env, **own},
            pipeline=step.pipeline,
            step=step.step,
        )
        with self._queueing:
            if ended.happened:
                return _steps.Over(job="", over="cancelled")
            name = self._queue.submit(job, self._emit)
        queued_as(name)
        self._emit(Event(f"job/{name}", "note", f"Step {step.step} is queued as {name}."))
        ended.calls(lambda: self._cancel(name))
        log = queued.followed(self._opened, self._queue, name, self._opened.target.name, self._emit, lines=-1)
        with contextlib.closing(log) as lines:
            for line in lines:
                with self._saying:
                    self._say(f"[{step.step}] {line}")
        found = self._queue.job(name)
        then = f". {found.resolution}" if found.resolution else ""
        if found.condition == "failed":
            said = f"Step {step.step} failed: {found.detail}{then}. Its log: matcha jobs logs {name}"
            self._emit(Event(f"job/{name}", "note", said))
        return _steps.Over(
            job=name, over=found.condition, detail=f"{found.detail}{then}", exit_code=found.exit_code
        )

    def _of(self, sizes: _steps.Sizes) -> Demand:
        own = {name: value for name, value in msgspec.structs.asdict(sizes).items() if value is not None}
        return msgspec.structs.replace(self._demand, **own)

    def _cancel(self, name: str) -> None:
        with contextlib.suppress(MatchaError):
            self._queue.cancel(name)
