"""The database server dies while it makes its data folder: the next start makes that anew."""

from __future__ import annotations

import subprocess

import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

pytestmark = pytest.mark.turn(1)

# Once: what it says may be lost with the container, whose scratch folder stays.
KILL = """
if test -e /tmp/cut; then echo killed; exit; fi
test -n "$(ls /matcha/first-start)" && test -n "$(ls /var/lib/mysql)" && touch /tmp/cut &&
kill -9 -1 && echo killed
"""
SAID = "the first start of this server was cut short"


def test_a_first_start_that_is_cut_short_is_made_anew(tracker: ClusterMatcha) -> None:
    with tracker.popen("provision", "--yes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        try:
            until(lambda: _is_cut_short(tracker), 600, every=0.1)
            until(lambda: SAID in tracker.kubectl("logs", "mysql-0", code=None), 120, every=0.2)
            told = run.communicate(timeout=900)[0]
            assert run.returncode == 0, told
        finally:
            run.kill()
    assert tracker.is_healthy()
    assert tracker.kubectl("exec", "mysql-0", "--", "ls", "/matcha/first-start") == ""


def _is_cut_short(stack: ClusterMatcha) -> bool:
    """Whether all that was making the data folder is killed now."""
    return "killed" in stack.kubectl("exec", "mysql-0", "--", "sh", "-c", KILL, code=None)
