"""Which project a command is about, and what its parts are called."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from matcha.cli import screen
from matcha.errors import BadInput

FILE = "matcha.yaml"


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
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / FILE).is_file()), here)


def folder_inside(project: Path) -> Path:
    """The current folder where it is in the project, else the project's own."""
    here = Path.cwd().resolve()
    return here if here.is_relative_to(project.resolve()) else project


def folder_to_change(asked: Path | None) -> Path:
    """`project_folder`, said aloud where it is not the current one: the next thing done there may matter."""
    folder = project_folder(asked)
    if asked is None and folder != Path.cwd():
        screen.note(f"In {folder}, the nearest folder upwards with a {FILE}.")
    return folder


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
