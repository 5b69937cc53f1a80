"""`matcha monitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder

EXAMPLES = ("matcha monitor movie", "matcha monitor --check")
Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="What the model is served as; all without it.")
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Exit 1 when the verdict that stands is drift; 0 where there is none yet."),
]


def command(
    name: Name = None,
    check: Check = False,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> int:
    """Compare a model's traffic with its training data. Column by column."""
    from matcha import api
    from matcha.views.monitoring import monitor_lines

    with screen.waiting("Comparing traffic with the training data"):
        found = api.monitor(name, project=project_folder(project), target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(monitor_lines(found, screen.paper()))
    return 1 if check and any(report.drifts for report in found) else 0
