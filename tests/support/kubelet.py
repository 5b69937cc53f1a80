"""Stands in for the node that a test's API server lacks: says of pods what a kubelet would."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lightkube import ApiError
from lightkube.resources.core_v1 import Pod
from lightkube.types import PatchType

from matcha.targets.kubernetes.names import NAME
from support.stores import cluster

Says = Callable[[Pod], dict[str, Any]]  # the status of a pod
AGAIN = 0.1


def well(pod: Pod) -> dict[str, Any]:
    """It runs and is ready; one of a Job has done its work."""
    assert pod.metadata
    return _status(pod, done=(pod.metadata.labels or {}).get("job-name") is not None)


def running(pod: Pod) -> dict[str, Any]:
    """Also one of a Job."""
    return _status(pod, done=False)


def _status(pod: Pod, *, done: bool) -> dict[str, Any]:
    assert pod.spec
    now = datetime.now(timezone.utc).isoformat()
    state = {"terminated": {"exitCode": 0, "finishedAt": now}} if done else {"running": {"startedAt": now}}
    return {
        "phase": "Succeeded" if done else "Running",
        "startTime": now,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "False" if done else "True", "lastTransitionTime": now},
        ],
        "containerStatuses": [_container(c.name, c.image or "", state) for c in pod.spec.containers],
    }


def crashing(said: str, code: int = 3) -> Says:
    """Ends again and again, with these last words."""

    def status(pod: Pod) -> dict[str, Any]:
        assert pod.spec
        last = {"terminated": {"exitCode": code, "message": said, "reason": "Error"}}
        [container] = pod.spec.containers
        found = _container(container.name, container.image or "", {"waiting": {"reason": "CrashLoopBackOff"}})
        return {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{**found, "ready": False, "restartCount": 3, "lastState": last}],
        }

    return status


def failing(said: str, code: int) -> Says:
    """Has ended, as a pod of a Job that is not started again, with these last words."""

    def status(pod: Pod) -> dict[str, Any]:
        assert pod.spec
        ended = {"terminated": {"exitCode": code, "message": said, "reason": "Error"}}
        names = [(c.name, c.image or "") for c in pod.spec.containers]
        return {"phase": "Failed", "containerStatuses": [_container(*name, ended) for name in names]}

    return status


def unscheduled(said: str) -> Says:
    """As the scheduler leaves a pod that no node takes."""
    reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    return lambda _: {"phase": "Pending", "conditions": [reason]}


def waiting(reason: str, said: str) -> Says:
    """On its node, which cannot start it."""

    def status(pod: Pod) -> dict[str, Any]:
        assert pod.spec
        state = {"waiting": {"reason": reason, "message": said}}
        return {
            "phase": "Pending",
            "containerStatuses": [_container(c.name, c.image or "", state) for c in pod.spec.containers],
        }

    return status


def _container(name: str, image: str, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "imageID": image,
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


class Kubelet:
    """`says` has, by service, what to tell of its pods instead of `well`; it is asked again while Pending."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.says: dict[str, Says] = {}
        self._cluster = cluster(kubeconfig, namespace)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._told: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(AGAIN):
            for pod in self._cluster.found(Pod, {}):
                with contextlib.suppress(ApiError):  # it is gone, or was changed meanwhile
                    self._look_after(pod)

    def _look_after(self, pod: Pod) -> None:
        assert pod.metadata and pod.metadata.uid and pod.metadata.name
        if pod.metadata.uid in self._told or pod.metadata.deletionTimestamp:
            return
        name = (pod.metadata.labels or {}).get(NAME, "")
        status = self.says.get(name, well)(pod)
        self._cluster.client.patch(
            Pod.Status, pod.metadata.name, {"status": status}, patch_type=PatchType.MERGE
        )
        if status["phase"] != "Pending":
            self._told.add(pod.metadata.uid)


@contextlib.contextmanager
def kubelet(kubeconfig: Path, namespace: str) -> Iterator[Kubelet]:
    made = Kubelet(kubeconfig, namespace)
    made.start()
    try:
        yield made
    finally:
        made.stop()
