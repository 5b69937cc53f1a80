"""Leads a pipeline: each step becomes a job as soon as those that it needs are done."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NoReturn

from zenml.client import Client
from zenml.enums import ExecutionMode, ExecutionStatus
from zenml.exceptions import RunMonitoringError
from zenml.orchestrators import BaseOrchestrator, SubmissionResult, publish_utils
from zenml.utils import source_utils

from . import demands, line, order
from .entry import ROOT, RUN, StepEntry

POLL = 0.5
PROJECT = "MATCHA_PROJECT"
logger = logging.getLogger("zenml.matcha")


class Ended(Exception):
    """By Ctrl-C."""


class StepsOrchestrator(BaseOrchestrator):
    def get_orchestrator_run_id(self) -> str:
        """The same in every job of a run, also in one that starts again."""
        return os.environ[RUN]

    @property
    def supported_execution_modes(self) -> list[ExecutionMode]:
        return [ExecutionMode(mode) for mode in order.MODES]

    @property
    def supports_dynamic_pipelines(self) -> NoReturn:
        """Asked for a dynamic pipeline alone."""
        raise RuntimeError(
            "Dynamic pipelines are not supported with --pipeline: which steps there are is known only while "
            "they run. Without it the whole pipeline is one job: matcha run -- ..."
        )

    def run(self, snapshot: Any, stack: Any, placeholder_run: Any = None) -> None:
        """As ZenML, which tells whoever interrupts it that the pipeline goes on."""
        try:
            super().run(snapshot, stack, placeholder_run)
        except RunMonitoringError as error:
            if not isinstance(error.original_exception, Ended):
                raise
            said = KeyboardInterrupt("The steps that ran were ended, and the run is stopped.")
            raise RunMonitoringError(said) from None

    def submit_pipeline(
        self,
        snapshot: Any,
        stack: Any,
        base_environment: dict[str, str],
        step_environments: dict[str, dict[str, str]],
        placeholder_run: Any = None,
    ) -> SubmissionResult:
        assert placeholder_run  # of every run without a schedule, and those are refused
        steps = snapshot.step_configurations
        for name, step in steps.items():
            if "docker" in step.config.settings:
                logger.warning(
                    "Step `%s`: DockerSettings are not heeded. Steps run in the project's own environment, "
                    "without an image of their own.",
                    name,
                )
        asked = {
            name: {
                "step": name,
                "pipeline": snapshot.pipeline_configuration.name,
                "demand": demands.demand(step.config.resource_settings),
                "command": command(snapshot, name),
                # What ZenML adds for its own connection, the job has from the stack.
                "env": {
                    key: str(value)
                    for key, value in step_environments[name].items()
                    if base_environment.get(key) != value
                }
                | {RUN: str(placeholder_run.id), ROOT: source_folder()},
            }
            for name, step in steps.items()
        }
        line.ask({"check": [{"step": each["step"], "demand": each["demand"]} for each in asked.values()]})
        upstream = {name: list(step.spec.upstream_steps) for name, step in steps.items()}
        mode = str(snapshot.pipeline_configuration.execution_mode.value)
        leader = Leader(placeholder_run.id, asked, upstream, mode)
        return SubmissionResult(wait_for_completion=leader.lead)


def command(snapshot: Any, step: str) -> list[str]:
    entry = StepEntry.get_entrypoint_arguments(step_name=step, snapshot_id=snapshot.id)
    return [*StepEntry.get_entrypoint_command(), *entry]


def source_folder() -> str:
    """Where the pipeline's modules are, relative to the project. Raises Refused for a folder elsewhere."""
    root, project = Path(source_utils.get_source_root()).resolve(), Path(os.environ[PROJECT]).resolve()
    if not root.is_relative_to(project):
        raise line.Refused(f"The pipeline's code is in {root}, and only {project} goes to the cluster.")
    return root.relative_to(project).as_posix()


