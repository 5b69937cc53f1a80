"""`provision` killed at every step boundary and at random times: a rerun finishes, or destroy leaves nothing.

A sample runs by default; MATCHA_SWEEP=whole runs every boundary, both ways, and more random times.
"""

import os
import random
import signal
import subprocess
import time

import pytest

from support.matcha import Matcha

WHOLE = os.environ.get("MATCHA_SWEEP") == "whole"
SEED = int(os.environ.get("MATCHA_SEED", "1"))
BOUNDARIES = range(1, 36) if WHOLE else (1, 4, 20)
MOMENTS = 20 if WHOLE else 2
LONGEST = 12.0  # seconds: what a warm provision takes on the machine these tests were written on

AFTERWARDS = ("resume", "destroy")


def kill_at_line(matcha: Matcha, number: int) -> bool:
    """SIGKILL after the number-th line of progress; False where provision ended before."""
    run = matcha.popen("provision", "--yes", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert run.stderr is not None
    for count, _ in enumerate(run.stderr, 1):
        if count == number:
            run.send_signal(signal.SIGKILL)
            run.wait(30)
            run.stderr.close()
            return True
    run.wait(60)
    run.stderr.close()
    return False


def kill_after(matcha: Matcha, seconds: float) -> None:
    run = matcha.popen("provision", "--yes", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    run.send_signal(signal.SIGKILL)
    run.wait(30)


def afterwards(matcha: Matcha, what: str) -> None:
    if what == "resume":
        matcha("provision", "--yes")
        assert matcha.json("status")["healthy"] is True
        assert matcha.json("plan")["steps"] == []
    matcha("destroy", "--yes", "--delete-data")
    assert matcha.left() == []


@pytest.mark.sweep
@pytest.mark.parametrize("what", AFTERWARDS)
@pytest.mark.parametrize("line", BOUNDARIES)
def test_killed_at_a_step_boundary(fresh: Matcha, line: int, what: str) -> None:
    kill_at_line(fresh, line)
    afterwards(fresh, what)


@pytest.mark.sweep
@pytest.mark.parametrize("number", range(MOMENTS))
def test_killed_at_a_random_moment(fresh: Matcha, number: int) -> None:
    chance = random.Random(SEED * 1000 + number)
    kill_after(fresh, chance.uniform(0, LONGEST))
    afterwards(fresh, AFTERWARDS[number % 2])
