"""From empty caches: everything is downloaded. Against uv installing the same locks at once, then a start.

Heavy: a round downloads everything twice, and meets the index in whatever mood it is.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import bare, places, stack
from benchmarks.figures import Asked, Budget, Row
from matcha import environments, uvtool
from matcha.service import Environment


def run(asked: Asked) -> list[Row]:
    warm = places.installed()
    ours_took: list[float] = []
    install_and_warm: list[float] = []
    by_hand: list[float] = []

    def ours() -> None:
        with places.scratch() as caches, stack.project(**_fresh(caches)) as project:
            _choose_ports(project)
            ours_took.append(project.timed("provision", "--yes"))

    def hand() -> None:
        with places.scratch() as caches:
            installing, made = _install(caches)
            first = _start(made)
        by_hand.append(installing + first)
        install_and_warm.append(installing + _start(warm))

    asked.take_turns((ours, hand))
    return [
        Row(
            "cold",
            "`provision` with empty caches, against uv installing the same locks at once + a warm bare start",
            "s",
            tuple(ours_took),
            tuple(install_and_warm),
            Budget("ratio", "<=", 1.15),
        ),
        Row(
            "cold",
            "the same, against what one gets by hand: uv, then a first start without bytecode",
            "s",
            tuple(ours_took),
            tuple(by_hand),
        ),
    ]


def _fresh(caches: Path) -> dict[str, str]:
    return {"UV_CACHE_DIR": str(caches / "uv"), "MATCHA_CACHE_DIR": str(caches / "matcha")}


def _choose_ports(project: stack.Project) -> None:
    """Stacks agree on ports through the cache; this one's is its own, and others may start meanwhile."""
    names = [f"{s.name}/{p.name}" for s in places.services() for p in s.ports]
    lines = [
        f'      "{name}": {port}' for name, port in zip(names, places.free_ports(len(names)), strict=True)
    ]
    project.folder.mkdir()
    (project.folder / "matcha.yaml").write_text("\n".join(["targets:", "  local:", "    ports:", *lines, ""]))


def _install(caches: Path) -> tuple[float, dict[str, Path]]:
    """Seconds, and the folders by name."""
    began = time.monotonic()
    started = {
        name: _installer(environment, caches / name, caches) for name, environment in places.wanted().items()
    }
    for name, process in started.items():
        if process.wait(900):
            raise RuntimeError(f"uv failed for {name}")
    return time.monotonic() - began, {name: caches / name for name in started}


def _installer(environment: Environment, folder: Path, caches: Path) -> subprocess.Popen[bytes]:
    uv, python = str(uvtool.uv_path()), environments.python_for(environment.python)
    script = (
        '"$0" venv --quiet --no-project --python "$1" "$2" && '
        '"$0" pip sync --quiet --require-hashes --python "$2/bin/python" "$3"'
    )
    return subprocess.Popen(
        ["sh", "-c", script, uv, python, str(folder), str(environment.lock)],
        env=places.user_env(UV_CACHE_DIR=_fresh(caches)["UV_CACHE_DIR"]),
        cwd=caches,
        stdin=subprocess.DEVNULL,
    )


def _start(made: Mapping[str, Path]) -> float:
    with bare.running_all(made) as running:
        return max(running.seconds.values())
