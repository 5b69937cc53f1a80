"""How long a short command keeps its user waiting, against the one of a bare tool that is most alike."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import places, stack
from benchmarks.figures import Asked, Budget, Row

COMMANDS = {"`status`": ("status",), "`get`": ("get",), "`--help`": ("--help",)}


def run(asked: Asked) -> list[Row]:
    zenml = places.installed()["zenml"] / "bin" / "zenml"
    took: dict[str, list[float]] = {what: [] for what in COMMANDS}
    bare: list[float] = []
    with stack.project() as project:
        project("provision", "--yes")
        client = project.json("env", "--show-sensitive")
        _timed(zenml, client)  # its first run writes its configuration
        sides = [_side(lambda: _timed(zenml, client), bare)]
        sides += [_side(partial(project.timed, *words), took[what]) for what, words in COMMANDS.items()]
        asked.take_turns(sides)
    return [row for what, seconds in took.items() for row in _rows(what, seconds, bare)]


def _side(measure: Callable[[], float], into: list[float]) -> Callable[[], None]:
    return lambda: into.append(measure())


def _timed(zenml: Path, client: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(
        [str(zenml), "stack", "list"],
        env=places.user_env(**client),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=True,
    )
    return time.monotonic() - began


def _rows(what: str, seconds: list[float], bare: list[float]) -> list[Row]:
    return [
        Row("commands", what, "s", tuple(seconds), budget=Budget("value", "<=", 0.25)),
        Row(
            "commands",
            f"{what}, against `zenml stack list`",
            "s",
            tuple(seconds),
            tuple(bare),
            Budget("ratio", "<=", 0.1),
        ),
    ]
