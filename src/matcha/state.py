"""What is known to exist. Frozen; every change makes a new State with the next serial.

`schema_version` rises when an older Matcha could misread the record; `MIGRATIONS` lifts older ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from matcha.component import Deployment

SCHEMA_VERSION = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
_STACK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that was made, with the digest of the description it was made from."""

    digest: str
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    role: str = ""
    at: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was made, for whom and where.

    `phase` is `changing` while a run is under way (or was killed), `ready` after it, `stopped` after stop.
    `components` are those it ever had, as `role/flavor`: what they kept stays until `destroy`.
    """

    schema_version: int = SCHEMA_VERSION
    stack_id: str
    stack: str
    target: str
    serial: int = 0
    phase: str = "changing"
    matcha_version: str = ""
    components: tuple[str, ...] = ()
    resources: dict[str, Record] = msgspec.field(default_factory=dict)
    deployments: dict[str, Deployment] = msgspec.field(default_factory=dict)
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    facts: dict[str, str] = msgspec.field(default_factory=dict)

    def next(self, **changes: Any) -> State:
        return msgspec.structs.replace(self, serial=self.serial + 1, **changes)

    def with_resource(self, key: str, record: Record) -> State:
        return self.next(resources={**self.resources, key: record})

    def without_resource(self, key: str) -> State:
        return self.next(resources={k: v for k, v in self.resources.items() if k != key})

    def with_deployment(self, deployment: Deployment) -> State:
        return self.next(deployments={**self.deployments, deployment.name: deployment})

    def without_deployment(self, name: str) -> State:
        return self.next(deployments={k: v for k, v in self.deployments.items() if k != name})


def decode(raw: bytes) -> State:
    """Raises msgspec.DecodeError or msgspec.ValidationError for what is no state record, or a newer one."""
    data = msgspec.json.decode(raw, type=dict[str, Any])
    version = msgspec.convert(data.get("schema_version", 0), int)
    if version > SCHEMA_VERSION:
        raise msgspec.ValidationError(
            f"It was written by a newer Matcha: its schema is {version}, this one knows {SCHEMA_VERSION}."
        )
    while version in MIGRATIONS:
        data = MIGRATIONS[version](data)
        version = data["schema_version"]
    return msgspec.convert(data, State)


def encode(state: State) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state), indent=2)


def is_stack_id(text: str) -> bool:
    """Whether `text` may name a folder: a state record can come from somebody else's repository."""
    return _STACK_ID.fullmatch(text) is not None
