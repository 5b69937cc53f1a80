"""The contract of a place where services run. A target knows nothing of MLflow.

The engine calls `observe` to plan and then the verbs below, one call per step, possibly several at once
from different threads. Every verb is idempotent: what a killed run left half done, the same call finishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from matcha.access import Access
from matcha.component import Tokens
from matcha.errors import MatchaError
from matcha.events import Emit
from matcha.service import Environment, Service
from matcha.state import State

Condition = Literal["absent", "stopped", "starting", "running", "unhealthy", "failed", "present"]


class Seen(msgspec.Struct, frozen=True):
    """What a target shows of one resource. `digest` is that of the description it was made from."""

    condition: Condition
    digest: str = ""
    detail: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """Everything a target shows, by resource id (`service/mlflow`, `environment/zenml`, `secret/x` ...).

    `notes`: what the user has to know of it whether or not there is something to do.
    """

    resources: dict[str, Seen] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Runtime facts of one service, or of something that services stand on (`foundation`).

    Memory is proportional set size in bytes, -1 where unknown. `resolution`: what to type where it is not
    well and a provision would not mend it. `replicas`: how many are ready and how many there should be,
    where there may be more than one; memory and restarts are then of all of them.
    """

    name: str
    condition: Condition
    address: str = ""
    detail: str = ""
    memory: int = -1
    restarts: int = 0
    uptime: float = 0.0
    resolution: str = ""
    foundation: bool = False
    replicas: tuple[int, int] | None = None


class LockInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who is changing the stack. Times are Unix seconds."""

    owner: str
    operation: str
    since: float
    expires: float
    token: str


class Foundation(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the target's own that the stack stands on, such as a database server in a cluster.

    `carries` are the kinds of resource that need it, `needs` other foundations by name.
    """

    name: str
    digest: str
    carries: tuple[Literal["secrets", "stores", "environments", "databases"], ...] = ()
    needs: tuple[str, ...] = ()


class StateStore(Protocol):
    """The record of a stack and its lock. Every write is fenced by the lock's token."""

    def read(self) -> State | None:
        """Raises StateUnreadable for a corrupt or newer record, which stays as it is."""

    def write(self, state: State, token: str) -> None:
        """Atomic. Raises Locked when `token` no longer holds the lock."""

    def delete(self, token: str) -> None: ...

    def acquire(self, operation: str, *, wait: float, emit: Emit) -> LockInfo:
        """Raises Locked, naming the owner, when `wait` seconds pass."""

    def renew(self, token: str) -> None: ...

    def release(self, token: str) -> None: ...

    def lock(self) -> LockInfo | None: ...

    def break_lock(self) -> LockInfo | None:
        """Removes the lock and returns what it was."""


