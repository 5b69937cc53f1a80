"""A real API server for tests: etcd, kube-apiserver and kube-controller-manager, without a node."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import controlplane
from support.controlplane import NEEDED, PATIENCE


@pytest.fixture(scope="session")
def api_server() -> Iterator[Path]:
    """The kubeconfig of its administrator; `as_user` has those of the others."""
    programs = find_programs()
    if programs is None:
        reason = (
            f"needs {', '.join(NEEDED)} in KUBEBUILDER_ASSETS or on PATH (tests/e2e/cluster/build control)"
        )
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    with running(programs) as folder:
        yield folder / "admin.kubeconfig"


def as_user(api_server: Path, user: str) -> Path:
    """The kubeconfig of one of `controlplane.USERS`."""
    return api_server.with_name(f"{user}.kubeconfig")


def find_programs() -> Path | None:
    """A folder that holds all of them; of those that `tests/e2e/cluster/build` made, the newest."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matcha-tests"
    made = sorted(cache.glob("cluster-*/kube-apiserver"), key=lambda p: p.stat().st_mtime, reverse=True)
    named = [os.environ.get("KUBEBUILDER_ASSETS", ""), *os.environ["PATH"].split(os.pathsep)]
    folders = [*(Path(n) for n in named if n), *(p.parent for p in made)]
    return next((f for f in folders if all(os.access(f / n, os.X_OK) for n in NEEDED)), None)


@contextlib.contextmanager
def running(programs: Path) -> Iterator[Path]:
    """Its folder, with the kubeconfigs. Nothing stays behind, also where this process is killed."""
    folder = Path(tempfile.mkdtemp(prefix="matcha-api-"))
    keeper = subprocess.Popen(
        [sys.executable, controlplane.__file__, str(programs), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C ends the tests, and they end this
    )
    try:
        said = _first_line(keeper)
        if said != "ready":
            pytest.fail(f"no API server: {said}", pytrace=False)
        yield folder
    finally:
        _end(keeper)
        shutil.rmtree(folder, ignore_errors=True)


def _first_line(keeper: subprocess.Popen[bytes]) -> str:
    assert keeper.stdout is not None
    ready, _, _ = select.select([keeper.stdout], [], [], PATIENCE + 60)
    line = keeper.stdout.readline() if ready else b""
    return str(json.loads(line)) if line else "nothing came from it"


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Closing its input has it end all the rest; a kill would too, on Linux, but leave its folder."""
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    keeper.stdin.close()
    try:
        keeper.wait(60)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    keeper.stdout.close()
