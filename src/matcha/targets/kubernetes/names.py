"""What Matcha's objects are called and marked with in a cluster. One stack a namespace."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MANAGER = "matcha"  # field manager of every write, and the value of `managed-by`
MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
MINE = {MANAGED_BY: MANAGER}
DIGEST = "matcha-ml/digest"  # annotation: of the description a resource was made from
FILES_DIGEST = "matcha-ml/files"  # annotation of pods: their files are read at start
SECRETS_MARK = "matcha-ml/secrets"  # annotation of pods: a keyed mark of the values that they read
ADMITTED = "matcha-ml/admitted"  # annotation: what the cluster's admission makes of what was applied
PLACE = "matcha-ml/place"  # annotation of a Job: the volume that its work is in
UNENFORCED = "matcha-ml/pod-security"  # annotation of a namespace: why it does not enforce Pod Security
COPY_OF = "matcha-ml/copy-of"  # label of what was kept of an unreadable record
KEEPS = "matcha-ml/keeps-data"  # label: goes only with --delete-data
TOUCHED = "matcha-ml/touched"  # annotation of a pod: has the kubelet look at its volumes at once

STATE = "matcha-state"
LOCK = "matcha-lock"
SECRETS = "matcha-secrets"
CODE = "code"  # the name that ConfigMaps of code bear
NOTES = "matcha-notes"
SHARED = "shared"  # the name of what users of the stack share, and how its objects' names begin
STORE = "object-store"
DATABASE = "mysql"
JOB = "job"  # the name that all jobs of users bear
BUCKET_CHECK = "bucket-check"  # of a bucket that is not Matcha's


def labels(name: str, component: str, version: str = "") -> dict[str, str]:
    """Of every object and pod of one service, or of one part of Matcha's own. `version` where something runs;
    `put_instance` adds which stack's they are.
    """
    found = {
        NAME: name,
        COMPONENT: component,
        "app.kubernetes.io/part-of": MANAGER,
        MANAGED_BY: MANAGER,
    }
    return {**found, "app.kubernetes.io/version": version} if version else found


def put_instance(objects: Iterable[Any], namespace: str) -> list[Any]:
    """The objects, they and the pods they make labelled with the stack they are of: a namespace holds one.
    No selector has it.
    """
    found = list(objects)
    for obj in found:
        _label(obj, namespace)
    return found


def _label(node: Any, namespace: str) -> None:
    """An object, or a template of one, and the templates in it."""
    node.metadata.labels = {**(node.metadata.labels or {}), INSTANCE: namespace}
    for name in ("template", "jobTemplate"):
        inner = getattr(getattr(node, "spec", None), name, None)
        if inner is not None:
            _label(inner, namespace)


def selector(name: str) -> dict[str, str]:
    """Labels that pick the pods of one service and never change over its life."""
    return {NAME: name, "app.kubernetes.io/part-of": MANAGER}
