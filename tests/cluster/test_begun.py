"""What a first provision leaves that was killed before it recorded anything: `destroy` takes it away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Secret

from support.small_stack import SmallStack, namespace_is_gone, there
from support.stores import cluster

TESTS = Path(__file__).parent.parent
# Killed when it has made the object of this kind.
CUT = """
import os, signal, sys
from pathlib import Path
from matcha.targets.kubernetes.cluster import Cluster
from support.small_stack import SmallStack
folder, kubeconfig, namespace, kind = sys.argv[1:]
create = Cluster.create

def cut(self, obj, **how):
    made = create(self, obj, **how)
    if type(obj).__name__ == kind:
        os.kill(os.getpid(), signal.SIGKILL)
    return made

Cluster.create = cut
SmallStack(Path(folder), Path(kubeconfig), namespace).provision()
"""
LEFT = {
    "Namespace": set(),
    "Lease": {"Lease/matcha-lock"},
    "ConfigMap": {"Lease/matcha-lock", "ConfigMap/matcha-state"},
}


@pytest.fixture
def own(api_server: Path, tmp_path: Path, name: str) -> Iterator[SmallStack]:
    """In a namespace that Matcha makes."""
    yield SmallStack(tmp_path, api_server, name)
    cluster(api_server, name).delete(Namespace, name)


def killed(stack: SmallStack, kind: str) -> None:
    command = [sys.executable, "-c", CUT, str(stack.folder.parent), str(stack.kubeconfig)]
    done = subprocess.run(
        [*command, stack.namespace, kind],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("kind", LEFT)
def test_it_goes_with_the_namespace(api_server: Path, own: SmallStack, kind: str) -> None:
    killed(own, kind)
    assert there(api_server, own.namespace) == LEFT[kind]
    destroyed = own.destroy(delete_data=False)
    assert not destroyed.nothing
    assert {line.replace(" ", "/") for line in destroyed.removed} == {
        *LEFT[kind],
        f"Namespace/{own.namespace}",
    }
    assert namespace_is_gone(api_server, own.namespace)
    assert own.destroy().nothing


def test_it_goes_from_a_namespace_of_others(api_server: Path, own: SmallStack) -> None:
    killed(own, "ConfigMap")
    secret = Secret(metadata=ObjectMeta(name="theirs"))
    cluster(api_server, own.namespace).client.create(secret, field_manager="kubectl-create")
    destroyed = own.destroy()
    assert {line.replace(" ", "/") for line in destroyed.removed} == LEFT["ConfigMap"]
    assert there(api_server, own.namespace) == set()
    assert not namespace_is_gone(api_server, own.namespace)
    assert own.destroy().nothing
