"""Health of the machine, and the working examples."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from matcha import spec
from matcha.api import _served, training
from matcha.api._project import Folder, Project, open_project
from matcha.api.types import Finding
from matcha.errors import BadInput, MatchaError, suggest
from matcha.state import State
from matcha.target import Doctor


class Example(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    title: str


def doctor(project: Folder = ".", *, target: str | None = None, fix: bool = False) -> list[Finding]:
    """Every check of this machine and stack; with `fix`, what can be mended is mended first."""
    opened = open_project(project, target)
    state = _recorded(opened)
    found = list(_stack_findings(opened, state, fix)) if isinstance(opened.target, Doctor) else []
    found += _model_findings(opened, _first_aid(found)) if state else []
    clients = training.client_mismatches(opened.components)
    found.append(
        Finding(
            check="client libraries",
            ok=not clients,
            message=" ".join(clients) or "Nothing installed beside Matcha differs from the stack.",
            fix="Run your code with `matcha run -- ...`, or install the stack's versions." if clients else "",
        )
    )
    return found


def _recorded(opened: Project) -> State | None:
    """None also where it cannot be read: the target's own checks say so, and what can be done."""
    with contextlib.suppress(MatchaError):
        return opened.store.read()
    return None


def _stack_findings(opened: Project, state: State | None, fix: bool) -> list[Finding]:
    assert isinstance(opened.target, Doctor)
    wanted = opened.wanted(state)
    return [
        msgspec.convert(f, Finding, from_attributes=True)
        for f in opened.target.examine(state, wanted.environments, fix=fix, services=wanted.services)
    ]


def _first_aid(found: Iterable[Finding]) -> str:
    """What mends services, and with them models: what is no command comes before a provision."""
    ill = [f.fix for f in found if not f.ok and f.check == "services"]
    return next((fix for fix in ill if not fix.startswith("matcha ")), "matcha provision")


def _model_findings(opened: Project, fix: str) -> list[Finding]:
    """Whether the deployed models answer."""
    try:
        models = _served.asking(opened, opened.store.read())()
    except MatchaError as error:
        told = f"The models cannot be asked: {error.message}"
        return [Finding(check="models", ok=False, message=told, fix=fix)]
    ill = [m for m in models if not m.healthy]
    if models and not ill:
        return [Finding(check="models", ok=True, message=f"{len(models)} deployed and answering.")]
    return [
        Finding(check="models", ok=False, message=f"{m.name} does not answer: {m.detail}", fix=fix)
        for m in ill
    ]


def _examples_folder() -> Path:
    packaged = Path(__file__).resolve().parent.parent / "_examples"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "examples"


def examples() -> list[Example]:
    """Every example, by name, with the first line of its README."""
    folders = sorted(p for p in _examples_folder().iterdir() if (p / "README.md").is_file())
    return [Example(name=p.name, title=_title(p / "README.md")) for p in folders]


def _title(readme: Path) -> str:
    return readme.read_text(encoding="utf-8").lstrip("# ").partition("\n")[0].strip()


def example(name: str, destination: Path | str | None = None) -> Path:
    """Copy an example; the folder made.

    Raises BadInput for an unknown one, and where it would overwrite something; MatchaError where it cannot
    be written.
    """
    known = [e.name for e in examples()]
    if name not in known:
        raise BadInput(f'There is no example "{name}".', resolution=suggest(name, known))
    folder = Path(destination) if destination else Path(name)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise BadInput(f"{folder} exists already.", resolution=f"matcha example get {name} ANOTHER-FOLDER")
    ignore = shutil.ignore_patterns("__pycache__", ".pytest_cache", ".matcha", spec.FILE)
    try:
        shutil.copytree(_examples_folder() / name, folder, ignore=ignore, dirs_exist_ok=True)
    except OSError as error:
        raise MatchaError(
            f"The example cannot be written to {folder}.",
            details=_first_reason(error),
            resolution=f"matcha example get {name} ANOTHER-FOLDER",
        ) from error
    return folder.resolve()


def _first_reason(error: OSError) -> str:
    """`shutil.Error` holds a list of what was refused: (from, to, why)."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][2])
    return error.strerror or str(error)
