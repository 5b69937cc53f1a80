"""Memory of an idle stack, supervisor, health listener and monitoring included, against the bare servers."""

from __future__ import annotations

import time

from benchmarks import bare, places, stack
from benchmarks.figures import Asked, Budget, Row

CALM_SECONDS = 12.0  # two health checks of the listener


def run(asked: Asked) -> list[Row]:
    environments = places.installed()
    ours_took: list[float] = []
    bare_took: list[float] = []

    def ours() -> None:
        with stack.project() as project:
            project("provision", "--yes")
            time.sleep(CALM_SECONDS)
            ours_took.append(places.megabytes(project.processes()))

    def by_hand() -> None:
        with bare.running_all(environments) as running:
            time.sleep(CALM_SECONDS)
            bare_took.append(places.megabytes(running.processes()))

    asked.take_turns((ours, by_hand))
    what = "idle stack, against the bare servers"
    budget = Budget("difference", "<=", 100.0)
    return [Row("memory", what, "MB", tuple(ours_took), tuple(bare_took), budget)]
