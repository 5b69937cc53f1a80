"""Runs of the local target that are killed: the next one finishes, or removes everything."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_stack import Bench, traces, web

from matcha.component import Database, Service

Make = Callable[..., Bench]
SEED = 20261123

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from local_stack import Bench
from test_local_kills import services
print("begins", flush=True)
Bench(Path(sys.argv[2]), Path(sys.argv[3])).provision(*services())
print("done", flush=True)
"""


def services() -> tuple[Service, ...]:
    common: dict[str, Any] = {"databases": (Database("d"),), "volumes": ("v",), "secrets": {"TOKEN": "t"}}
    peer = {"PEER": "{url:role-of-one}"}
    return web("one", **common), web("two", env=peer, **common)


def _killed_run(one: Bench, after: float) -> None:
    """Provision in another process, killed `after` seconds from its first step."""
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(one.project), str(one.envs)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert run.stdout is not None
    try:
        assert run.stdout.readline() == b"begins\n"
        time.sleep(after)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()


def _processes_in(folder: Path) -> list[psutil.Process]:
    def is_inside(process: psutil.Process) -> bool:
        try:
            return str(folder) in " ".join(process.cmdline()) or process.cwd().startswith(str(folder))
        except psutil.Error:
            return False

    return [p for p in psutil.process_iter() if p.pid != os.getpid() and is_inside(p)]


@pytest.mark.parametrize("after", sorted(random.Random(SEED).uniform(0, 2.5) for _ in range(6)))
def test_a_killed_run_is_finished_by_the_next_or_removed(
    bench: Make, user_folders: Path, after: float
) -> None:
    one = bench()
    _killed_run(one, after)
    one.reopen()
    state = one.provision(*services())
    assert {s.condition for s in one.target.status(state)} == {"running"}
    told = one.ask(f"http://127.0.0.1:{state.ports['two/http']}/")
    assert told["env"]["PEER"] == f"http://127.0.0.1:{state.ports['one/http']}"
    _killed_run(one, after / 2)
    one.reopen()
    assert one.destroy() == []
    _nothing_is_left(one, user_folders)


@pytest.mark.parametrize("after", sorted(random.Random(SEED + 1).uniform(0, 2.0) for _ in range(4)))
def test_a_killed_run_can_be_destroyed(bench: Make, user_folders: Path, after: float) -> None:
    one = bench()
    _killed_run(one, after)
    one.reopen()
    assert one.destroy() == []
    _nothing_is_left(one, user_folders)


def _nothing_is_left(one: Bench, user_folders: Path) -> None:
    assert list(one.project.iterdir()) == []
    assert traces(user_folders) == []
    assert _processes_in(one.project) == []
