"""Deployments: a model version answering under a name, and what is known of its traffic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from matcha import engine, inference, spec
from matcha.api import _given, _locks, _models, _relayed, _switching
from matcha.api import rows as reading
from matcha.api._project import Folder, Project, open_project
from matcha.api.lifecycle import LOCK_WAIT
from matcha.api.types import DeployResult, Prediction, Report, ServedModel
from matcha.component import ROOM, Deployment, ModelVersion
from matcha.errors import BadInput, MatchaError, NotFound, suggest
from matcha.events import Emit, Event, silent
from matcha.state import State

RUNS_CODE = "Loading a model runs its code: deploy what you trust."


def deploy(
    model: str,
    *,
    name: str | None = None,
    sensitive: Sequence[str] = (),
    dedicated: bool = False,
    project: Folder = ".",
    target: str | None = None,
    emit: Emit = silent,
    lock_wait: float = LOCK_WAIT,
) -> DeployResult:
    """Make a model version answer at `<base-url>/v2/models/<name>/infer`.

    `model` is any MLflow model URI (`models:/movie/3`, `models:/movie@champion`, `runs:/<id>/model`, a path).
    A model whose packages differ from the serving environment's gets an environment and a process of its
    own behind the same address; `dedicated`, a model has one that serves no other. Loading a model runs its
    code: deploy what you trust.

    Without `name` the deployment is called like its model, as far as that can stand in an address.

    Raises BadInput for a malformed URI or name, where another registered model is deployed under the name
    and none was given, and where the drift reference that `models:` names cannot be read or lacks columns;
    NotFound for a model the registry does not know; and ComponentFailed when the model cannot be loaded;
    what was served before goes on answering then. Killed, it is as if it had never begun, or had ended:
    `provision` sees to that.

    In a job on a cluster, whoever follows the job does it (`matcha run`, `matcha jobs logs --follow`).
    """
    if _relayed.is_here():
        return _relayed.deploy(model, name=name, sensitive=sensitive, dedicated=dedicated)
    opened = open_project(project, target)
    _require_running(opened)
    if name is not None:
        _checked(name)
    emit(Event("deployment", "started", f"resolving {model}"))
    version = opened.registry.resolve(opened.access(), model)
    chosen = _name(name, version)
    with engine.locked(opened.store, f"deploy {chosen}", wait=lock_wait, emit=emit) as token:
        journal = engine.Journal(opened.store, opened.state(), token)
        if name is None:
            _require_own(chosen, journal.state, version)
        deployment, notes = _describe(opened, journal.state, version, model, chosen, sensitive, emit)
        deployment = msgspec.structs.replace(deployment, dedicated=dedicated)
        notes = (*notes, *_apart(opened.with_settings(deployment)))
        emit(Event("deployment", "note", RUNS_CODE))
        emit(Event("deployment", "progress", f"serving {deployment.uri}"))
        try:
            others = _others(_switching.switch(opened, journal, deployment, emit))
        except Exception:  # not when told to end: that is not the time to ask a cluster
            _locks.drop_unused(opened.target, journal.state)
            raise
        _locks.drop_unused(opened.target, journal.state)
    emit(Event("deployment", "done", f"{chosen} serves {deployment.uri}"))
    return _result(opened, deployment, version.example, (*notes, *others))


def _require_running(opened: Project) -> None:
    if opened.state().phase == "stopped":
        raise MatchaError("The stack is stopped.", resolution="matcha start")


def _name(asked: str | None, version: ModelVersion) -> str:
    own = re.sub(r"[^a-z0-9-]+", "-", (version.model or "model").lower()).strip("-")
    return _checked(own if asked is None else asked)


def _require_own(name: str, state: State, version: ModelVersion) -> None:
    """Models of different names may come to one deployment name: a.b and a-b."""
    taken = state.deployments.get(name)
    if taken is None or taken.model in ("", version.model):
        return
    raise BadInput(
        f'"{name}" is the name of another model\'s deployment.',
        details=f"{taken.uri} is deployed as {name}. Give that name yourself to replace it, or another.",
        resolution=f"matcha deploy {version.uri} --name my-model",
    )


def _checked(name: str) -> str:
    if not spec.DEPLOYMENT.match(name):
        raise BadInput(
            f'"{name}" cannot be a deployment name.',
            details=spec.DEPLOYMENT_RULE,
            resolution="matcha deploy MODEL --name my-model",
        )
    return name


def _describe(
    opened: Project,
    state: State,
    version: ModelVersion,
    asked: str,
    name: str,
    sensitive: Sequence[str],
    emit: Emit,
) -> tuple[Deployment, tuple[str, ...]]:
    notes: list[str] = []
    kept = _given.keep(opened, state, version, name, emit)  # first: it may be refused
    environment, python = _models.own_environment(opened, state, version, emit)
    reference, said = kept[:2] if kept else _models.reference(opened, state, version, emit)
    notes += [said] if said else []
    settings: dict[str, Any] = {"sensitive": list(sensitive)} if sensitive else {}
    deployment = Deployment(
        name=name,
        asked=asked,
        uri=version.uri,
        model=version.model,
        version=version.version,
        run_id=version.run_id,
        environment=environment,
        python=python,
        signature=version.signature,
        reference=reference,
        given=kept.given if kept else None,
        settings=settings,
        deployed_at=engine.now(),
    )
    return deployment, tuple(notes)


def _apart(deployment: Deployment) -> tuple[str, ...]:
    if deployment.dedicated:
        return ("It has a process of its own, which serves no other model.",)
    notes = []
    if deployment.environment:
        notes.append("Its packages differ from the serving environment's, so it has a process of its own.")
    if sizes := [name.replace("_", "-") for name in ROOM if name in deployment.settings]:
        notes.append(f"Without dedicated: true its {', '.join(sizes)} in matcha.yaml change nothing.")
    return tuple(notes)


def _result(opened: Project, deployment: Deployment, example: Any, notes: Sequence[str]) -> DeployResult:
    url = opened.server.predict_url(opened.access(), deployment.name)
    if not deployment.signature.get("inputs"):
        notes = [*notes, "The model has no signature: the shape and type in the calls below are a guess."]
    body = inference.sample_request(deployment.signature, example)
    return DeployResult(
        deployment=deployment,
        url=url,
        python=inference.python_call(url, body),
        curl=inference.curl_call(url, body),
        notes=tuple(notes),
    )


def undeploy(
    name: str,
    *,
    project: Folder = ".",
    target: str | None = None,
    emit: Emit = silent,
    lock_wait: float = LOCK_WAIT,
) -> None:
    """Stop serving `name`; the model stays in the registry. Raises NotFound for an unknown name."""
    opened = open_project(project, target)
    _require_running(opened)
    with engine.locked(opened.store, f"undeploy {name}", wait=lock_wait, emit=emit) as token:
        journal = engine.Journal(opened.store, opened.state(), token)
        _deployment(journal.state, name)
        journal.change(lambda s: s.without_deployment(name))
        for said in _others(_switching.converge(opened, journal, emit)):
            emit(Event("deployment", "note", said))
        _locks.drop_unused(opened.target, journal.state)


def _others(unserved: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be said of other deployments that do not answer."""
    return tuple(f"{name}, which is deployed too, does not answer: {why}" for name, why in unserved.items())


