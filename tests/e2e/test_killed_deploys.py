"""`deploy` killed at everything it says: what is served is the old or the new, and `provision` sees to that.

By default a sample runs; the whole sweep: `./test -m sweep`.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from matcha.environments import MARKER, cache_root
from support.credit import FIRST, SECOND, answer, at_version_one, deployed
from support.matcha import Matcha
from support.sweep import is_whole

# The real command line, which kills itself once it has said this. Arguments: the words, its own.
DYING = """
import os, signal, sys
from matcha.views.live import Plain, plain_line

words, write = sys.argv.pop(1), Plain._write

def say(display, event):
    write(display, event)
    if words in plain_line(event, 0.0, display._titles, display._actions.get(event.subject)):
        os.kill(os.getpid(), signal.SIGKILL)

Plain._write = say
from matcha.cli.main import run
run()
"""
SHARED = ("models:/credit/2", "credit")  # served by the process that is there
OWN = ("models:/older/1", "older")  # in a process of its own, from an environment that is there
NEW = ("saved apart", "apart")  # the same from one that is not
ONLY_HERE = "humanize==4.8.0"  # which no other environment has
MOMENTS = {  # what is said last -> by which deploys
    "looking for its training data": (SHARED, OWN),
    "serving models:/": (SHARED, OWN),
    ": installing": (NEW,),
    ": starting": (OWN,),
    "waiting for /": (OWN,),
    "Models: loading": (SHARED, OWN),
    "Models: loaded": (SHARED, OWN),
}
SAMPLE = ("serving models:/", "Models: loading")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", MOMENTS if is_whole(metafunc.config) else SAMPLE)


@pytest.fixture(autouse=True)
def _at_version_one(stack: Matcha, credit: str) -> None:
    at_version_one(stack)


@pytest.fixture
def apart(stack: Matcha, older: None, tmp_path: Path) -> Mapping[str, str]:
    """Makes `saved apart`, whose model wants what no environment has; the variable of a cache for it."""
    folder = stack.project / NEW[0]
    if not folder.exists():
        shutil.copytree(stack.project / "saved older", folder)
        with (folder / "requirements.txt").open("a") as file:
            file.write(f"\n{ONLY_HERE}\n")
    own = tmp_path / "cache" / "environments"
    own.mkdir(parents=True)
    for made in (cache_root() / "environments").iterdir():
        there = any(made.glob(f"lib/*/site-packages/{ONLY_HERE.replace('==', '-')}.dist-info"))
        if (made / MARKER).exists() and not there:
            (own / made.name).symlink_to(made)
    return {"MATCHA_CACHE_DIR": str(own.parent)}


@pytest.mark.sweep
def test_a_killed_deploy_is_all_or_nothing_after_provision(
    stack: Matcha, credit: str, apart: Mapping[str, str], moment: str
) -> None:
    before = stack.services()
    for deploy in MOMENTS[moment]:
        kill_at(stack, deploy, moment, apart if deploy is NEW else {})
    stack("provision", "--yes")
    assert stack.json("status")["healthy"] is True
    assert stack.json("plan")["steps"] == []
    assert answer(credit) == (FIRST if deployed(stack)["credit"] == "1" else SECOND)
    assert "apart" not in deployed(stack)
    if "older" in deployed(stack):
        assert stack.json("predict", "older", "--json", '[{"x": 1.0}]')["predictions"] == ["1.7.2"]
        stack("undeploy", "older")
    assert stack.services() == before


def kill_at(stack: Matcha, deploy: tuple[str, str], moment: str, env: Mapping[str, str]) -> None:
    """Fails the test when it came to its end without having said that."""
    model, name = deploy
    done = subprocess.run(
        [sys.executable, "-c", DYING, moment, "deploy", model, "--name", name],
        cwd=stack.project,
        env={**stack.env, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, f"{name} never said {moment!r}:\n{done.stdout}{done.stderr}"
    assert moment in done.stderr.rstrip().splitlines()[-1]
