"""The contract of targets, whole, against a real API server; tests/node has it with pods that run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightkube.resources.core_v1 import ConfigMap

from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Target
from matcha.targets.kubernetes import KubernetesOptions, KubernetesTarget
from matcha.targets.kubernetes.names import STATE
from matcha.targets.kubernetes.store import CONTENT
from support.kubelet import kubelet
from support.matcha import processes_of
from support.plain import stored, web
from support.small_stack import IMAGE, there
from support.stores import cluster
from support.target_contract import Bed, TargetContract


class ApiBed:
    """A namespace whose pods are said to be well."""

    answers = False

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str) -> None:
        self._home = folder / "home"
        self._project = folder / "a project"
        self._project.mkdir()
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        lock = folder / "plain.lock"
        lock.write_text("")
        self.environment = Environment(name="plain", lock=lock, image=IMAGE)

    def target(self) -> Target:
        options = KubernetesOptions(kubeconfig=str(self._kubeconfig), namespace=self._namespace)
        return KubernetesTarget(self._project, options)

    def service(self, name: str = "web", **changes: Any) -> Service:
        return stored(web(name, preferred=8080 + len(name), **changes))

    def tell(self, state: State, name: str) -> dict[str, Any]:
        raise AssertionError("nothing answers here")

    def spoil(self, raw: bytes) -> None:
        admin = cluster(self._kubeconfig, self._namespace)
        admin.patch(ConfigMap, STATE, {"data": {CONTENT: raw.decode()}})

    def clean_up(self) -> None:
        for process in processes_of(self._home):
            process.kill()

    def left(self) -> Sequence[str]:
        files = [str(p) for p in self._home.rglob("*") if p.is_file()]
        return [*there(self._kubeconfig, self._namespace), *map(str, processes_of(self._home)), *files]


class TestCluster(TargetContract):
    @pytest.fixture
    def bed(self, tmp_path: Path, api_server: Path, namespace: str) -> Iterator[Bed]:
        made = ApiBed(tmp_path, api_server, namespace)
        with kubelet(api_server, namespace):
            yield made
        made.clean_up()
