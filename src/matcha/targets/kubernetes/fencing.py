"""The cluster for one who holds the stack's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightkube import Client
from lightkube.config.kubeconfig import SingleConfig

from matcha.targets.kubernetes.cluster import Cluster, T


class Fenced(Cluster):
    """`cluster`, by its connection. `fence` is called before each try of a write and raises Locked where the
    lock was lost. What is on its way to the cluster by then is not called back.
    """

    def __init__(self, cluster: Cluster, fence: Callable[[], None]) -> None:
        self.namespace = cluster.namespace
        self._through = cluster
        self._fence = fence

    @property
    def config(self) -> SingleConfig:
        return self._through.config

    @property
    def client(self) -> Client:
        return self._through.client

    def _write(self, ask: Callable[[], T], doing: str, **how: Any) -> T:
        def fenced() -> T:
            self._fence()
            return ask()

        return super()._write(fenced, doing, **how)

    def _sleep(self, seconds: float) -> None:
        self._through._sleep(seconds)

    def _has_other_credentials(self) -> bool:
        return self._through._has_other_credentials()
