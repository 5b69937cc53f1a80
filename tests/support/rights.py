"""What a user of a test's API server may do, and what nobody may."""

from __future__ import annotations

from pathlib import Path

from lightkube.models.core_v1 import LimitRangeItem, LimitRangeSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import RoleRef, Subject
from lightkube.resources.core_v1 import LimitRange
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from matcha.targets.kubernetes import permissions
from support.apiserver import as_user
from support.stores import cluster, wait_for

RBAC = "rbac.authorization.k8s.io"


def grant(api_server: Path, namespace: str, role: Role, user: str) -> None:
    """As an administrator does with the Role of the docs."""
    admin = cluster(api_server, namespace)
    admin.apply(role)
    admin.apply(
        RoleBinding(
            metadata=ObjectMeta(name=f"matcha-{user}"),
            roleRef=RoleRef(apiGroup=RBAC, kind="Role", name=permissions.NAME),
            subjects=[Subject(apiGroup=RBAC, kind="User", name=user)],
        )
    )
    wait_for(cluster(as_user(api_server, user), namespace), role.rules or ())


def without(*resources: str) -> Role:
    found = permissions.role()
    found.rules = [r for r in found.rules or () if not set(r.resources or ()) & set(resources)]
    return found


def but(resource: str) -> Role:
    """The Role without this resource alone."""
    found = permissions.role()
    for rule in found.rules or ():
        rule.resources = [each for each in rule.resources or () if each != resource]
    return found


def limit_volumes(api_server: Path, namespace: str, **bounds: str) -> None:
    """`max` and `min` of what one claim may ask for."""
    item = LimitRangeItem(type="PersistentVolumeClaim", **{k: {"storage": v} for k, v in bounds.items()})
    made = LimitRange(metadata=ObjectMeta(name="bounds"), spec=LimitRangeSpec(limits=[item]))
    cluster(api_server, namespace).apply(made)
