"""Whether a model can be served with the packages of the serving environment, or needs its own.

- An exact pin fits a locked version of the same major and minor number: pickles of scikit-learn and its like
  promise no more.
- `FORGIVING` packages, which read what older ones of the same major wrote, fit a newer minor number too.
- Any other specifier means what it says. A package that is not locked does not fit.
- MLflow never decides: it is the server's own in every environment.
- Another minor version of Python does not fit: functions are pickled as bytecode. Models of a Python that
  cannot be had, as MLServer does not run on it or the target has one only, fit by their packages alone,
  unless they are made of such functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matcha.component import ModelVersion
from matcha.errors import MatchaError, WrongPython
from matcha.service import Environment

if TYPE_CHECKING:
    from packaging.requirements import Requirement

FORGIVING = frozenset(("numpy", "pandas", "scipy", "pyarrow", "cloudpickle", "skops", "joblib"))
SERVERS_OWN = frozenset(("mlflow", "mlflow-skinny", "mlflow-tracing", "mlserver", "mlserver-mlflow"))
# MLflow lists what it finds imported, also what other packages only use where it is: psutil, rich, pytest
TOOLS = frozenset(("pip", "setuptools", "wheel", "psutil", "rich", "pytest"))
IMPORTED = ("aiohttp", "orjson", "uvicorn")  # by the code that runs in the process, besides MLServer itself
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==(\S+)\s*(?:;\s*(.*?))?\s*\\?$", re.MULTILINE)


def own_environment(
    model: ModelVersion, serving: Environment, server_in: Path, only: str = ""
) -> tuple[str, ...]:
    """Requirement lines of an environment for the model; () where it fits.

    `server_in` is the file of what the server itself needs, `only` the Python of all servers where there is
    no choice. Raises WrongPython for a model that loads on another alone, MatchaError for one that no server
    can run.
    """
    python = _python(model, serving, only)
    locked = pins(serving.lock.read_text(), python)
    if python == (only or _serving_python(serving)) and all(
        fits(line, locked, python) for line in model.requirements
    ):
        return ()
    return _lines(model, locked, server_in.read_text())


def pins(lock: str, python: str) -> dict[str, str]:
    """Canonical name -> version, of the lines that hold for this Python ("3.11") here."""
    found = {}
    for name, version, marker in _PIN.findall(lock):
        if not marker or _holds(marker, python):
            found[_canonical(name)] = version
    return found


def _holds(marker: str, python: str) -> bool:
    from packaging.markers import Marker  # noqa: PLC0415 - only deploying needs it

    return Marker(marker).evaluate(_about(python))


def _about(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).strip()


def parsed(line: str) -> Requirement | None:
    """None for what only pip understands: options, paths, addresses."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415

    try:
        found = Requirement(_uncommented(line))
    except InvalidRequirement:
        return None
    return None if found.url else found


def fits(line: str, locked: Mapping[str, str], python: str) -> bool:
    """Whether the locked version of what the line asks for will do."""
    if not _uncommented(line):
        return True
    wanted = parsed(line)
    if wanted is None:
        return False
    if wanted.marker is not None and not wanted.marker.evaluate(_about(python)):
        return True
    name = _canonical(wanted.name)
    if name in SERVERS_OWN | TOOLS:
        return True
    return name in locked and _version_fits(name, wanted, locked[name])


def _version_fits(name: str, wanted: Requirement, locked: str) -> bool:
    exact = [s.version for s in wanted.specifier if s.operator == "==" and not s.version.endswith(".*")]
    if len(exact) == 1 and len(wanted.specifier) == 1:
        return _pin_fits(name, exact[0], locked)
    return wanted.specifier.contains(locked, prereleases=True)


def _pin_fits(name: str, pinned: str, locked: str) -> bool:
    want, have = _release(pinned), _release(locked)
    if want == have:
        return True
    return name in FORGIVING and want[0] == have[0] and want < have


def _release(version: str) -> tuple[int, int]:
    from packaging.version import Version  # noqa: PLC0415

    found = Version(version)
    return found.major, found.minor


def _python(model: ModelVersion, serving: Environment, only: str) -> str:
    """The minor version ("3.11") that the model is to be served with."""
    trained = ".".join(model.python.split(".")[:2])
    if not trained or trained == only:
        return only or _serving_python(serving)
    if not only and _supported(trained, serving):
        return trained
    functions = set(model.flavors) <= {"python_function"}
    if functions and only and _supported(trained, serving):
        raise WrongPython(
            f"The model was made with Python {model.python}, and models are served with {only} here.",
            details="It is made of Python functions, which load only in the Python they were made with.",
            resolution=f"train it with Python {only}",
        )
    if functions:
        raise MatchaError(
            f"The model was made with Python {model.python}, which MLServer does not run on.",
            details="It is made of Python functions, which load only in the Python they were made with. "
            f"MLServer needs {serving.python}.",
            resolution="train it with `matcha run`, which uses a Python that serves",
        )
    return only or _serving_python(serving)


def _supported(python: str, serving: Environment) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415

    return SpecifierSet(serving.python).contains(python)


def _serving_python(serving: Environment) -> str:
    """The Python of the serving environment, by the rule by which environments are made."""
    from matcha.pythons import python_for  # noqa: PLC0415

    return python_for(serving.python)


def _lines(model: ModelVersion, locked: Mapping[str, str], server_in: str) -> tuple[str, ...]:
    """What the model asks for, less MLflow, and what the server needs besides."""
    kept = [text for line in model.requirements if (text := _uncommented(line)) and not _is_servers(text)]
    named = {_canonical(found.name) for line in kept if (found := parsed(line)) is not None}
    needed = [*_bounded(server_in), *(f"{name}=={locked[name]}" for name in IMPORTED if name in locked)]
    return (*kept, *(line for line in needed if _name(line) not in named))


def _is_servers(line: str) -> bool:
    return _name(line) in SERVERS_OWN | TOOLS


def _name(line: str) -> str:
    found = parsed(line)
    return _canonical(found.name) if found is not None else ""


def _bounded(server_in: str) -> Iterable[str]:
    """The lines that hold a version: bare names are there for the convenience of models."""
    for line in server_in.splitlines():
        if re.search(r"[=<>~!]", text := _uncommented(line)):
            yield text
