"""Environments that are broken: found when a service dies for want of a module, and installed anew."""

from __future__ import annotations

import re
from pathlib import Path

from matcha.errors import ComponentFailed
from matcha.events import Emit, Event, silent
from matcha.service import Environment
from matcha.targets.local.home import Stack
from matcha.targets.local.installer import Installer, Telling
from matcha.targets.local.notes import EnvironmentNote

# What Python says of a module, or of a part of one, that is not there or cannot be loaded.
_LACKS = re.compile(r"ModuleNotFoundError|ImportError|No module named|cannot open shared object file")


def broken(stack: Stack, installer: Installer, environment: Environment, error: ComponentFailed) -> str:
    """What of its environment the service of that error died of; empty where it was something else.

    Looking costs up to a second, so only a log that ends with such words is reason to.
    """
    note = stack.notes.environment(environment.name)
    if note is None or not _LACKS.search(error.details):
        return ""
    return installer.damage(Path(note.path))


def reinstall(
    stack: Stack, installer: Installer, environment: Environment, why: str, emit: Emit = silent
) -> None:
    """The environment anew, and noted where it is now."""
    said = f"The environment of {environment.name} is broken: {why}. Installing it anew."
    emit(Event(f"environment/{environment.name}", "note", said))
    folder = installer.repair(environment, Telling(environment.name, emit))
    kept = EnvironmentNote(name=environment.name, digest=environment.digest, path=str(folder))
    stack.notes.keep(kept)
