"""Which project a command is about, and what its parts are called."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from matcha import nearest
from matcha.cli import screen
from matcha.errors import BadInput, MatchaError

CODE = ("run.py", "train.py")  # what a project's code is often called


def current() -> Path:
    """The folder that the command was typed in. Raises MatchaError where it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise MatchaError(
            "The folder that you are in was removed.", resolution="Go to another one: cd"
        ) from error


def project_folder(asked: Path | None) -> Path:
    """`asked`; otherwise the nearest folder upwards that has a matcha.yaml; otherwise the current one.

    Raises BadInput where `asked` is not a folder.
    """
    if asked is not None:
        if not asked.is_dir():
            raise BadInput(
                f"{asked} is not a folder.", resolution="Name the project's folder after --project."
            )
        return asked.resolve()
    here = current()
    return nearest.project(here) or here


def folder_inside(project: Path) -> Path:
    """The current folder where it is in the project, else the project's own."""
    here = current().resolve()
    return here if here.is_relative_to(project.resolve()) else project


def folder_to_change(asked: Path | None) -> Path:
    """`project_folder`, said aloud where it is not the current one: the next thing done there may matter."""
    folder = project_folder(asked)
    if asked is None and folder != current():
        screen.note(f"In {folder}, the nearest folder upwards with a {nearest.FILE}.")
    return folder


def first_step(folder: Path, target: str | None) -> str:
    """What to type in a project that has a stack and no model: its own code, or an example. Where no jobs are
    run, what such code needs.
    """
    from matcha import api

    if not api.runs_jobs(folder, target=target):
        return "matcha env"
    code = next((name for name in CODE if (folder / name).is_file()), "")
    return f"matcha run -- python {code}" if code else "matcha example get recommendation"


def again(*options: str) -> str:
    """The command as it was typed, with `options`."""
    typed = sys.argv[1:]
    return shlex.join(["matcha", *typed, *(option for option in options if option not in typed)])


def titles() -> dict[str, str]:
    """Flavor and role -> title, of every component there is; services are called after their flavor."""
    from matcha.registry import component_catalogue

    found: dict[str, str] = {}
    for role, flavors in component_catalogue().items():
        for flavor, component in flavors.items():
            found[flavor] = component.title
            found.setdefault(role, component.title)
    return found