class Leader:
    """`asked`: what each step's job is made from."""

    def __init__(
        self, run: Any, asked: Mapping[str, dict[str, Any]], upstream: Mapping[str, list[str]], mode: str
    ) -> None:
        self._run = run
        self._asked = asked
        self._upstream = upstream
        self._mode = mode
        self._states: dict[str, order.State] = dict.fromkeys(asked, "waiting")
        self._lines: dict[str, line.Line] = {}
        self._failures: dict[str, str] = {}
        self._ending = False

    def lead(self) -> None:
        """To the end of every step. Raises RuntimeError naming those that failed, Ended after Ctrl-C, and
        where it is told to end or its terminal is closed.
        """
        with as_interrupts(), ThreadPoolExecutor(order.AT_ONCE, thread_name_prefix="step") as pool:
            try:
                self._go(pool)
            except KeyboardInterrupt:
                self._note_stopping()  # so each step says that it was stopped, and not that it failed
                self._hang_up()
                pool.shutdown()
                self._close()
                self._note_stopping()
                raise Ended from None
            except ConnectionError:  # nobody ends the jobs that run, so each says what becomes of its step
                publish_utils.publish_failed_pipeline_run(self._run)
                raise
            except BaseException:
                self._hang_up()
                pool.shutdown()
                self._fail()
                raise
        if self._failures:
            self._fail()
            raise RuntimeError("\n".join(self._failures.values()))

    def _go(self, pool: ThreadPoolExecutor) -> None:
        running: dict[Future[str], str] = {}
        while not order.is_over(self._states):
            for step in order.skipped(self._upstream, self._states, self._mode):
                logger.warning("Step `%s` is left out: what it needs failed.", step)
                self._states[step] = "skipped"
            for step in order.startable(self._upstream, self._states, self._mode):
                self._states[step] = "running"
                running[pool.submit(self._until_over, step)] = step
            done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                if failure := future.result():
                    self._failures[step] = failure
                self._states[step] = "failed" if failure else "succeeded"
            if self._mode == order.FAIL_FAST and self._failures:
                self._hang_up()

    def _until_over(self, step: str) -> str:
        """Why it failed; empty where it did not. One that ZenML tries again gets another job, where its job
        ended before it could do so itself.
        """
        while True:
            over = self._job(step)
            if over["over"] == "succeeded":
                return ""
            if self._ending:
                return f"Step `{step}` was ended with the others."
            detail = over.get("detail") or over["over"]
            failure = f"Step `{step}` failed: {detail}. Its log: matcha jobs logs {over['job']}"
            again = self._settle(step)
            if not again or over["over"] == "cancelled":
                return failure
            logger.info("%s. It is tried again.", failure)

    def _job(self, step: str) -> dict[str, Any]:
        with line.dial() as connection:
            connection.say(self._asked[step])
            self._lines[step] = connection
            if self._ending:
                connection.hang_up()
            return list(connection.answers())[-1]

    def _settle(self, step: str) -> bool:
        """A job that is gone may not have said so of its step. Whether ZenML wants it tried again."""
        for found in step_runs(self._run, step):
            if found.status.is_finished:
                continue
            known = found.status == ExecutionStatus.RETRYING
            now = found if known else publish_utils.publish_failed_step_run(found.id)
            return bool(now.status == ExecutionStatus.RETRYING)
        return False

    def _hang_up(self) -> None:
        self._ending = True
        for connection in list(self._lines.values()):
            connection.hang_up()

    def _fail(self) -> None:
        self._close()
        if not Client().get_pipeline_run(self._run, hydrate=False).status.is_finished:
            publish_utils.publish_failed_pipeline_run(self._run)

    def _close(self) -> None:
        """Steps whose jobs ended before they could say so."""
        for step in self._asked:
            for found in step_runs(self._run, step):
                if not found.status.is_finished:
                    with contextlib.suppress(Exception):
                        publish_utils.publish_stopped_step_run(found.id)

    def _note_stopping(self) -> None:
        """ZenML makes it `stopped` once no step runs any more, and refuses it for a run that is over."""
        with contextlib.suppress(Exception):
            publish_utils.publish_pipeline_run_status_update(
                self._run, ExecutionStatus.STOPPING, status_reason="Ended with its matcha run."
            )


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Where signals can be had: a pipeline may be led by another thread than the first."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def step_runs(run: Any, step: str) -> Iterator[Any]:
    """Newest first."""
    yield from Client().list_run_steps(sort_by="desc:created", pipeline_run_id=run, name=step)
