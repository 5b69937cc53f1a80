"""How code on this machine reaches a local stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matcha.access import Output
from matcha.errors import MatchaError, NotProvisioned
from matcha.host.files import private_folder
from matcha.host.ports import HOST
from matcha.state import State
from matcha.targets.local.describe import peers, ports_of
from matcha.targets.local.home import Stack
from matcha.targets.local.look import roles_of
from matcha.targets.local.resolve import Places, base_url, main_port, resolve


class LocalAccess:
    """`matcha.access.Access` by loopback ports and folders of the project."""

    def __init__(self, stack: Stack, state: State) -> None:
        self._stack = stack
        self._state = state

    def url(self, role: str) -> str:
        return base_url(main_port(self._ports(role)))

    def address(self, role: str, port: str) -> str:
        ports = self._ports(role)
        if port not in ports:
            raise NotProvisioned(f'The {role} has no port "{port}".')
        return f"{HOST}:{ports[port]}"

    def _ports(self, role: str) -> dict[str, int]:
        """Of a service that was started at least once, also by a run that was killed before it said so.

        Raises MatchaError in a project that was moved: the servers' files are no longer where they knew them.
        """
        if self._stack.moved_from:
            raise MatchaError(
                "The project's folder was moved, and its stack does not know that yet.",
                details=f"It was {self._stack.moved_from}.",
                resolution="matcha provision",
            )
        service = roles_of(self._state).get(role, "")
        ports = ports_of(service, self._state.ports)
        if not ports or self._stack.notes.service(service) is None:
            raise NotProvisioned(f"The {role} is not running yet.")
        return ports

    def secret(self, name: str) -> str:
        return self._stack.secrets.get(name)

    def keep_secret(self, name: str, value: str) -> None:
        self._stack.secrets.keep(name, value)

    def store(self, area: str) -> str:
        return str(self._stack.layout.area(area))

    def store_env(self) -> Mapping[str, Output]:
        return {}

    def inside(self, template: str) -> str:
        ports = peers(self._state.ports, roles_of(self._state))
        return resolve(template, Places(owner="client", peers=ports, store=self._stack.layout.area("")))

    def database(self, name: str) -> Path | None:
        found = sorted(self._stack.layout.databases.glob(f"*/{name}.db"))
        return found[0] if found else None

    def folder(self, name: str) -> Path:
        return private_folder(self._stack.layout.folder(name))
