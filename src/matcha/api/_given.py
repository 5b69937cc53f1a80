"""The drift reference that `models:` names for a deployment, in place of its training data.

It is taken when the model is deployed, for all who share the stack: the file may lie on one machine only.
"""

from __future__ import annotations

import calendar
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from matcha import engine, spec
from matcha.api import _models
from matcha.api._project import Project
from matcha.component import Deployment, GivenReference, ModelVersion
from matcha.errors import MatchaError, StackFileError
from matcha.events import Emit, Event
from matcha.stackfile import StackFile
from matcha.state import State

SHOWN = 10  # columns
MARGIN = 3600.0  # seconds


class Kept(NamedTuple):
    """Where the sample stands under the model's run, what is to be said of it, and what it was made of."""

    artifact: str
    said: str
    given: GivenReference


def keep(opened: Project, state: State, version: ModelVersion, name: str, emit: Emit) -> Kept | None:
    """Log a sample of what `models:` names with the model's run; None where it names nothing.

    Raises StackFileError where that cannot be read or lacks columns that the model needs.
    """
    source = _chosen(opened, name)
    if source is None:
        return None
    again = f"matcha deploy {version.uri} --name {name}"
    if not version.run_id:
        why = "a drift reference is kept with the model's run, and this model comes from none"
        raise _refused(opened, name, why, "", "Log the model in a run, or take this line out.")
    emit(Event("deployment", "progress", f"reading {source} as the drift reference"))
    command = ["matcha_given", "--run", version.run_id, "--source", source]
    inputs = msgspec.json.encode(version.signature.get("inputs") or []).decode()
    answer = _models.in_toolbox(opened, state, command, opened.root, inputs)
    if answer["status"] != "kept":
        raise _trouble(opened, name, source, answer, again)
    said = f"Drift is measured against {source} ({answer['rows']:,} rows), as {spec.FILE} says."
    return Kept(str(answer["artifact"]), said, GivenReference(source=source, digest=str(answer["digest"])))


def _chosen(opened: Project, name: str) -> str | None:
    settings = opened.stack.models.get(name)
    return settings.reference if settings else None


def _trouble(opened: Project, name: str, source: str, answer: Mapping[str, Any], again: str) -> MatchaError:
    message = str(answer.get("message", ""))
    if answer["status"] == "unreadable":
        resolution = f"Correct it (a file is looked for in the project's folder), then: {again}"
        return _refused(opened, name, f"the drift reference {source} cannot be read", message, resolution)
    if answer["status"] == "columns":
        problem = f"{source} lacks {_listed(answer['missing'])}, which the model takes"
        has = f"It has: {_listed(answer['has'])}."
        return _refused(opened, name, problem, has, f"Name a file with these columns, then: {again}")
    return MatchaError("The drift reference could not be kept.", details=message, resolution="matcha status")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _refused(opened: Project, name: str, problem: str, details: str, resolution: str) -> StackFileError:
    """At its line of matcha.yaml."""
    error = StackFile(opened.root / spec.FILE).error(("models", name, "reference"), problem, resolution)
    error.details = f"{error.details} {details}".rstrip()
    return error


def pending(opened: Project, state: State | None) -> Iterator[str]:
    """What the next deploy would take, and no `provision` does: a reference that is not the one in use."""
    for deployment in state.deployments.values() if state else ():
        if why := _change(opened, deployment):
            take = f"matcha deploy {deployment.uri} --name {deployment.name}"
            yield f"{deployment.name}: {why} To take what {spec.FILE} says now: {take}"


def _change(opened: Project, deployment: Deployment) -> str:
    source, given = _chosen(opened, deployment.name), deployment.given
    if source != (given.source if given else None):
        return f"drift is still measured against {given.source if given else 'the training data'}."
    if given is None or not _is_changed(opened.root / Path(given.source).expanduser(), deployment):
        return ""
    return f"{given.source} changed since it was deployed; drift is measured against it as it was."


def _is_changed(path: Path, deployment: Deployment) -> bool:
    """A file that is gone, or on another machine, takes nothing from what was kept of it.

    Only one that was written, or came to this place, since shortly before the deploy is read.
    """
    deployed = calendar.timegm(time.strptime(deployment.deployed_at, engine.TIME))
    try:
        stat = path.stat()
        if not path.is_file() or stat.st_ctime < deployed - MARGIN:
            return False
        return deployment.given is not None and digest(path) != deployment.given.digest
    except OSError:
        return False


def digest(path: Path) -> str:
    """As `matcha_given` takes it."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()[:16]
