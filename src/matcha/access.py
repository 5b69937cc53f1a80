"""How code on this machine, or inside of the stack, reaches a provisioned stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec


class Output(msgspec.Struct, frozen=True):
    """A property that `matcha get` shows."""

    value: str
    sensitive: bool = False


class Access(Protocol):
    """How code on this machine reaches a provisioned stack."""

    def url(self, role: str) -> str:
        """Base URL of the component's service. Raises NotProvisioned where it has none yet."""

    def address(self, role: str, port: str) -> str:
        """host:port."""

    def secret(self, name: str) -> str: ...

    def keep_secret(self, name: str, value: str) -> None: ...

    def store(self, area: str) -> str:
        """URL or path of an object-store area as a client reaches it."""

    def store_env(self) -> Mapping[str, Output]:
        """Environment variables with which a client reaches the object store; none where it is a folder."""

    def inside(self, template: str) -> str:
        """`template` with {url:..}, {address:..} and {store:..} resolved as a service sees them."""

    def database(self, name: str) -> Path | None:
        """The SQLite file of a database, where it is one and exists."""

    def folder(self, name: str) -> Path:
        """A private folder of the project for client-side configuration (made, mode 0700)."""


@runtime_checkable
class SharedAccess(Protocol):
    """An `Access` to a stack that others reach too, by loopback ports of their own machines."""

    def shared_url(self, role: str) -> str:
        """What `url` is wherever the preferred port is free; the same for everybody, so it may be kept in
        the stack. Raises NotProvisioned.
        """


@runtime_checkable
class ReplicatedAccess(Protocol):
    """An `Access` to a stack whose services may run as several replicas."""

    def replicas(self, role: str) -> AbstractContextManager[Mapping[str, str]]:
        """Base URL of the first HTTP port of every replica that runs now, ready or not, by the replica's
        name. The addresses are good while inside. Raises NotProvisioned where the role has no service.
        """


@runtime_checkable
class ExposedAccess(Protocol):
    """An `Access` to a stack that may be exposed to applications outside."""

    def public_url(self, role: str) -> str:
        """Base URL of the `outside` port of the role's service as applications outside reach it; empty where
        it is not exposed.
        """


@runtime_checkable
class InsideAccess(Protocol):
    """An `Access` as what runs inside of the stack has it: its addresses mean nothing on this machine."""

    here: Access  # the same stack as this machine reaches it


def reachable(access: Access) -> Access:
    """One whose addresses can be asked from here."""
    return access.here if isinstance(access, InsideAccess) else access


@contextmanager
def replicas(access: Access, role: str) -> Iterator[Mapping[str, str]]:
    """Base URL of every replica of a role's service, by name: on most targets there is one."""
    if isinstance(access, ReplicatedAccess):
        with access.replicas(role) as found:
            yield found
    else:
        yield {role: access.url(role)}


def public_url(access: Access, role: str) -> str:
    """Where applications outside reach the role's service; empty where they do not."""
    return access.public_url(role) if isinstance(access, ExposedAccess) else ""


def shared_url(access: Access, role: str) -> str:
    """The address of `role` to write into what the stack's users share."""
    return access.shared_url(role) if isinstance(access, SharedAccess) else access.url(role)
