"""How code on this machine reaches a stack in a cluster: through forwards on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from matcha.access import Output
from matcha.errors import NotProvisioned
from matcha.host.ports import HOST
from matcha.service import Service
from matcha.targets.kubernetes import scaling
from matcha.targets.kubernetes.names import STORE
from matcha.targets.kubernetes.resolve import base_url, port_number, resolve
from matcha.targets.kubernetes.secrets import Secrets
from matcha.targets.kubernetes.setting import Setting


class _Shared:
    """What of an access is the same wherever it is from."""

    def __init__(self, setting: Setting, secrets: Secrets) -> None:
        self._setting = setting
        self._secrets = secrets

    def secret(self, name: str) -> str:
        return self._secrets.get(name)

    def keep_secret(self, name: str, value: str) -> None:
        self._secrets.keep(name, value)

    def store(self, area: str) -> str:
        return f"{self._setting.storage.url}/{area}"

    def inside(self, template: str) -> str:
        return resolve(template, None, self._setting.around)

    def database(self, name: str) -> Path | None:
        return None

    def _where(self) -> dict[str, Output]:
        """Of the object store, as pods reach it: what of it is said."""
        storage = self._setting.storage
        found = {
            "AWS_ENDPOINT_URL": storage.endpoint,
            "AWS_REGION": storage.region,
            "AWS_DEFAULT_REGION": storage.region,
        }
        return {name: Output(value) for name, value in found.items() if value}


class ClusterAccess(_Shared):
    """`matcha.access.Access`, `SharedAccess` and `ReplicatedAccess`.

    `ports` gives the loopback port of every `service/port`, and has the forwards running; it is asked only
    where an address is. `folder` makes the folder of a name. `each` gives host:port of the first HTTP port of
    every pod of a service, by the pod's name, while inside.
    """

    def __init__(
        self,
        setting: Setting,
        roles: Mapping[str, str],
        secrets: Secrets,
        ports: Callable[[], Mapping[str, int]],
        folder: Callable[[str], Path],
        each: Callable[[Service], AbstractContextManager[Mapping[str, str]]],
    ) -> None:
        super().__init__(setting, secrets)
        self._roles = roles
        self._ports = ports
        self._folder = folder
        self._each = each

    def url(self, role: str) -> str:
        ports = self._of(role)
        return f"http://{HOST}:{ports.get('http') or next(iter(ports.values()))}"

    def shared_url(self, role: str) -> str:
        """`matcha.access.SharedAccess`. Without the options' ports: those may be one user's own."""
        name = self._roles.get(role, "")
        for service in self._setting.services:
            if service.name == name and service.ports:
                preferred = {port.name: port.preferred for port in service.ports}
                return f"http://{HOST}:{preferred.get('http') or next(iter(preferred.values()))}"
        raise NotProvisioned(f"The {role} is not running yet.")

    @contextmanager
    def replicas(self, role: str) -> Iterator[Mapping[str, str]]:
        """`matcha.access.ReplicatedAccess`. What runs once is reached as always."""
        name = self._roles.get(role, "")
        service = next((s for s in self._setting.services if s.name == name), None)
        if service is None or not scaling.may_be_several(service):
            yield {name: self.url(role)}
            return
        with self._each(service) as found:
            yield {pod: f"http://{address}" for pod, address in found.items()}

    def public_url(self, role: str) -> str:
        """`matcha.access.ExposedAccess`."""
        expose, service = self._setting.options.expose, self._setting.around.peers.get(role)
        return f"https://{expose.models}" if expose and service and service.outside else ""

    def address(self, role: str, port: str) -> str:
        ports = self._of(role)
        if port not in ports:
            raise NotProvisioned(f'The {role} has no port "{port}".')
        return f"{HOST}:{ports[port]}"

    def _of(self, role: str) -> dict[str, int]:
        service = self._roles.get(role, "")
        ports = self._ports() if service else {}
        found = {k.partition("/")[2]: n for k, n in ports.items() if k.startswith(f"{service}/")}
        if not found:
            raise NotProvisioned(f"The {role} is not running yet.")
        return found

    def store_env(self) -> Mapping[str, Output]:
        """Of Matcha's own store, by its forward; a store of the user's asks for the user's own keys."""
        storage, where = self._setting.storage, self._where()
        if not storage.own:
            return where
        return {
            **where,
            "AWS_ENDPOINT_URL": Output(f"http://{HOST}:{self._ports()[f'{STORE}/http']}"),
            "AWS_ACCESS_KEY_ID": Output(self.secret(storage.access_key), sensitive=True),
            "AWS_SECRET_ACCESS_KEY": Output(self.secret(storage.secret_key), sensitive=True),
        }

    def folder(self, name: str) -> Path:
        return self._folder(name)


class InsideAccess(_Shared):
    """`matcha.access.InsideAccess`: how a pod of the stack reaches it. `here` is for what asks servers
    now; `folder` makes nothing, for it is the pod's own.
    """

    def __init__(self, setting: Setting, secrets: Secrets, here: ClusterAccess) -> None:
        super().__init__(setting, secrets)
        self.here = here

    def url(self, role: str) -> str:
        return base_url(self._of(role))

    def shared_url(self, role: str) -> str:
        return self.here.shared_url(role)

    def address(self, role: str, port: str) -> str:
        service = self._of(role)
        try:
            return f"{service.name}:{port_number(service, port)}"
        except KeyError:
            raise NotProvisioned(f'The {role} has no port "{port}".') from None

    def _of(self, role: str) -> Service:
        found = self._setting.around.peers.get(role)
        if found is None or not found.ports:
            raise NotProvisioned(f"The {role} is not running yet.")
        return found

    def store_env(self) -> Mapping[str, Output]:
        storage = self._setting.storage
        return {
            **self._where(),
            "AWS_ACCESS_KEY_ID": Output(self._key(storage.access_key), sensitive=True),
            "AWS_SECRET_ACCESS_KEY": Output(self._key(storage.secret_key), sensitive=True),
        }

    def _key(self, name: str) -> str:
        storage = self._setting.storage
        if not storage.own:
            return self._secrets.of(storage.secret, name)
        try:
            return self._secrets.get(name)
        except NotProvisioned:
            raise NotProvisioned(
                "This stack has no keys for jobs: it was made by an earlier Matcha, or they were deleted."
            ) from None

    def folder(self, name: str) -> Path:
        return Path("/tmp", name)  # noqa: S108 - of the pod


def roles_of(services: Sequence[Service]) -> dict[str, str]:
    return {service.role: service.name for service in services}
