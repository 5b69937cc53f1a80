"""`matcha` against a cluster, and kubectl as the independent look at it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from support.matcha import Matcha, processes_of, until

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


class ClusterMatcha(Matcha):
    """A project whose stack runs in `namespace`; another user of it has another project and home."""

    def __init__(self, project: Path, home: Path, kubeconfig: Path, namespace: str) -> None:
        super().__init__(project, home)
        self.kubeconfig, self.namespace = kubeconfig, namespace
        (project / "matcha.yaml").write_text(self._file())

    @classmethod
    def of_team(cls, folder: Path, kubeconfig: Path, more: str = "") -> ClusterMatcha:
        """In a namespace of its own, which nobody has made yet. `more`: of its stack file."""
        namespace = f"matcha-test-{secrets.token_hex(3)}"
        made = cls(folder / "project", folder / "home", kubeconfig, namespace)
        file = made.project / "matcha.yaml"
        file.write_text(file.read_text() + more)
        return made

    @classmethod
    @contextlib.contextmanager
    def provisioned(cls, folder: Path, kubeconfig: Path, more: str = "") -> Iterator[ClusterMatcha]:
        """`of_team`, with its stack, which goes with all that it made."""
        made = cls.of_team(folder, kubeconfig, more)
        try:
            made("provision", "--yes")
            yield made
        finally:
            made.remove()

    def _file(self) -> str:
        trust = f"    ca-bundle: {AUTHORITIES}\n" if AUTHORITIES.exists() else ""
        return (
            "target: kubernetes\n"
            "targets:\n"
            "  kubernetes:\n"
            f"    namespace: {self.namespace}\n"
            # As the test cluster's image truly is: models of its clients load where they are served.
            "    image: python:3.11-slim-bookworm\n"
            "    storage-size: 2Gi\n    database-size: 2Gi\n    volume-size: 1Gi\n"
            f"{trust}"
        )

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *args: str, stdin: str = "", code: int | None = 0, timeout: float = 180) -> str:
        done = subprocess.run(
            [_kubectl(), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def shell(self, script: str, where: Path | None = None) -> str:
        """With kubectl on PATH and this cluster's kubeconfig."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=where or self.project,
            env={**self.env, "PATH": f"{Path(_kubectl()).parent}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def objects(self, kinds: str, *args: str) -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("get", kinds, "--output=json", *args))["items"])

    def is_healthy(self) -> bool:
        return self("status", code=None).returncode == 0

    def remove(self) -> None:
        """Whatever a test left of it."""
        self("destroy", "--yes", "--delete-data", code=None)
        self.drop()

    def drop(self) -> None:
        """The same by the cluster itself, which is not waited for: a namespace takes long to go."""
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false", code=None)
        self.let_go()

    def let_go(self) -> None:
        """End what this machine has of it, as the forwards: the cluster keeps its stack."""
        until(self._none_is_left, 30)

    def _none_is_left(self) -> bool:
        """Kills its processes; a supervisor may have started one again meanwhile."""
        left = [*self.processes(), *processes_of(self.home)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left


def _kubectl() -> str:
    """Of the programs that the test cluster was built with, otherwise the machine's own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matcha-tests"
    built = sorted(cache.glob("cluster-*/kubectl"), key=lambda p: p.stat().st_mtime)
    found = str(built[-1]) if built else shutil.which("kubectl")
    assert found, "kubectl is needed: tests/e2e/cluster/build"
    return found
