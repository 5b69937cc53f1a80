"""A stack of small services in a cluster, provisioned and destroyed by the API as any other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from lightkube.resources.core_v1 import Namespace

from matcha.access import Output
from matcha.api import _recorded, inspect, lifecycle, outside, serving, training, upkeep
from matcha.api._project import Project
from matcha.api.types import Destroyed, Finding, NewToken, Provisioned, RevokedToken, StackStatus
from matcha.component import Component
from matcha.events import Emit, silent
from matcha.planning import Plan
from matcha.service import Database, Environment, Service
from matcha.spec import Stack
from matcha.targets.kubernetes import KubernetesOptions, KubernetesTarget
from matcha.targets.kubernetes.look import everything
from matcha.targets.kubernetes.removal import ORDER
from support.plain import stored, web
from support.stores import cluster, known

IMAGE = KubernetesOptions().image


class Small(Component):
    """Whatever services it is given."""

    role, flavor, title = "small", "plain", "Small"
    Options = msgspec.Struct

    def __init__(self, services: Sequence[Service], *environments: Environment) -> None:
        super().__init__(msgspec.Struct())
        self._services = tuple(services)
        self._environments = environments

    def environments(self) -> tuple[Environment, ...]:
        return self._environments

    def services(self, deployments: Sequence[Any]) -> tuple[Service, ...]:
        return self._services


class SmallStack:
    """The project in `folder`, as somebody with `kubeconfig` has it. `archive`: its environment has no image
    and is built in the cluster. `images`: of other environments, by name.
    """

    def __init__(
        self, folder: Path, kubeconfig: Path, namespace: str, *services: Service, archive: bool = False
    ) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.services: Sequence[Service] = services or usual()
        self.options: dict[str, Any] = {}
        self.component: type[Small] = Small
        self.archive = archive
        self.images: dict[str, str] = {}
        self.pauses: list[float] = []
        self.folder = folder / "project"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "plain.lock").touch()

    def target(self) -> KubernetesTarget:
        """A new object, as another command would have."""
        options = KubernetesOptions(kubeconfig=str(self.kubeconfig), namespace=self.namespace, **self.options)
        made = KubernetesTarget(self.folder, options)
        known(made._cluster)._sleep = self._pause
        return made

    def _pause(self, seconds: float) -> None:
        """Between two tries of a call: shorter than for a user, and known to the test."""
        self.pauses.append(seconds)
        time.sleep(seconds / 20)

    @property
    def environment(self) -> Environment:
        lock = self.folder / "plain.lock"
        return Environment(name="plain", lock=lock, image="" if self.archive else IMAGE)

    def plan(self) -> Plan:
        with self._opened():
            return lifecycle.plan(self.folder)

    def provision(
        self, *, force: bool = False, emit: Emit = silent, confirm: Callable[[Plan], bool] | None = None
    ) -> Provisioned:
        with self._opened():
            return lifecycle.provision(self.folder, force=force, emit=emit, confirm=confirm, lock_wait=60)

    def undeploy(self, name: str) -> None:
        with self._opened():
            serving.undeploy(name, project=self.folder, lock_wait=60)

    def stop(self) -> None:
        with self._opened():
            lifecycle.stop(self.folder, lock_wait=60)

    def destroy(self, *, delete_data: bool = True, emit: Emit = silent) -> Destroyed:
        with self._opened():
            return lifecycle.destroy(self.folder, delete_data=delete_data, emit=emit, lock_wait=60)

    def status(self) -> StackStatus:
        with self._opened():
            return inspect.status(self.folder)

    def get(self, resource: str | None = None) -> dict[str, dict[str, Output]]:
        with self._opened():
            return inspect.get(resource, project=self.folder)

    def env(self) -> dict[str, Output]:
        with self._opened():
            return training.env(self.folder)

    def create_token(self, name: str, **how: Any) -> NewToken:
        with self._opened():
            return outside.create_token(name, project=self.folder, lock_wait=60, **how)

    def tokens(self) -> list[str]:
        """Their names."""
        with self._opened():
            return [each.name for each in outside.tokens(self.folder)]

    def revoke_token(self, name: str) -> RevokedToken:
        with self._opened():
            return outside.revoke_token(name, project=self.folder)

    def details(self) -> dict[str, str]:
        """What `matcha status` has to say of the services, and of what they stand on."""
        found = self.status()
        return {
            **{c.role: c.detail for c in found.components},
            **{f.name: f.detail for f in found.foundations},
        }

    def logs(self, name: str | None = None) -> list[tuple[str, str]]:
        with self._opened():
            return list(inspect.logs(name, project=self.folder))

    def doctor(self, *, fix: bool = False) -> dict[str, Finding]:
        return {found.check: found for found in self.findings(fix=fix)}

    def findings(self, check: str = "", *, fix: bool = False) -> list[Finding]:
        with self._opened():
            return [f for f in upkeep.doctor(self.folder, fix=fix) if check in ("", f.check)]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """No file names these services: the project is what opening one would give."""
        lock = self.environment.lock
        others = [Environment(name=name, lock=lock, image=image) for name, image in self.images.items()]
        small = self.component(self.services, self.environment, *others)
        stack = Stack(
            name="small",
            target="kubernetes",
            target_is_written=True,
            components={small.role: small},
            targets={"kubernetes": {"kubeconfig": str(self.kubeconfig), "namespace": self.namespace}},
            models={},
        )
        opened = Project(self.folder, stack, self.target())
        with (
            mock.patch.object(lifecycle, "open_project", lambda *_: opened),
            mock.patch.object(_recorded, "open_project", lambda *_: opened),
            mock.patch.object(inspect, "open_project", lambda *_: opened),
            mock.patch.object(outside, "open_project", lambda *_: opened),
            mock.patch.object(serving, "open_project", lambda *_: opened),
            mock.patch.object(training, "open_project", lambda *_: opened),
            mock.patch.object(upkeep, "open_project", lambda *_: opened),
        ):
            yield


def usual() -> tuple[Service, ...]:
    """One that keeps data, with a secret, live and plain files and a store, and one that needs it."""
    back = stored(web("back", preferred=8081, live={"models.json": "[]"}))
    return back, web("front", preferred=8082, needs=("role-of-back",))


def with_database(service: Service) -> Service:
    return msgspec.structs.replace(service, databases=(Database("app"),))


def with_env(service: Service, **env: str) -> Service:
    return msgspec.structs.replace(service, env={**service.env, **env})


def there(kubeconfig: Path, namespace: str) -> set[str]:
    """Everything of Matcha's in the namespace, record and lock included, as its administrator sees it."""
    found = everything(cluster(kubeconfig, namespace), ORDER).objects
    return {f"{kind}/{name}" for kind, name in found}


def namespace_is_gone(kubeconfig: Path, namespace: str) -> bool:
    return cluster(kubeconfig, namespace).get_global(Namespace, namespace) is None
