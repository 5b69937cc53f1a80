"""How long a short command keeps its user waiting, against the one of a bare tool that is most alike."""

from __future__ import annotations

import subprocess
import time
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
        for number in range(asked.number()):
            asked.say(f"round {number + 1} of {asked.number()}")
            bare.append(_timed(zenml, client))
            for what, arguments in COMMANDS.items():
                took[what].append(project.timed(*arguments))
    return [row for what, seconds in took.items() for row in _rows(what, seconds, bare)]


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
