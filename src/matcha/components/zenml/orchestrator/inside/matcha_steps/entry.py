"""What a step's job runs: ZenML's own way of running one step, in a folder that has the code already."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from zenml.client import Client
from zenml.entrypoints.step_entrypoint_configuration import StepEntrypointConfiguration
from zenml.enums import ExecutionMode, ExecutionStatus
from zenml.execution.step.utils import launch_step
from zenml.orchestrators import signal_handler, step_launcher
from zenml.step_operators.step_operator_entrypoint_configuration import StepOperatorEntrypointConfiguration
from zenml.utils import source_utils

# Variables of a step's job: the run, and the folder of the pipeline's modules, relative to the project.
RUN, ROOT = "MATCHA_PIPELINE_RUN", "MATCHA_PIPELINE_ROOT"
TERMINATED = 143  # exit code of what SIGTERM ends


class Handler(signal_handler.SignalHandler):
    """A pod that its node gives up is made anew, so its step has not failed: it is left as it is, and the
    next pod goes on with it.
    """

    def _finalize_shutdown(self) -> BaseException:
        run = Client().get_pipeline_run(self._step_run.pipeline_run_id, hydrate=False)
        stopped = run.status in (ExecutionStatus.STOPPING, ExecutionStatus.STOPPED)
        given_up = run.status == ExecutionStatus.FAILED and self._execution_mode == ExecutionMode.FAIL_FAST
        if stopped or given_up:
            return super()._finalize_shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(TERMINATED)


class StepEntry(StepEntrypointConfiguration):
    def prepare_code_environment(self) -> None:
        """The job's folder has the code; ZenML would make one in a root file system that is read-only."""
        root = str(Path(os.environ["MATCHA_PROJECT"], os.environ[ROOT]).resolve())
        source_utils.set_custom_source_root(root)
        sys.path.insert(0, root)

    def _run_step(self, step: Any, snapshot: Any) -> None:
        step_launcher.SignalHandler = Handler
        earlier = Client().list_run_steps(
            sort_by="desc:created", pipeline_run_id=os.environ[RUN], name=self.entrypoint_args["step_name"]
        )
        begun = next((found for found in earlier if found.status == ExecutionStatus.RUNNING), None)
        if begun is None:
            super()._run_step(step=step, snapshot=snapshot)
            return
        try:
            self._go_on(begun.id, snapshot)
        except Exception:
            left = (step.config.retry.max_retries if step.config.retry else 0) - len(earlier)
            if left < 0:
                raise
            orchestrator_run = os.environ[RUN]
            launch_step(snapshot, step, orchestrator_run, retry=True, remaining_retries=left)

    def _go_on(self, step_run: Any, snapshot: Any) -> None:
        """From the beginning, as the run of the step that a lost pod began."""
        found = Client().get_run_step(step_run)
        arguments = StepOperatorEntrypointConfiguration.get_entrypoint_arguments(
            step_name=self.entrypoint_args["step_name"], snapshot_id=snapshot.id, step_run_id=str(step_run)
        )
        with Handler(step_run=found, execution_mode=snapshot.pipeline_configuration.execution_mode):
            again = StepOperatorEntrypointConfiguration(arguments)
            again._run_step(step=again.step, snapshot=snapshot)
