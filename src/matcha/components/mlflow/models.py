"""Which model a URI means now, asked of MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from matcha.access import Access
from matcha.component import ModelVersion, RegisteredModel
from matcha.components.mlflow import folder, uris
from matcha.components.mlflow.rest import Tracker, Unknown
from matcha.errors import BadInput, MatchaError, NotFound, suggest

# MLflow reads a URI with these in the model's name as another one.
CUTS_A_URI = frozenset("?;")


class Resolver:
    """Answers for one server. `local`: what it stores lies on this machine, so folders can be read."""

    def __init__(self, tracker: Tracker, *, local: bool) -> None:
        self._tracker = tracker
        self._local = local

    def resolve(self, uri: str) -> ModelVersion:
        """Raises BadInput, NotFound or MatchaError, as `ModelRegistry.resolve` says."""
        asked = uris.parse(uri)
        if isinstance(asked, uris.Registered):
            return self._registered(asked)
        if isinstance(asked, uris.Logged):
            return self._logged(asked.model_id)
        if isinstance(asked, uris.OfRun):
            return self._of_run(asked)
        if isinstance(asked, uris.Stored):
            return self._described(asked.uri, asked.uri)
        return self._on_disk(asked.path)

    # Registered models

    def _registered(self, asked: uris.Registered) -> ModelVersion:
        known = self._model(asked.name)
        version = asked.version
        if asked.alias:
            version = self._by_alias(asked, known)
        elif version == uris.LATEST:
            version = self._newest(asked.name)
        elif not version:
            raise self._unspecified(asked.name, known)
        return self._version(asked.name, version)

    def _model(self, name: str) -> dict[str, str]:
        """Alias -> version of a registered model."""
        try:
            found = self._tracker.get("/registered-models/get", name=name)["registered_model"]
        except Unknown:
            raise _not_found(f'There is no model "{name}".', suggest(name, self._names())) from None
        return {alias["alias"]: str(alias["version"]) for alias in found.get("aliases", ())}

    def _by_alias(self, asked: uris.Registered, aliases: dict[str, str]) -> str:
        if asked.alias not in aliases:
            problem = f'The model "{asked.name}" has no alias "{asked.alias}".'
            raise _not_found(problem, suggest(asked.alias, aliases))
        return aliases[asked.alias]

    def _newest(self, name: str) -> str:
        versions = self._versions(name)
        if not versions:
            raise _not_found(f'The model "{name}" has no version yet.')
        return versions[-1]

    def _unspecified(self, name: str, aliases: dict[str, str]) -> MatchaError:
        versions = self._versions(name)
        known = [f"versions: {', '.join(versions) or 'none yet'}"]
        known += [f"aliases: {', '.join(sorted(aliases))}"] if aliases else []
        return BadInput(
            f'Say which version of "{name}".',
            details="; ".join(known).capitalize() + ".",
            resolution=f"matcha deploy models:/{name}/{versions[-1] if versions else '1'}",
        )

    def _version(self, name: str, version: str) -> ModelVersion:
        try:
            found = self._tracker.get("/model-versions/get", name=name, version=version)["model_version"]
            stored = self._tracker.get("/model-versions/get-download-uri", name=name, version=version)
        except Unknown:
            known = self._versions(name)
            details = f"Versions: {', '.join(known)}." if known else "It has none yet."
            raise _not_found(f'The model "{name}" has no version {version}.', details) from None
        source = str(found.get("source", ""))
        uri = source if CUTS_A_URI & set(name) else f"models:/{name}/{version}"
        return self._described(
            uri,
            str(stored["artifact_uri"]),
            model=name,
            version=version,
            run_id=str(found.get("run_id", "")),
            aliases=tuple(found.get("aliases", ())),
        )

    def _versions(self, name: str) -> list[str]:
        """Oldest first. Asked by prefix-safe comparison here, for a filter cannot quote every name."""
        found = self._tracker.pages("/model-versions/search", "model_versions", **_name_filter(name))
        return sorted((str(v["version"]) for v in found if v["name"] == name), key=int)

    def _names(self) -> list[str]:
        found = self._tracker.pages("/registered-models/search", "registered_models")
        return [str(model["name"]) for model in found]

    # Logged models and runs

    def _logged(self, model_id: str) -> ModelVersion:
        try:
            found = self._tracker.get(f"/logged-models/{quote(model_id, safe='')}")["model"]["info"]
        except Unknown:
            raise _not_found(f'There is no logged model "{model_id}".') from None
        return self._described(
            f"models:/{model_id}", str(found["artifact_uri"]), run_id=str(found.get("source_run_id", ""))
        )

    def _of_run(self, asked: uris.OfRun) -> ModelVersion:
        try:
            run = self._tracker.get("/runs/get", run_id=asked.run_id)["run"]["info"]
        except Unknown:
            raise _not_found(f'There is no run "{asked.run_id}".') from None
        logged = self._logged_by(str(run["experiment_id"]), asked.run_id)
        if asked.path in logged:
            return self._logged(logged[asked.path])
        uri = f"runs:/{asked.run_id}/{asked.path}"
        found = self._read(f"{run['artifact_uri']}/{asked.path}", uri)
        if found is None:
            raise _not_found(
                f'The run {asked.run_id} logged no model at "{asked.path}".', suggest(asked.path, logged)
            )
        return _version_of(uri, found, run_id=asked.run_id, experiment_id=str(run["experiment_id"]))

    def _logged_by(self, experiment_id: str, run_id: str) -> dict[str, str]:
        """Name -> id of the models that a run logged; the newest where it used a name twice."""
        body = {"experiment_ids": [experiment_id], "filter": f"source_run_id = '{run_id}'"}
        found = self._tracker.post("/logged-models/search", body).get("models", ())
        newest_last = sorted((m["info"] for m in found), key=lambda m: int(m["creation_timestamp_ms"]))
        return {str(info["name"]): str(info["model_id"]) for info in newest_last}

    # Folders

    def _on_disk(self, path: Path) -> ModelVersion:
        if not self._local:
            raise BadInput(
                f'"{path}" lies on this machine, where the stack cannot read it.',
                details="Log the model to the stack, then name it by its models:/ address.",
                resolution="matcha models",
            )
        where = str(path.resolve())
        found = folder.read(where, lambda name: _file(path / name))
        if found is None:
            raise _not_found(f'There is no saved model in the folder "{path}".', self._meant(str(path)))
        return _version_of(where, found)

    def _meant(self, word: str) -> str:
        return f"There is a registered model of that name: models:/{word}." if word in self._names() else ""

    def _described(self, uri: str, stored: str, **known: object) -> ModelVersion:
        found = self._read(stored, uri)
        if found is None:
            raise _not_found(f"The files of {uri} are not in the artifact store.", f"Looked in {stored}.")
        run_id = str(known.pop("run_id", "") or found.run_id)
        return _version_of(uri, found, run_id=run_id, experiment_id=self._experiment(run_id), **known)

    def _read(self, stored: str, uri: str) -> folder.Model | None:
        parts = urlsplit(stored)
        if parts.scheme == "mlflow-artifacts":
            base = stored.partition(":")[2].removeprefix(f"//{parts.netloc}").strip("/")
            return folder.read(uri, lambda name: self._tracker.artifact(f"{base}/{name}"))
        if parts.scheme in ("", "file") and self._local:
            place = Path(unquote(parts.path) if parts.scheme else stored)
            return folder.read(uri, lambda name: _file(place / name))
        raise MatchaError(
            f"The files of {uri} lie outside the stack, at {stored}.",
            details="Matcha reads only what was logged through the stack's own MLflow.",
            resolution="Log the model again in an experiment with the default artifact location.",
        )

    def _experiment(self, run_id: str) -> str:
        try:
            return (
                str(self._tracker.get("/runs/get", run_id=run_id)["run"]["info"]["experiment_id"])
                if run_id
                else ""
            )
        except Unknown:  # the run was deleted for good, its model was not
            return ""


def registered(tracker: Tracker) -> tuple[RegisteredModel, ...]:
    """Every registered model by name, those without a version too."""
    versions: dict[str, list[str]] = {}
    for found in tracker.pages("/model-versions/search", "model_versions"):
        versions.setdefault(str(found["name"]), []).append(str(found["version"]))
    known = tracker.pages("/registered-models/search", "registered_models")
    return tuple(sorted((_registered(model, versions) for model in known), key=lambda m: m.name))


def _registered(model: dict[str, Any], versions: dict[str, list[str]]) -> RegisteredModel:
    name = str(model["name"])
    return RegisteredModel(
        name=name,
        versions=tuple(sorted(versions.get(name, ()), key=int, reverse=True)),
        aliases={str(a["alias"]): str(a["version"]) for a in model.get("aliases", ())},
    )


def is_local(access: Access) -> bool:
    """Whether the stack's servers read this machine's disk."""
    return "://" not in access.inside("{store:artifacts}").removeprefix("file://")


def _version_of(uri: str, found: folder.Model, **known: object) -> ModelVersion:
    facts: dict[str, object] = {"run_id": found.run_id, **known}
    return ModelVersion(
        uri=uri,
        requirements=found.requirements,
        python=found.python,
        signature=found.signature,
        flavors=found.flavors,
        example=found.example,
        **facts,  # type: ignore[arg-type]
    )


def _name_filter(name: str) -> dict[str, str]:
    """Nothing where MLflow's filter language cannot quote the name; the caller compares again."""
    if "'" in name or '"' in name or "\\" in name:
        return {}
    return {"filter": f"name = '{name}'"}


def _file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _not_found(message: str, details: str = "") -> NotFound:
    return NotFound(message, details=details, resolution="matcha models")
