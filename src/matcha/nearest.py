"""The folder of a project, found from a folder within it. Imported at the start of every command."""

from __future__ import annotations

from pathlib import Path

FILE = "matcha.yaml"


def project(here: Path) -> Path | None:
    """The nearest folder upwards that has a matcha.yaml, `here` included."""
    return next((folder for folder in (here, *here.parents) if (folder / FILE).is_file()), None)
