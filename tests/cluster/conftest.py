"""Everyday tests against a real API server, without a node: nothing here waits for a pod."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace

from matcha.targets.kubernetes import proof, raising, removal
from support.apiserver import api_server
from support.faults import FaultyProxy, faulty
from support.kubelet import Kubelet, kubelet
from support.small_stack import SmallStack
from support.stores import close_all, cluster

__all__ = ["api_server"]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pod here takes time to start, and nothing of the user's own is touched."""
    monkeypatch.setattr(raising, "POLL", 0.1)
    monkeypatch.setattr(removal, "POLL", 0.1)
    monkeypatch.setattr(proof, "POLL", 0.3)
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "MATCHA_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


@pytest.fixture
def name() -> str:
    """Of a namespace that does not exist."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def namespace(api_server: Path, name: str) -> Iterator[str]:
    """An empty namespace that Matcha did not make."""
    admin = cluster(api_server, name)
    admin.create(Namespace(metadata=ObjectMeta(name=name)))
    yield name
    admin.delete(Namespace, name)


@pytest.fixture
def through(api_server: Path, tmp_path: Path) -> Iterator[tuple[FaultyProxy, Path]]:
    with faulty(api_server, tmp_path) as found:
        yield found


@pytest.fixture
def proxy(through: tuple[FaultyProxy, Path]) -> FaultyProxy:
    """What `stack` reaches the cluster through."""
    return through[0]


@pytest.fixture
def node(api_server: Path, namespace: str) -> Iterator[Kubelet]:
    """Has the pods of `namespace` become ready."""
    with kubelet(api_server, namespace) as made:
        yield made


@pytest.fixture
def stack(tmp_path: Path, through: tuple[FaultyProxy, Path], namespace: str, node: Kubelet) -> SmallStack:
    """Not provisioned yet, in a namespace that Matcha did not make."""
    return SmallStack(tmp_path, through[1], namespace)