class Target(Protocol):
    """Where a stack runs."""

    name: ClassVar[str]
    keeps_data: ClassVar[bool]  # whether `destroy` leaves data behind unless it is to be deleted

    def store(self) -> StateStore: ...

    def observe(
        self,
        state: State | None,
        services: Sequence[Service],
        environments: Sequence[Environment] = (),
    ) -> Snapshot:
        """Reads only. A service's digest is `service_digest` of what it was made from.

        Where one of `services` would be made differently now although its description is the same (an
        address it refers to has moved), the digest shown is empty and `detail` says why.
        """

    def foundations(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[Foundation]:
        """What `services` stand on here; pure."""

    def preflight(self, environments: Sequence[Environment], snapshot: Snapshot) -> Sequence[str]:
        """Notes for the plan (download size, what was found); raises MatchaError on what cannot work."""

    def begin(
        self, state: State, services: Sequence[Service], environments: Sequence[Environment] = ()
    ) -> State:
        """Claim what the stack needs before the first step (folders, ports); returns what to record."""

    def lay(self, foundation: str, emit: Emit) -> None:
        """Make the foundation of that name, or bring it up to date, and wait until it is well."""

    def install(self, environment: Environment, emit: Emit) -> None: ...

    def ensure_secrets(self, names: Sequence[str]) -> None:
        """Generate those that do not exist."""

    def ensure_stores(self, areas: Sequence[str]) -> None: ...

    def start(self, service: Service, environment: Environment, emit: Emit) -> dict[str, int]:
        """Create the service, or replace it by this description, and wait until it is healthy.

        Returns its port numbers by name. Raises ComponentFailed with the log's end.
        """

    def refresh(self, service: Service) -> None:
        """Rewrite the service's `live` files without touching the process."""

    def remove_service(self, name: str, emit: Emit) -> None: ...

    def settle(self) -> None:
        """Start work that may go on after the stack is healthy; returns at once."""

    def access(self, state: State) -> Access: ...

    def status(
        self,
        state: State,
        services: Sequence[Service] = (),
        environments: Sequence[Environment] = (),
    ) -> Sequence[ServiceStatus]:
        """Of the services, and of what they stand on here. With `services`, as they are wanted now, `detail`
        says also what others changed of them.
        """

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[str]: ...

    def stop(self, emit: Emit) -> None:
        """Stop every process, keep all data."""

    def belongings(self, *, delete_data: bool = True) -> Sequence[str]:
        """What `destroy` will remove, as lines for a person."""

    def destroy(self, emit: Emit, *, delete_data: bool = True) -> None:
        """Remove everything but the state record, in any half-made condition.

        `delete_data` matters only where `keeps_data`.
        """

    def leftovers(self, *, delete_data: bool = True) -> Sequence[str]:
        """What a destroyed stack still has on the target: empty when it is proved gone."""

    def kept(self) -> Sequence[str]:
        """What a destroyed stack left on purpose, as lines for a person."""


@runtime_checkable
class Elsewhere(Protocol):
    """A target whose stack is not in the project's folder. `leads` are the options that say where it is."""

    leads: ClassVar[tuple[str, ...]]

    def pinned(self) -> dict[str, Any]:
        """Values of `leads` that lead there whatever the user's surroundings come to be."""


@runtime_checkable
class NamesFiles(Protocol):
    """Options of a target that name files of the project."""

    def check_files(self, project: Path) -> None:
        """Raises Unfit for a file that is not what its option is for."""


@runtime_checkable
class Manifests(Protocol):
    """A target whose plan can be written down for other tools, without asking it anything."""

    def manifests(
        self, services: Sequence[Service], environments: Sequence[Environment]
    ) -> Sequence[dict[str, Any]]:
        """What would be applied, whole, with placeholders for the values of secrets."""


@runtime_checkable
class Contested(Protocol):
    """A target whose resources others may manage as well."""

    def insist(self) -> None:
        """Take over what others manage, in what follows."""


@runtime_checkable
class Loud(Protocol):
    """A target that runs more than services, and has the logs of that, too."""

    def loud(self, state: State) -> Sequence[str]:
        """Names that `logs` takes besides those of services."""


@runtime_checkable
class Forgetful(Protocol):
    """A target that keeps something on each machine that uses a stack."""

    def forget(self) -> Sequence[str]:
        """Remove what this machine has of stacks that were destroyed elsewhere; what went, as lines."""


@runtime_checkable
class Blinkered(Protocol):
    """A target that may not, or cannot, look at all that a stack may have left."""

    def unproved(self) -> Sequence[str]:
        """What `leftovers`, asked before, did not look at, or left as not the stack's own; lines for a
        person.
        """


@runtime_checkable
class Preparing(Protocol):
    """A target that makes something before there is a record."""

    def begun(self) -> Sequence[str]:
        """What is there of a stack that never came to its first record, as lines for a person."""


@runtime_checkable
class Sharing(Protocol):
    """A target whose stack several machines use, and which has small texts for all of them."""

    def share(self, name: str, text: str) -> None:
        """Under the stack's lock. `name` is of small letters, digits and hyphens."""

    def shared(self, name: str) -> str | None: ...

    def shares(self) -> Sequence[str]:
        """Names of all of them."""

    def unshare(self, name: str) -> None:
        """Under the stack's lock."""


@runtime_checkable
class Lending(Protocol):
    """A target whose jobs have keys of their own to the stack's object store."""

    def lend(self, areas: Sequence[str]) -> None:
        """The areas that jobs read and write; others are closed to them. Said before anything is asked."""


class Changed(MatchaError):
    """What was to be replaced is not what was read."""


@runtime_checkable
class Exposing(Protocol):
    """A target that can let applications outside of it reach the `outside` port of services."""

    def exposed(self) -> str:
        """The host by which they do; empty where the stack file exposes nothing."""

    def tokens(self) -> Tokens:
        """Those that are kept with the stack, also where nothing is exposed."""

    def keep_tokens(self, tokens: Tokens, *, before: int, locked: bool = True) -> None:
        """Replace the list of serial `before`, which was read, and have services find it soon. They go with
        the stack. Under the stack's lock, unless `locked` is False, for who takes tokens away alone.

        Raises Changed where another list is kept by now, MatchaError where it was not kept, or may not have
        been.
        """


@runtime_checkable
class OnePython(Protocol):
    """A target whose environments all run on one Python, whatever this machine has."""

    def python(self) -> str:
        """Its minor version ("3.12"). Raises BadInput where it is not known."""

    def way_to(self, python: str) -> str:
        """The option that has the target run on `python` ("3.11"), as a person would write it."""


@runtime_checkable
class Bounding(Protocol):
    """A target that ends what uses more memory than it may: services that are `apart` run there."""

    bounds_memory: ClassVar[bool]


@runtime_checkable
class Doctor(Protocol):
    """A target that can find out what is wrong with the machine it runs on."""

    def examine(
        self,
        state: State | None,
        environments: Sequence[Environment],
        *,
        fix: bool,
        services: Sequence[Service] = (),
    ) -> Sequence[Any]: ...
