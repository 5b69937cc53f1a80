"""The database server dies while it makes its data folder: the next start makes that anew."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import ClusterMatcha
from support.matcha import until

KILL = """
test -n "$(ls /matcha/first-start)" && test -n "$(ls /var/lib/mysql)" && kill -9 -1 && echo killed
"""
SAID = "the first start of this server was cut short"
ONLY_A_TRACKER = "components:\n  pipeline: null\n  model-deployer: null\n  monitoring: null\n"


@pytest.fixture
def tracker(kubeconfig: Path, tmp_path: Path) -> Iterator[ClusterMatcha]:
    """A stack that is not provisioned yet: MLflow on its database, and nothing that has to be built."""
    namespace = f"matcha-test-{secrets.token_hex(3)}"
    made = ClusterMatcha(tmp_path / "project", tmp_path / "home", kubeconfig, namespace)
    file = made.project / "matcha.yaml"
    file.write_text(file.read_text() + ONLY_A_TRACKER)
    try:
        yield made
    finally:
        made.remove()


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
