"""The JSON of every command: what it shows, as one document, with secrets masked.

`SCHEMAS` maps a command to the type of its document; `schema` gives its JSON Schema. Errors have a document
too: `{"error": {...}}` on stdout, so that a program reads one stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha.access import Output
from matcha.api.types import (
    DeployResult,
    Destroyed,
    Finding,
    JobStatus,
    NewToken,
    Prediction,
    Provisioned,
    Report,
    RevokedToken,
    ServedModel,
    StackStatus,
    TokenInfo,
)
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
    "jobs cancel": DoneDocument,
    "jobs list": list[JobStatus],
    "jobs logs": LogLine,
    "logs": LogLine,
    "models": list[ServedModel],
    "monitor": list[Report],
    "open": UrlDocument,
    "plan": Plan,
    "predict": Prediction,
    "provision": ProvisionedDocument,
    "schema": list[str],
    "start": ProvisionedDocument,
    "status": StackStatus,
    "stop": DoneDocument,
    "tokens create": NewToken,
    "tokens list": list[TokenInfo],
    "tokens revoke": RevokedToken,
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


def to_yaml_stream(documents: Sequence[Any]) -> str:
    """Several documents in one text, as tools of clusters read them."""
    return "".join(f"---\n{to_yaml(document)}" for document in documents)


def to_yaml(document: Any) -> str:
    from ruamel.yaml import YAML  # noqa: PLC0415 - only for --output yaml
    from ruamel.yaml.compat import StringIO  # noqa: PLC0415

    text = StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(_in_blocks(msgspec.to_builtins(document, enc_hook=_plain)), text)
    return str(text.getvalue())


def _in_blocks(value: Any) -> Any:
    """Texts of several lines as a person would write them."""
    from ruamel.yaml.scalarstring import LiteralScalarString  # noqa: PLC0415 - as in to_yaml

    if isinstance(value, dict):
        return {key: _in_blocks(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_blocks(each) for each in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value


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
