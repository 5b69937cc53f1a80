"""The orchestrator as ZenML finds it: by the path of this class, which Matcha registers with the server."""

from __future__ import annotations

from typing import NoReturn

from zenml.orchestrators import BaseOrchestratorConfig, BaseOrchestratorFlavor

from .orchestrator import StepsOrchestrator


class StepsConfig(BaseOrchestratorConfig):
    """There is nothing to set: a step's `ResourceSettings` say what it needs."""

    @property
    def is_synchronous(self) -> bool:
        return True

    @property
    def is_schedulable(self) -> NoReturn:
        """Asked for a pipeline with a schedule alone."""
        raise ValueError(
            "Schedules are not supported: whoever runs `matcha run --pipeline` leads the pipeline. "
            "Have cron, or your CI, run that."
        )


class StepsFlavor(BaseOrchestratorFlavor):
    @property
    def name(self) -> str:
        return "matcha"

    @property
    def config_class(self) -> type[StepsConfig]:
        return StepsConfig

    @property
    def implementation_class(self) -> type[StepsOrchestrator]:
        return StepsOrchestrator
