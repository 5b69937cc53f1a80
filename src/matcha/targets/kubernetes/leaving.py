"""Stacks that a project left behind when its matcha.yaml named another namespace."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from lightkube.resources.core_v1 import ConfigMap

from matcha import state as states
from matcha.errors import MatchaError
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.names import STATE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.store import CONTENT


def notes(options: KubernetesOptions, project: Path) -> list[str]:
    """For the plan: of those that this machine knows of, and that are still there."""
    from matcha.targets.kubernetes.links import elsewhere  # noqa: PLC0415 - not for manifests

    return [
        f"A stack of this project is still in the namespace {namespace} and stays there. To remove it: put "
        f"targets.kubernetes.namespace: {namespace} back into matcha.yaml, then: matcha destroy"
        for namespace, stack_id in sorted(elsewhere(options, project))
        if _is_there(msgspec.structs.replace(options, namespace=namespace), stack_id)
    ]


def _is_there(options: KubernetesOptions, stack_id: str) -> bool:
    with contextlib.suppress(MatchaError, msgspec.MsgspecError):
        found = Cluster(options).get(ConfigMap, STATE)
        raw = ((found.data if found else None) or {}).get(CONTENT, "")
        return bool(raw) and states.decode(raw.encode()).stack_id == stack_id
    return False
