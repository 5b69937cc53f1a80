"""What the API returns: frozen, typed, and the same as `--output json` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from matcha.component import Deployment, Output
from matcha.planning import Plan
from matcha.target import Condition


class Provisioned(msgspec.Struct, frozen=True, kw_only=True):
    """`changed` is false where everything matched already; `cancelled` where the user said no.

    `serves` is the number of models the stack serves.
    """

    plan: Plan
    outputs: dict[str, dict[str, Output]] = msgspec.field(default_factory=dict)
    changed: bool = True
    cancelled: bool = False
    serves: int = 0
    seconds: float = 0.0


class ComponentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One component. Memory in bytes (proportional set size), -1 unknown; uptime in seconds."""

    role: str
    flavor: str
    title: str
    condition: Condition
    healthy: bool
    address: str = ""
    version: str = ""
    memory: int = -1
    uptime: float = 0.0
    restarts: int = 0
    detail: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One deployed model: whether it answers, and otherwise why not (`detail`)."""

    name: str
    uri: str
    healthy: bool
    detail: str = ""


class StackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`healthy`: every component is, every deployed model answers, and the last provision finished.

    Models of a stopped stack are not asked, and left out. `lock` says who is changing the stack; `notes`
    that its file is not understood, and why.
    """

    stack: str
    target: str
    phase: str
    healthy: bool
    components: tuple[ComponentStatus, ...]
    models: tuple[ModelStatus, ...] = ()
    lock: str = ""
    notes: tuple[str, ...] = ()


class DeployResult(msgspec.Struct, frozen=True, kw_only=True):
    """`url` is the V2 endpoint. `python` and `curl` are ready-to-paste calls."""

    deployment: Deployment
    url: str
    python: str
    curl: str
    notes: tuple[str, ...] = ()


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One registered or deployed model."""

    name: str
    versions: tuple[str, ...] = ()
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    deployments: tuple[Deployment, ...] = ()


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    version: str
    predictions: list[Any]
    id: str = ""


class Destruction(msgspec.Struct, frozen=True, kw_only=True):
    """What destroy would remove (`belongings`) and of what it may hold the only copy (`holdings`)."""

    belongings: tuple[str, ...]
    holdings: tuple[str, ...]


class Destroyed(msgspec.Struct, frozen=True, kw_only=True):
    """`nothing` where there was no stack; `removed` are lines of what was there, all proved gone."""

    nothing: bool = False
    cancelled: bool = False
    removed: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check of `doctor`. `fix` is what to do, or what `--fix` does where `fixable`."""

    check: str
    ok: bool
    message: str
    fix: str = ""
    fixable: bool = False
    fixed: bool = False
