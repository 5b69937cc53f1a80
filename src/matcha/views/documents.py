"""The JSON of every command: what it shows, as one document, with secrets masked.

`SCHEMAS` maps a command to the type of its document; `schema` gives its JSON Schema. Errors have a document
too: `{"error": {...}}` on stdout, so that a program reads one stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from matcha.api.types import (
    DeployResult,
    Destroyed,
    Finding,
    Prediction,
    Provisioned,
    ServedModel,
    StackStatus,
)
from matcha.component import Output
from matcha.errors import MatchaError
from matcha.planning import Plan

HIDDEN = "********"
Values = dict[str, dict[str, str]]


class ProvisionedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`outputs` is what `get` shows."""

    plan: Plan
    outputs: Values
    changed: bool
    cancelled: bool
    seconds: float


class LogLine(msgspec.Struct, frozen=True):
    """One line of `logs --output json`, which writes one document a line."""

    service: str
    line: str


class ExampleDocument(msgspec.Struct, frozen=True):
    name: str
    title: str


class PathDocument(msgspec.Struct, frozen=True):
    """What was written."""

    path: str


class UrlDocument(msgspec.Struct, frozen=True):
    url: str


class DoneDocument(msgspec.Struct, frozen=True):
    """A command that has nothing to tell but that it worked."""

    done: str
    name: str = ""


class LockDocument(msgspec.Struct, frozen=True):
    """`broken` is false where there was no lock. Times are Unix seconds."""

    broken: bool
    owner: str = ""
    operation: str = ""
    since: float = 0.0
    expires: float = 0.0


class Window(msgspec.Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """The traffic that was compared; ISO 8601, UTC."""

    since: str | None
    until: str | None
    rows: int


class ColumnReport(msgspec.Struct, frozen=True, kw_only=True):
    """`score` and `threshold` are null for a column that could not be compared."""

    name: str
    drifted: bool
    kind: str = ""
    method: str = ""
    score: float | None = None
    threshold: float | None = None
    reference_missing: float = 0.0
    current_missing: float = 0.0


class ReportReference(msgspec.Struct, frozen=True):
    """What the traffic is compared with: an artifact of the model's run.

    `source` is what matcha.yaml named for it when the model was deployed; empty for the training data.
    """

    source: str
    artifact: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of one deployment: its newest verdict; may carry more properties than these.

    `new` is whether this call made it. `waiting` are the rows captured since, which the next window judges;
    `messages` say why they have no verdict. `report` is the path of the HTML page at the monitoring service.
    """

    deployment: str
    version: str
    status: str
    reference: ReportReference | None = None
    window: Window
    new: bool = False
    waiting: int = 0
    columns: list[ColumnReport]
    drifted: list[str]
    dataset_drift: bool
    prediction_drift: ColumnReport | None = None
    dropped: int = 0
    report: str = ""
    messages: list[str] = []


class ErrorBody(msgspec.Struct, frozen=True):
    """`code` is the stable name of the kind of error, `resolution` what to do or type next."""

    code: str
    message: str
    details: str
    resolution: str
    docs_url: str


class ErrorDocument(msgspec.Struct, frozen=True):
    error: ErrorBody


SCHEMAS: dict[str, Any] = {
    "deploy": DeployResult,
    "destroy": Destroyed,
    "doctor": list[Finding],
    "env": dict[str, str],
    "error": ErrorDocument,
    "example get": PathDocument,
    "example list": list[ExampleDocument],
    "force-unlock": LockDocument,
    "get": Values,
    "init": PathDocument,
    "logs": LogLine,
    "models": list[ServedModel],
    "monitor": list[Report],
    "open": UrlDocument,
    "plan": Plan,
    "predict": Prediction,
    "provision": ProvisionedDocument,
    "start": ProvisionedDocument,
    "status": StackStatus,
    "stop": DoneDocument,
    "undeploy": DoneDocument,
}


def schema(command: str) -> dict[str, Any]:
    """JSON Schema of the document of `command`, one of `SCHEMAS`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"matcha {command} --output json",
        **msgspec.json.schema(SCHEMAS[command]),
    }


def to_json(document: Any) -> str:
    """Indented, ended by a newline."""
    return _decoded(msgspec.json.format(_encoded(document), indent=2))


def to_json_line(document: Any) -> str:
    """On one line, for streams of documents."""
    return _decoded(_encoded(document))


def _encoded(document: Any) -> bytes:
    return msgspec.json.encode(document, enc_hook=_plain)


def _decoded(raw: bytes) -> str:
    return raw.decode() + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def to_yaml(document: Any) -> str:
    from ruamel.yaml import YAML  # noqa: PLC0415 - only for --output yaml
    from ruamel.yaml.compat import StringIO  # noqa: PLC0415

    text = StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(msgspec.to_builtins(document, enc_hook=_plain), text)
    return str(text.getvalue())


def values(outputs: Mapping[str, Mapping[str, Output]], *, show: bool = False) -> Values:
    """`{resource: {property: value}}`, secrets masked unless `show`."""
    return {name: variables(properties, show=show) for name, properties in outputs.items()}


def variables(outputs: Mapping[str, Output], *, show: bool = False) -> dict[str, str]:
    return {name: shown(output, show=show) for name, output in outputs.items()}


def shown(output: Output, *, show: bool = False) -> str:
    return HIDDEN if output.sensitive and not show else output.value


def hides(outputs: Mapping[str, Mapping[str, Output]], *, show: bool) -> bool:
    """Whether something of `outputs` is masked."""
    return not show and any(o.sensitive for properties in outputs.values() for o in properties.values())


def provisioned(result: Provisioned) -> ProvisionedDocument:
    return ProvisionedDocument(
        plan=result.plan,
        outputs=values(result.outputs),
        changed=result.changed,
        cancelled=result.cancelled,
        seconds=round(result.seconds, 3),
    )


def error(problem: MatchaError) -> ErrorDocument:
    return ErrorDocument(
        ErrorBody(
            code=problem.code,
            message=problem.message,
            details=problem.details,
            resolution=problem.resolution,
            docs_url=problem.docs_url,
        )
    )