def _deployment(state: State, name: str) -> Deployment:
    found = state.deployments.get(name)
    if found is None:
        raise NotFound(f'No model is deployed as "{name}".', resolution=suggest(name, state.deployments))
    return found


def models(project: Folder = ".", *, target: str | None = None) -> list[ServedModel]:
    """Registered models with their versions and aliases, and what is deployed of each."""
    opened = open_project(project, target)
    _require_running(opened)
    state = opened.state()
    registered = {m.name: m for m in opened.registry.models(opened.access())}
    served = [_effective(opened, d) for d in state.deployments.values()]
    names = dict.fromkeys([*registered, *(d.model or d.name for d in served)])
    return [_served(name, registered.get(name), served) for name in names]


def _effective(opened: Project, recorded: Deployment) -> Deployment:
    return msgspec.structs.replace(recorded, dedicated=opened.with_settings(recorded).dedicated)


def _served(name: str, found: Any, served: Sequence[Deployment]) -> ServedModel:
    return ServedModel(
        name=name,
        versions=tuple(found.versions) if found else (),
        aliases=dict(found.aliases) if found else {},
        deployments=tuple(d for d in served if (d.model or d.name) == name),
    )


def predict(
    name: str,
    rows: Sequence[Mapping[str, Any]] | Path | str,
    *,
    project: Folder = ".",
    target: str | None = None,
) -> Prediction:
    """Predictions of a deployed model for rows, or for those of a .json, .csv or .parquet file.

    Raises NotFound for an unknown name, BadInput for rows that do not fit the model's signature.
    """
    opened = open_project(project, target)
    _require_running(opened)
    state = opened.state()
    deployment = _deployment(state, name)
    if isinstance(rows, (str, Path)):
        rows = reading.from_file(Path(rows), lambda: _models.toolbox(opened))
    body = inference.request(deployment.signature, rows)
    answer = _infer(opened.server.predict_url(opened.target.access(state), name), body)
    parameters = answer.get("parameters") or {}
    return Prediction(
        name=name,
        version=str(parameters.get("model_version") or deployment.version),
        predictions=inference.predictions(answer),
        id=str(answer.get("id", "")),
    )


def _infer(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    import httpx  # noqa: PLC0415 - 0.1 s that other commands need not pay

    try:
        response = httpx.post(url, content=msgspec.json.encode(body), timeout=120, trust_env=False)
    except httpx.HTTPError as error:
        raise MatchaError(
            "The model server does not answer.", details=str(error), resolution="matcha status"
        ) from error
    if response.is_success:
        return dict(response.json())
    if response.status_code == 404:
        raise MatchaError(
            "The model server does not serve this model.",
            details=_reason(response),
            resolution="matcha provision",
        )
    if response.status_code < 500:
        raise BadInput(
            f"The model server refused the request ({response.status_code}).",
            details=_reason(response),
            resolution="Change the rows as it says.",
        )
    raise MatchaError(
        f"The model failed ({response.status_code}).",
        details=_reason(response),
        resolution="matcha logs model-deployer",
    )


def _reason(response: Any) -> str:
    try:
        return str(response.json().get("error", response.text))[:2000]
    except (ValueError, AttributeError):
        return str(response.text)[:2000]


def monitor(
    name: str | None = None, *, take_in: bool = True, project: Folder = ".", target: str | None = None
) -> list[Report]:
    """The verdict that stands of one deployment, or of all, after taking in what was captured since the last.

    Rows too few for a verdict wait for the next window. A version just deployed has no verdict.
    """
    opened = open_project(project, target)
    _require_running(opened)
    state = opened.state()
    if name is not None:
        _deployment(state, name)
    if not state.deployments:
        raise NotFound(
            "No model is deployed yet.",
            details="There is no traffic to watch.",
            resolution="matcha deploy MODEL",
        )
    access = opened.target.access(state)
    names = [name] if name else list(state.deployments)
    if take_in:
        opened.server.flush(access)
    return [msgspec.convert(opened.monitor.report(access, n, take_in), Report) for n in names]
