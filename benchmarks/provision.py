"""A fresh stack from installed environments, against the bare servers started at once; again; and its end."""

from __future__ import annotations

from collections import defaultdict

from benchmarks import bare, places, stack
from benchmarks.figures import Asked, Budget, Row


def run(asked: Asked) -> list[Row]:
    environments = places.installed()
    took: defaultdict[str, list[float]] = defaultdict(list)

    def ours() -> None:
        with stack.project() as project:
            took["provision"].append(project.timed("provision", "--yes"))
            took["again"].append(project.timed("provision", "--yes"))
            took["destroy"].append(project.timed("destroy", "--yes", "--delete-data"))

    def by_hand() -> None:
        with bare.running_all(environments) as running:
            took["bare"].append(max(running.seconds.values()))

    asked.take_turns((ours, by_hand))
    return _rows({name: tuple(seconds) for name, seconds in took.items()})


def _rows(took: dict[str, tuple[float, ...]]) -> list[Row]:
    return [
        Row(
            "provision",
            "warm `provision` to all healthy, against the bare servers",
            "s",
            took["provision"],
            took["bare"],
            Budget("ratio", "<", 1.0),
        ),
        Row(
            "provision",
            "`provision` with nothing to change",
            "s",
            took["again"],
            budget=Budget("value", "<", 1.0),
        ),
        Row("provision", "`destroy`", "s", took["destroy"], budget=Budget("value", "<", 10.0)),
    ]
