"""A provision that is told to end, or whose terminal is closed, gives the stack's lock back."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lightkube.resources.apps_v1 import StatefulSet

from support.matcha import COMMAND, until
from support.stores import cluster, lease

FILE = """\
target: kubernetes
targets:
  kubernetes: {{kubeconfig: {kubeconfig}, namespace: {namespace}}}
"""


@pytest.fixture
def project(tmp_path: Path, api_server: Path, namespace: str) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "matcha.yaml").write_text(FILE.format(kubeconfig=api_server, namespace=namespace))
    return folder


def begun(project: Path, waits: Callable[[], object], **how: object) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*COMMAND, "provision", "--yes"], cwd=project, **how)  # type: ignore[call-overload]
    until(waits, 60)
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_lock_is_given_back(
    project: Path, api_server: Path, namespace: str, number: signal.Signals
) -> None:
    """There is no node here: it waits for a pod."""
    there = cluster(api_server, namespace)
    process = begun(project, lambda: there.get(StatefulSet, "object-store"), stderr=subprocess.DEVNULL)
    assert lease(api_server, namespace)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert lease(api_server, namespace) is None


def test_a_terminal_that_is_closed_gives_the_lock_back(
    project: Path, api_server: Path, namespace: str
) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(project)
        os.execv(sys.executable, [*COMMAND, "provision", "--yes"])
    there = cluster(api_server, namespace)

    def waits() -> object:
        while select.select([terminal], [], [], 0)[0]:
            os.read(terminal, 4096)  # a terminal that nobody looks at would stop who writes to it
        return there.get(StatefulSet, "object-store")

    until(waits, 60)
    assert lease(api_server, namespace)
    os.close(terminal)  # SIGHUP to who was started in it
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert lease(api_server, namespace) is None


def test_who_says_nohup_is_not_ended(project: Path, api_server: Path, namespace: str) -> None:
    there = cluster(api_server, namespace)
    process = begun(
        project,
        lambda: there.get(StatefulSet, "object-store"),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
