"""`provision` killed at every step boundary and at random times: a rerun finishes, or destroy leaves nothing.

A boundary is a write of the record: right before it, what was done is not known yet; right after it, it is.
By default a sample runs, another one each time; `MATCHA_KILL_SEED`, which every test prints, repeats it. The
whole sweep: `./test -m sweep`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcha import planning, registry
from support.matcha import Matcha
from support.sweep import is_whole

SEED = os.environ.get("MATCHA_KILL_SEED") or str(random.randrange(10**6))
MOMENTS = {"sample": 2, "whole": 20}
AFTERWARDS = ("resume", "destroy")

# The real command line, which kills itself at one write of the record. Arguments: serial, moment, its own.
CUT = """
import os, signal, sys
from matcha.targets.local.filestore import FileStore

serial, moment = int(sys.argv.pop(1)), sys.argv.pop(1)
write = FileStore.write

def cut(store, state, token):
    if moment == "after":
        write(store, state, token)
    if state.serial == serial:
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "before":
        write(store, state, token)

FileStore.write = cut
from matcha.cli.main import run
run()
"""

Boundary = tuple[int, str]


def boundaries() -> list[Boundary]:
    """Serial and moment of every write of a first provision: its begin, its claims, each step, its end."""
    components = [cls(cls.Options()) for cls in _default_stack()]
    steps = [r for r in planning.want(components, (), apart=False).resources if r.key != "deployments"]
    return [(serial, moment) for serial in range(1, len(steps) + 4) for moment in ("before", "after")]


def _default_stack() -> list[type]:
    classes = [cls for flavors in registry.component_catalogue().values() for cls in flavors.values()]
    return [cls for cls in classes if "default" in cls.stacks]


def sample(found: list[Boundary]) -> dict[str, Boundary]:
    """One boundary of each third, whatever the seed: early, half-way and late kills differ in kind."""
    third = len(found) // 3
    parts = {"early": found[:third], "midway": found[third : 2 * third], "late": found[2 * third :]}
    return {name: random.Random(f"{SEED} {name}").choice(part) for name, part in parts.items()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    amount = "whole" if is_whole(metafunc.config) else "sample"
    if "boundary" in metafunc.fixturenames:
        every = boundaries()
        chosen = {f"{s}-{m}": (s, m) for s, m in every} if amount == "whole" else sample(every)
        metafunc.parametrize("boundary", chosen.values(), ids=chosen)
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(MOMENTS[amount]))


def kill_at(matcha: Matcha, boundary: Boundary) -> None:
    """Fails the test when the run came to its end without having met the boundary."""
    serial, moment = boundary
    run = subprocess.Popen(
        [sys.executable, "-c", CUT, str(serial), moment, "provision", "--yes"],
        cwd=matcha.project,
        env=matcha.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert run.wait(300) == -signal.SIGKILL, f"it was not killed {moment} serial {serial}"


def kill_at_random(matcha: Matcha, chance: random.Random, longest: float) -> float:
    """Seconds after which it was killed. A run that ended before says how long the next may live."""
    for _ in range(5):
        began = time.monotonic()
        seconds = chance.uniform(0, longest)
        run = matcha.popen("provision", "--yes", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert run.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            assert run.wait(30) == -signal.SIGKILL
            return seconds
        longest = time.monotonic() - began
        matcha("destroy", "--yes", "--delete-data")
    raise AssertionError("every run ended before it could be killed")


def afterwards(matcha: Matcha, what: str) -> None:
    if what == "resume":
        matcha("provision", "--yes")
        assert matcha.json("status")["healthy"] is True
        assert matcha.json("plan")["steps"] == []
    matcha("destroy", "--yes", "--delete-data")
    assert matcha.left() == []


@pytest.fixture(scope="module")
def longest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[float]:
    """Seconds that an undisturbed provision takes, on this machine and as busy as it is."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    matcha = Matcha(folder / "project", folder / "home")
    try:
        began = time.monotonic()
        matcha("provision", "--yes")
        seconds = time.monotonic() - began
        assert _serial(matcha) == boundaries()[-1][0], "there are other boundaries than these tests know"
    finally:
        matcha("destroy", "--yes", "--delete-data", code=None)
    yield seconds


def _serial(matcha: Matcha) -> int:
    return int(json.loads((matcha.project / ".matcha" / "state.json").read_text())["serial"])


@pytest.mark.sweep
@pytest.mark.usefixtures("longest")
@pytest.mark.parametrize("what", AFTERWARDS)
def test_killed_at_a_step_boundary(fresh: Matcha, boundary: Boundary, what: str) -> None:
    print(f"MATCHA_KILL_SEED={SEED}: killed {boundary[1]} the write of serial {boundary[0]}")
    kill_at(fresh, boundary)
    afterwards(fresh, what)


@pytest.mark.sweep
def test_killed_at_a_random_moment(fresh: Matcha, number: int, longest: float) -> None:
    print(f"MATCHA_KILL_SEED={SEED}, of {longest:.1f} s")
    seconds = kill_at_random(fresh, random.Random(f"{SEED} {number}"), longest)
    print(f"killed after {seconds:.2f} s")
    afterwards(fresh, AFTERWARDS[number % 2])
