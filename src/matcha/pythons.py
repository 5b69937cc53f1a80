"""Which Python an environment is made with."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from matcha import uvtool
from matcha.errors import COMPONENT
from matcha.uvtool import PythonUnavailable

CALLER = "MATCHA_PYTHON"  # set for jobs, so that what they ask of Matcha uses the environments there are
SUPPORTED = ("3.13", "3.12", "3.11", "3.10")  # newest first


@functools.cache
def python_for(requires: str) -> str:
    """The Python ("3.11") to use for packages that need `requires` (">=3.10,<3.13").

    The running interpreter's version where it fits (in a job, that of the Matcha that started it); else the
    newest on this machine; else the newest that fits, which uv downloads at install. Raises
    PythonUnavailable where Matcha knows none that fits.
    """
    running = os.environ.get(CALLER) or f"{sys.version_info.major}.{sys.version_info.minor}"
    fitting = [version for version in SUPPORTED if fits(version, requires)]
    if running in fitting:
        return running
    if not fitting:
        message = f"No Python that Matcha supports satisfies {requires}."
        raise PythonUnavailable(
            message,
            details=f"Supported: {', '.join(reversed(SUPPORTED))}.",
            resolution=COMPONENT,
        )
    return next((version for version in fitting if _find_python(version)), fitting[0])


def fits(version: str, requires: str) -> bool:
    tests: Mapping[str, Callable[[int], bool]] = {
        ">=": lambda order: order >= 0,
        "<=": lambda order: order <= 0,
        "==": lambda order: order == 0,
        "!=": lambda order: order != 0,
        "~=": lambda order: order >= 0,
        ">": lambda order: order > 0,
        "<": lambda order: order < 0,
    }
    minor = int(version.split(".")[1])
    for operator, other in re.findall(r"(>=|<=|==|!=|~=|>|<)\s*3\.(\d+)", requires):
        if not tests[operator]((minor > int(other)) - (minor < int(other))):
            return False
    return True


def _find_python(version: str) -> str:
    """Path of an interpreter on this machine, or empty. pyenv's shims fail for inactive versions."""
    places = [place for place in os.environ.get("PATH", "").split(os.pathsep) if Path(place).name != "shims"]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places += [str(place) for place in sorted(pyenv.glob(f"versions/{version}.*/bin"))]
    environ = {**os.environ, "PATH": os.pathsep.join(places)}
    return uvtool.ask(
        ["python", "find", "--no-python-downloads", "--no-project", "--system", version], environ
    )


def interpreter(version: str) -> str:
    """What `uv venv --python` gets: a path, or a version that uv is to download."""
    running = os.environ.get(CALLER) or f"{sys.version_info.major}.{sys.version_info.minor}"
    return sys.executable if version == running else _find_python(version) or version
