"""The contract of targets, and the life of every component, as real pods: a sample by default.

The contract runs whole against an API server in tests/cluster, and the stack through its life in test_stack;
both whole on a node: `pytest tests/node -m sweep`.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from matcha.component import Component
from matcha.planning import Wanted
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Target
from matcha.targets.kubernetes import KubernetesOptions, KubernetesTarget
from matcha.targets.kubernetes.setting import BUCKET
from support.cluster import ClusterMatcha
from support.component_contract import COMPONENTS, live_through
from support.matcha import processes_of
from support.plain import stored, web
from support.target_contract import Bed, TargetContract

pytestmark = [pytest.mark.sweep, pytest.mark.turn(1)]
IMAGE = KubernetesOptions().image
Command = tuple[str, ...]


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kubeconfig: Path) -> None:
    """The API runs in this process."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))


class ClusterBed:
    """A namespace, and one service of the standard library in it."""

    answers = True

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self.matcha = ClusterMatcha(
            folder / "a project", folder / "home", kubeconfig, f"matcha-test-{secrets.token_hex(3)}"
        )
        # One that Matcha made would go with every lock that leaves nothing behind.
        self.matcha.kubectl("create", "namespace", self.matcha.namespace)
        lock = folder / "plain.lock"
        lock.write_text("")
        self.environment = Environment(name="plain", lock=lock, image=IMAGE)

    def target(self) -> Target:
        options = KubernetesOptions(kubeconfig=str(self.matcha.kubeconfig), namespace=self.matcha.namespace)
        return KubernetesTarget(self.matcha.project, options)

    def service(self, name: str = "web", **changes: Any) -> Service:
        return stored(web(name, preferred=8080 + len(name), **changes))

    def tell(self, state: State, name: str) -> dict[str, Any]:
        url = self.target().access(state).url(f"role-of-{name}")
        told = dict(httpx.get(url, timeout=60, trust_env=False).json())
        pod = self.matcha.objects("pods", f"--field-selector=metadata.name={told['env']['HOSTNAME']}")[0]
        # every process is the first of its container
        return {**told, "pid": pod["status"]["containerStatuses"][0]["containerID"]}

    def spoil(self, raw: bytes) -> None:
        patch = json.dumps({"data": {"state.json": raw.decode()}})
        self.matcha.kubectl("patch", "configmap", "matcha-state", "--type=merge", f"--patch={patch}")

    def left(self) -> Sequence[str]:
        kinds = "deployments,statefulsets,pods,services,configmaps,secrets,persistentvolumeclaims,leases"
        found = self.matcha.objects(kinds, "--selector=app.kubernetes.io/managed-by=matcha")
        files = [p for p in self.matcha.home.rglob("*") if p.is_file()]
        names = [f"{o['kind']}/{o['metadata']['name']}" for o in found]
        return [*names, *map(str, processes_of(self.matcha.project)), *map(str, files)]


def _files(pod: str, folder: str) -> tuple[str, Command, Command]:
    put = (pod, "--", "sh", "-c", f"mkdir -p {folder} && touch {folder}/mark")
    return f"{pod}:{folder}", put, (pod, "--", "ls", f"{folder}/mark")


def _rows(database: str) -> tuple[str, Command, Command]:
    ask = 'exec mysql --host=127.0.0.1 --user=root --password="$MYSQL_ROOT_PASSWORD" --execute="$0"'
    server = ("statefulset/mysql", "--", "sh", "-c", ask)
    return (
        database,
        (*server, f"CREATE TABLE {database}.mark (x INT)"),
        (*server, f"SHOW TABLES FROM {database}"),
    )


class ClusterPlace:
    """A project whose stack runs in a namespace of its own."""

    target = "kubernetes"
    answers = True

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        self._matcha = ClusterMatcha(
            folder / "a project 50%", folder / "home", kubeconfig, f"matcha-test-{secrets.token_hex(3)}"
        )
        self.project = self._matcha.project
        self.settings = (self.project / "matcha.yaml").read_text().partition("\n")[2]

    def mark(self, wanted: Wanted) -> None:
        for _, mark, _ in self._marks(wanted):
            self._matcha.kubectl("exec", *mark)

    def unmarked(self, wanted: Wanted) -> Sequence[str]:
        return [what for what, _, look in self._marks(wanted) if not self._is_said(look)]

    def _marks(self, wanted: Wanted) -> Iterator[tuple[str, Command, Command]]:
        """What each is in, and what leaves it there and prints it, as arguments of `kubectl exec`."""
        for service in wanted.services:
            for volume in service.volumes:
                yield _files(f"statefulset/{service.name}", f"/matcha/volumes/{volume}")
            for database in service.databases:
                yield _rows(database.name)
        for area in wanted.stores:
            yield _files("statefulset/object-store", f"/data/{BUCKET}/{area}")

    def _is_said(self, look: Command) -> bool:
        try:
            return "mark" in self._matcha.kubectl("exec", *look)
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    def kill(self, service: str) -> None:
        self._matcha.kubectl("delete", "pod", f"--selector=app.kubernetes.io/name={service}", "--wait=true")

    def left(self) -> Sequence[str]:
        found = self._matcha.objects("all,pvc", "--selector=app.kubernetes.io/managed-by=matcha")
        files = [p for p in self._matcha.home.rglob("*") if p.is_file()]
        return [
            *(o["metadata"]["name"] for o in found),
            *map(str, self._matcha.processes()),
            *map(str, files),
        ]

    def clean_up(self) -> None:
        self._matcha.remove()


@pytest.fixture
def place(tmp_path: Path, kubeconfig: Path) -> Iterator[ClusterPlace]:
    made = ClusterPlace(tmp_path, kubeconfig)
    yield made
    made.clean_up()


class TestCluster(TargetContract):
    @pytest.fixture
    def bed(self, tmp_path: Path, kubeconfig: Path) -> Iterator[Bed]:
        made = ClusterBed(tmp_path, kubeconfig)
        yield made
        made.matcha.remove()


@pytest.mark.parametrize("cls", COMPONENTS, ids=lambda c: f"{c.role}-{c.flavor}")
def test_a_component_lives_through_everything(place: ClusterPlace, cls: type[Component]) -> None:
    live_through(place, cls)
