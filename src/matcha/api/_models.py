"""What a model brings to a deployment: an environment where it needs one, and its drift reference."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from matcha import environments, pythons
from matcha.api import _locks
from matcha.api._project import Project
from matcha.component import ModelVersion
from matcha.errors import WrongPython
from matcha.events import Emit, Event
from matcha.service import Environment, digest_of
from matcha.state import State
from matcha.target import OnePython

REFERENCE = "matcha/reference.parquet"


def own_environment(opened: Project, state: State, version: ModelVersion, emit: Emit) -> tuple[str, str]:
    """(digest, Python) of the environment the model needs for itself; ("", "") where it fits the shared one.

    Raises EnvironmentUnresolvable, with the reason, where no environment can be made.
    """
    try:
        lines = opened.server.own_environment(version, only_python(opened))
    except WrongPython as error:
        if isinstance(opened.target, OnePython):
            option = opened.target.way_to(".".join(version.python.split(".")[:2]))
            error.resolution += f", or set {option} and: matcha provision"
        raise
    if not lines:
        return "", ""
    python = _serving_python(opened, version)
    digest = digest_of([sorted(lines), python])

    def resolve(lock: Path) -> None:
        emit(Event("deployment", "progress", "resolving the model's own packages"))
        environments.compile_lock(lines, constraints=None, python=python, output=lock)

    _locks.made(opened.target, state, digest, resolve)
    return digest, python


def _serving_python(opened: Project, version: ModelVersion) -> str:
    """The minor version the model was made with where the model server runs on it, else the server's own."""
    if only := only_python(opened):
        return only
    serving = opened.server.serving_lock().python
    minor = ".".join(version.python.split(".")[:2])
    return minor if minor and pythons.fits(minor, serving) else environments.python_for(serving)


def only_python(opened: Project) -> str:
    """Of the target's servers, where it has one Python alone; otherwise empty."""
    return opened.target.python() if isinstance(opened.target, OnePython) else ""


def toolbox(opened: Project) -> Path:
    """An interpreter on this machine with the tracker's client, pandas and pyarrow."""
    environment, _ = opened.registry.toolbox()
    return install(environment)


def install(environment: Environment) -> Path:
    python = environments.python_for(environment.python)
    return environments.install(environment.lock, python) / "bin" / "python"


def reference(opened: Project, state: State, version: ModelVersion, emit: Emit) -> tuple[str, str]:
    """(artifact path, sentence): the sample of the training data that drift is measured against.

    The sentence says why there is none, where the run's dataset changed or cannot be reached.
    """
    if not version.run_id:
        return "", "No run is known for this model, so there is no training data to measure drift against."
    emit(Event("deployment", "progress", "looking for its training data"))
    said = log_references(opened, state, ["--run", version.run_id], opened.root)
    status = said.get("status", "failed")
    if status in ("logged", "exists"):
        return REFERENCE, ""
    return "", str(said.get("message") or "The training data could not be sampled for drift.")


def log_references(
    opened: Project, state: State, arguments: Sequence[str], folder: Path
) -> dict[str, object]:
    """Run the reference script; its JSON. Never raises for what it finds: a model deploys without one too.

    Relative paths of datasets are looked for in `folder`.
    """
    return in_toolbox(opened, state, ["matcha_reference", *arguments], folder)


def in_toolbox(
    opened: Project, state: State, command: Sequence[str], folder: Path, told: str = ""
) -> dict[str, object]:
    """What a module of the toolbox answers, started in `folder`, with `told` as its input.

    {"status": "failed", "message": ...} where it answers nothing.
    """
    environment, code = opened.registry.toolbox()
    access = opened.target.access(state)
    variables = {n: o.value for c in opened.components for n, o in c.client_env(access).items()}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(install(environment)), "-m", *command],
            env={**inherited, **variables, "PYTHONPATH": str(code)},
            input=told,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            cwd=folder,
        )
        return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))
    except (subprocess.TimeoutExpired, ValueError):
        return {"status": "failed", "message": "The training data could not be read for drift monitoring."}
