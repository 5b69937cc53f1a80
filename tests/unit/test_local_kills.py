"""Runs of the local target that are killed: the next one finishes, or removes everything.

The moments differ from time to time; `MATCHA_KILL_SEED`, which every test prints, repeats them.
"""

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

from matcha.service import Database, Environment, Service
from matcha.targets.local.installer import UvInstaller

if TYPE_CHECKING:  # a killed run imports this file without the folder that this is in
    from support.package_index import PackageIndex

Make = Callable[..., Bench]
SEED = os.environ.get("MATCHA_KILL_SEED") or str(random.randrange(10**6))

RUN = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from local_stack import Bench
from test_local_kills import services
print("begins", flush=True)
Bench(Path(sys.argv[2]), Path(sys.argv[3])).provision(*services())
print("done", flush=True)
"""


INSTALLING = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
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


def _run(one: Bench) -> subprocess.Popen[bytes]:
    """Provision in another process, which is about to take its first step."""
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(one.project), str(one.envs)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"begins\n"
    return run


def _killed_run(one: Bench, chance: random.Random, longest: float) -> None:
    """Killed at some moment of its first `longest` seconds; sooner where it had ended by then."""
    for half in range(12):
        with _run(one) as run:
            after = chance.uniform(0, longest / 2**half)
            time.sleep(after)
            run.send_signal(signal.SIGKILL)
        if run.returncode:
            print(f"MATCHA_KILL_SEED={SEED}: killed after {after:.3f} s of at most {longest:.1f} s")
            return
    raise AssertionError("every run ended before it could be killed")


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that an undisturbed run takes, on this machine and as busy as it is."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        one = Bench(folder / "a project", folder / "environments")
        with _run(one) as run:
            began = time.monotonic()
            assert run.wait(120) == 0
        seconds = time.monotonic() - began
        assert one.destroy() == []
    return seconds


def _processes_in(folder: Path) -> list[psutil.Process]:
    def is_inside(process: psutil.Process) -> bool:
        try:
            return str(folder) in " ".join(process.cmdline()) or process.cwd().startswith(str(folder))
        except psutil.Error:
            return False

    return [p for p in psutil.process_iter() if p.pid != os.getpid() and is_inside(p)]


@pytest.mark.parametrize("number", range(6))
def test_a_killed_run_is_finished_by_the_next_or_removed(
    bench: Make, user_folders: Path, longest: float, number: int
) -> None:
    one, chance = bench(), random.Random(f"{SEED} {number}")
    _killed_run(one, chance, longest)
    one.reopen()
    state = one.provision(*services())
    assert {s.condition for s in one.target.status(state)} == {"running"}
    told = one.ask(f"http://127.0.0.1:{state.ports['two/http']}/")
    assert told["env"]["PEER"] == f"http://127.0.0.1:{state.ports['one/http']}"
    _killed_run(one, chance, longest)
    one.reopen()
    assert one.destroy() == []
    _nothing_is_left(one, user_folders)


@pytest.mark.parametrize("number", range(4))
def test_a_killed_run_can_be_destroyed(bench: Make, user_folders: Path, longest: float, number: int) -> None:
    one = bench()
    _killed_run(one, random.Random(f"{SEED} destroyed {number}"), longest)
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
