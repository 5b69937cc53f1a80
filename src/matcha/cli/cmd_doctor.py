"""`matcha doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder

EXAMPLES = ("matcha doctor", "matcha doctor --fix")
Fix = Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")]


def command(
    fix: Fix = False,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> int:
    """Find out what is wrong here, and mend it. The exit code is 1 if something is wrong."""
    from matcha import api
    from matcha.views.upkeep import doctor_lines

    found = api.doctor(project_folder(project), target=target, fix=fix)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(doctor_lines(found, screen.paper()))
    return 0 if all(finding.ok for finding in found) else 1
