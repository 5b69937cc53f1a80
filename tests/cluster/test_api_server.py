"""The fixture that everything here stands on leaves nothing behind, however the tests end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.apiserver import find_programs

RUN = """
import sys, time
from pathlib import Path
from support.apiserver import running
with running(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_nothing_stays_of_killed_tests(api_server: Path, end: signal.Signals) -> None:
    tests = subprocess.Popen(
        [sys.executable, "-c", RUN, str(find_programs())],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert tests.stdout
    with tests.stdout as said:
        folder = Path(said.readline().decode().strip())
        started = _in(folder)
        assert {p.name() for p in started} >= {"etcd", "kube-apiserver"}
        tests.send_signal(end)
        tests.wait(60)
    assert psutil.wait_procs(started, timeout=60)[1] == []
    deadline = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _in(folder: Path) -> list[psutil.Process]:
    """Processes that work in the folder or were told of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) or str(folder) in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found
