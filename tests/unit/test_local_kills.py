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
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from local_stack import Bench, traces, web

from matcha.component import Database, Environment, Service
from matcha.targets.local.installer import UvInstaller

if TYPE_CHECKING:  # a killed run imports this file without the folder that this is in
    from support.package_index import PackageIndex

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


INSTALLING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from local_stack import Bench
from test_local_kills import installing
installing(Bench(Path(sys.argv[2]), Path(sys.argv[3])), Path(sys.argv[4])).provision()
"""


def installing(one: Bench, lock: Path) -> Bench:
    """The project with an environment that is really installed."""
    one.installer = UvInstaller()
    one.environment = Environment(name="plain", lock=lock)
    one.reopen()
    return one


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


def moments(count: int, latest: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    return sorted(round(chance.uniform(0, latest), 3) for _ in range(count))


@pytest.mark.parametrize("after", moments(6, 2.5, SEED))
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


@pytest.mark.parametrize("after", moments(4, 2.0, SEED + 1))
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


def test_a_run_that_was_killed_while_it_installed_leaves_no_process_and_no_half_made_environment(
    bench: Make, user_folders: Path, cache: Path, index: PackageIndex, tmp_path: Path
) -> None:
    lock = index.lock(tmp_path / "requirements.lock", "large")
    one = installing(bench(), lock)
    index.fault = "stall"
    command = [sys.executable, "-c", INSTALLING, str(Path(__file__).parent)]
    run = subprocess.Popen([*command, *map(str, (one.project, one.envs, lock))])
    assert index.stalled.wait(60)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert list((cache / "environments").glob("*/bin")), "it was half-made"

    assert one.destroy() == []

    assert _processes_in(cache) == []
    assert [path for path in (cache / "environments").iterdir() if path.is_dir()] == []
    _nothing_is_left(one, user_folders)
