"""What the API returns: frozen, typed, and the same as `--output json` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from matcha.access import Output
from matcha.component import Deployment
from matcha.job import JobCondition as JobCondition  # noqa: PLC0414 - of results, for whoever shows them
from matcha.job import JobStatus as JobStatus  # noqa: PLC0414
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
    """One component. Memory in bytes (proportional set size), -1 unknown; uptime in seconds.

    `replicas`: how many are ready and how many there should be, of all its services that may have several.
    `resolution`: as of a foundation.
    """

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
    replicas: tuple[int, int] | None = None
    detail: str = ""
    resolution: str = ""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One deployed model: whether it answers, and otherwise why not (`detail`). `dedicated`: a process serves
    it and no other.
    """

    name: str
    uri: str
    healthy: bool
    dedicated: bool = False
    detail: str = ""


class FoundationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Something that services stand on. Memory in bytes, -1 unknown; uptime in seconds.

    `resolution` is what to type where it is not well and a provision would not mend it.
    """

    name: str
    condition: Condition
    healthy: bool
    memory: int = -1
    uptime: float = 0.0
    restarts: int = 0
    detail: str = ""
    resolution: str = ""


class StackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`healthy`: every component is, every deployed model answers, and the last provision finished.

    `foundations` are what the services stand on, where the target runs that itself (a database server, the
    newest of its dumps). A detail of what is well says what others changed of it: a provision takes it back.

    Models of a stopped stack are not asked, and left out. `lock` says who is changing the stack; `notes`
    that its file is not understood, and why, and what was not seen.
    """

    stack: str
    target: str
    phase: str
    healthy: bool
    components: tuple[ComponentStatus, ...]
    models: tuple[ModelStatus, ...] = ()
    foundations: tuple[FoundationStatus, ...] = ()
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


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token of an application. `models`: deployments that it may ask; none for all of them. Times
    are Unix seconds; `expires` is 0 for never.
    """

    name: str
    id: str
    models: tuple[str, ...] = ()
    created: float
    expires: float = 0.0
    expired: bool = False


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """`bearer` is the token itself, which is nowhere else. `url`: where models are. `curl` takes the token
    from the variable MATCHA_TOKEN; empty where there is no model that it may ask.
    """

    token: TokenInfo
    bearer: str
    url: str
    curl: str = ""
    notes: tuple[str, ...] = ()


class RevokedToken(msgspec.Struct, frozen=True, kw_only=True):
    """`notes`: of servers that take it a little longer."""

    token: TokenInfo
    notes: tuple[str, ...] = ()


class Window(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """The traffic that was compared; ISO 8601, UTC."""

    since: str | None
    until: str | None
    rows: int


class ColumnReport(msgspec.Struct, frozen=True, kw_only=True):
    """`score` and `threshold` are null (None) for a column that could not be compared.

    `new_categories` are a few values that the training data does not have. Shares of rows are 0..1.
    """

    name: str
    kind: str = ""
    method: str = ""
    score: float | None = None
    threshold: float | None = None
    drifted: bool
    reference_missing: float = 0.0
    current_missing: float = 0.0
    new_categories: tuple[str, ...] = ()
    out_of_range: float = 0.0


class ReportReference(msgspec.Struct, frozen=True):
    """What the traffic is compared with: an artifact of the model's run.

    `source` is what matcha.yaml named for it when the model was deployed; empty for the training data.
    """

    source: str
    artifact: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of one deployment: its newest verdict.

    `new` is whether this call made it. `waiting` are the rows captured since, which the next window judges;
    `messages` say why they have no verdict. `report` is the path of the HTML page at the monitoring service.
    Before the first window there is no `uri`, `run_id`, `made` (ISO 8601; `made_at` in Unix seconds) and
    `dropped_total` (rows that the service ever dropped): they are `msgspec.UNSET`, which is false, and
    JSON does not have them.
    """

    deployment: str
    version: str
    uri: str | msgspec.UnsetType = msgspec.UNSET
    run_id: str | msgspec.UnsetType = msgspec.UNSET
    made: str | msgspec.UnsetType = msgspec.UNSET
    made_at: float | msgspec.UnsetType = msgspec.UNSET
    reference: ReportReference | None = None
    new: bool = False
    waiting: int = 0
    window: Window
    status: str
    columns: tuple[ColumnReport, ...]
    drifted: tuple[str, ...]
    dataset_drift: bool
    prediction_drift: ColumnReport | None = None
    dropped: int = 0
    dropped_total: int | msgspec.UnsetType = msgspec.UNSET
    report: str = ""
    messages: tuple[str, ...] = ()

    @property
    def drifts(self) -> bool:
        """Whether a column, or the predictions, drift in this window."""
        return self.dataset_drift or bool(self.drifted)


class Destruction(msgspec.Struct, frozen=True, kw_only=True):
    """What destroy would remove (`belongings`) and of what it may hold the only copy (`holdings`)."""

    belongings: tuple[str, ...]
    holdings: tuple[str, ...]


class Destroyed(msgspec.Struct, frozen=True, kw_only=True):
    """`nothing` where there was no stack; `removed` are lines of what was there, all proved gone; `kept` was
    left on purpose. `unproved`: of what it could not be checked that nothing is left, and why.
    """

    nothing: bool = False
    cancelled: bool = False
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check of `doctor`. `fix` is what to do, or what `--fix` does where `fixable`. `checked` is False
    where nothing could be found out, which is `ok`.
    """

    check: str
    ok: bool
    message: str
    fix: str = ""
    fixable: bool = False
    fixed: bool = False
    checked: bool = True
