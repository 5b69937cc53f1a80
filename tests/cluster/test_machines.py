"""Which kinds of node count, asked of a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lightkube.models.core_v1 import NodeCondition, NodeSpec, NodeStatus, Taint
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Node

from matcha.targets.kubernetes.machines import machines
from support.apiserver import as_user
from support.matcha import until
from support.stores import cluster

OWN = Taint(key="own", effect="NoSchedule")


@pytest.fixture(autouse=True)
def _nodes(api_server: Path, name: str) -> Iterator[None]:
    """Five that are ready; the API server makes new ones wait until a controller has seen that."""
    admin = cluster(api_server, name)
    ready = NodeStatus(conditions=[NodeCondition(type="Ready", status="True")])
    specs = {
        "amd64": NodeSpec(),
        "arm64": NodeSpec(),
        "s390x": NodeSpec(unschedulable=True),
        "ppc64le": NodeSpec(taints=[OWN]),
        "windows": NodeSpec(),
    }
    for kind, spec in specs.items():
        system = "windows" if kind == "windows" else "linux"
        labels = {"kubernetes.io/arch": kind, "kubernetes.io/os": system}
        about = ObjectMeta(name=f"{name}-{kind}", labels=labels)
        admin.create(Node(metadata=about, spec=spec, status=ready))
        admin.patch(Node, f"{name}-{kind}", {"spec": {"taints": [t.to_dict() for t in spec.taints or ()]}})
    yield
    for kind in specs:
        admin.delete(Node, f"{name}-{kind}")


def test_nodes_that_keep_pods_away_do_not_count(api_server: Path, name: str) -> None:
    until(lambda: machines(cluster(api_server, name)) == {"amd64", "arm64"}, 30)


def test_a_user_who_may_not_list_nodes_does_without(api_server: Path, name: str) -> None:
    assert machines(cluster(as_user(api_server, "bob"), name)) == frozenset()
