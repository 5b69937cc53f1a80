"""The level of Pod Security that the namespace enforces: kept where Matcha made it, told where not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightkube import Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule
from lightkube.resources.core_v1 import Namespace
from lightkube.resources.rbac_authorization_v1 import Role
from lightkube.types import PatchType

from matcha.targets.kubernetes import foundations, permissions
from matcha.targets.kubernetes.space import ENFORCED
from support.apiserver import as_user
from support.faults import FaultyProxy
from support.kubelet import kubelet
from support.rights import grant
from support.small_stack import SmallStack
from support.stores import cluster

LOOSE = "the namespace does not enforce Pod Security restricted any more"


@pytest.fixture
def own(
    api_server: Path, tmp_path: Path, through: tuple[FaultyProxy, Path], name: str
) -> Iterator[SmallStack]:
    """Provisioned, in a namespace of Matcha's."""
    admin = cluster(api_server, name)
    admin.create(foundations.namespace(name))
    with kubelet(api_server, name):
        made = SmallStack(tmp_path, through[1], name)
        made.provision()
        yield made
    admin.delete(Namespace, name)


def labels(api_server: Path, stack: SmallStack) -> dict[str, str]:
    return dict(cluster(api_server, "default").get_global(Namespace, stack.namespace).metadata.labels)


def set_level(api_server: Path, stack: SmallStack, level: str | None) -> None:
    client: Client = cluster(api_server, "default").client
    change: dict[str, Any] = {"metadata": {"labels": {ENFORCED: level}}}
    client.patch(Namespace, stack.namespace, change, patch_type=PatchType.MERGE)


def reasons(stack: SmallStack) -> dict[str, str]:
    return {step.key: step.reason for step in stack.plan().steps}


@pytest.mark.parametrize("level", [None, "privileged"])
def test_a_level_that_was_taken_off_shows_and_is_put_back(
    api_server: Path, own: SmallStack, proxy: FaultyProxy, level: str | None
) -> None:
    set_level(api_server, own, level)
    assert reasons(own) == {"foundation/network": LOOSE}
    assert not [note for note in own.plan().notes if "Pod Security" in note], "the step says it"
    assert LOOSE in own.details()["network"]
    found = own.doctor()["namespace"]
    assert (found.ok, found.fix) == (False, "matcha provision")
    assert "enforces Pod Security restricted no more" in found.message
    assert own.provision().changed
    assert labels(api_server, own)[ENFORCED] == "restricted"
    assert reasons(own) == {}
    assert own.details()["network"] == ""
    assert own.doctor()["namespace"].ok
    asked = len(proxy.requests)
    assert not own.provision().changed
    about = [(m, p) for m, p in proxy.requests[asked:] if p.partition("?")[0].endswith(own.namespace)]
    assert [method for method, _ in about] == ["GET"]


def test_a_namespace_of_somebody_elses_is_only_told(api_server: Path, stack: SmallStack) -> None:
    stack.provision()
    assert reasons(stack) == {}
    found = stack.doctor()["namespace"]
    assert found.ok and "does not enforce Pod Security restricted" in found.message
    assert f"kubectl label namespace {stack.namespace} --overwrite {ENFORCED}=restricted" in found.message
    assert ENFORCED not in labels(api_server, stack)


def test_who_may_not_change_the_namespace_has_no_step_for_it(
    api_server: Path, own: SmallStack, tmp_path: Path
) -> None:
    role = permissions.role()
    grant(api_server, own.namespace, role, "alice")
    (tmp_path / "alice").mkdir()
    alice = SmallStack(tmp_path / "alice", as_user(api_server, "alice"), own.namespace)
    set_level(api_server, own, None)
    assert reasons(alice) == {}, "who may not see it"
    seeing = Role(
        metadata=role.metadata,
        rules=[*(role.rules or ()), PolicyRule(apiGroups=[""], resources=["namespaces"], verbs=["get"])],
    )
    seeing.metadata = ObjectMeta(name=permissions.NAME)
    grant(api_server, own.namespace, seeing, "alice")
    assert reasons(alice) == {}
    found = alice.doctor()["namespace"]
    assert not found.ok and found.fix.startswith("Ask an administrator for: kubectl label namespace")
    alice.provision()
    assert reasons(own) == {"foundation/network": LOOSE}
