"""What this machine has of stacks in a cluster: forwards to them, and folders of the project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matcha.environments import cache_root
from matcha.errors import MatchaError
from matcha.host.files import nearest, refused
from matcha.host.findings import Finding
from matcha.host.runtime import user_data
from matcha.service import Service
from matcha.state import State
from matcha.targets.kubernetes.access import ClusterAccess, roles_of
from matcha.targets.kubernetes.folders import Folders
from matcha.targets.kubernetes.names import STORE
from matcha.targets.kubernetes.options import KubernetesOptions
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import STORE_PORT, Setting

if TYPE_CHECKING:
    from matcha.targets.kubernetes.links import Links

WRITTEN = 64 * 1024  # bytes: more than any file of these


def findings() -> Iterator[Finding]:
    """Whether this machine takes what it needs of a stack."""
    kept = {"XDG_DATA_HOME": (user_data(), "the forwards"), "MATCHA_CACHE_DIR": (cache_root(), "their ports")}
    ill = False
    for variable, (folder, what) in kept.items():
        there = nearest(folder)
        if error := refused(there, WRITTEN):
            ill = True
            yield Finding(
                check="folders",
                ok=False,
                message=f"{there} takes no files, for {what}: {error.strerror or error}.",
                fix=f"Make room there, or set {variable} to a folder of your own that takes files.",
            )
    if not ill:
        yield Finding(check="folders", ok=True, message="Matcha can write where it has to.")


class Here:
    """Of one project. Making this object reads and writes nothing."""

    def __init__(self, project: Path, options: KubernetesOptions) -> None:
        self._project = project
        self._options = options
        self._folders = Folders(project)
        self._removed: Links | None = None  # of the stack that was destroyed: to prove it

    def access(self, state: State, found: Setting, secrets: Secrets) -> ClusterAccess:
        return ClusterAccess(
            found,
            roles_of(found.services),
            secrets,
            lambda: self._forwards(state, found),
            partial(self._folders.make, self._links(state).stack_id),
            partial(self._each, state),
        )

    def _each(self, state: State, service: Service) -> AbstractContextManager[Mapping[str, str]]:
        """As `forward.each`, of the first HTTP port."""
        from matcha.targets.kubernetes.forward.each import each  # noqa: PLC0415 - not for plans and manifests

        _refuse_stopped(state)
        port = next(port.preferred for port in service.ports if port.protocol == "http")
        return each(self._options, service.name, port)

    def ports(self, state: State) -> dict[str, int]:
        return dict(self._links(state).ports())

    def _forwards(self, state: State, found: Setting) -> dict[str, int]:
        """Raises MatchaError for a stopped stack: nothing is there to be reached."""
        _refuse_stopped(state)
        reached = [s for s in found.services if not s.apart]
        wanted = {f"{s.name}/{p.name}": p.preferred for s in reached for p in s.ports}
        if found.storage.own:
            wanted[f"{STORE}/http"] = STORE_PORT
        return dict(self._links(state).ensure(wanted))

    def stop(self, state: State) -> None:
        self._links(state).stop()

    def remove(self, state: State) -> None:
        self._removed = self._links(state)
        self._removed.remove()
        self._folders.remove(state.stack_id)

    def left(self) -> list[str]:
        """Of the stack that was removed."""
        if self._removed is None:
            return []
        return [*self._removed.leftovers(), *self._folders.left(self._removed.stack_id)]

    def forget(self, keep: str) -> list[str]:
        """What there is of stacks of the namespace other than `keep`; empty for none."""
        from matcha.targets.kubernetes.links import Links, strays  # noqa: PLC0415 - not for plans and manifests

        gone = strays(self._options, keep)
        for links in gone:
            links.remove()
        for stack_id in self._folders.stacks():  # without forwards it is in no use here
            if stack_id != keep and not Links(stack_id, self._options).home.exists():
                self._folders.remove(stack_id)
        return [f"forwards to a stack that is gone ({links.home})" for links in gone]

    def _links(self, state: State) -> Links:
        from matcha.targets.kubernetes.links import Links  # noqa: PLC0415 - not for plans and manifests

        return Links(state.stack_id, self._options, self._project)


def _refuse_stopped(state: State) -> None:
    if state.phase == "stopped":
        raise MatchaError("The stack is stopped.", resolution="matcha start")
