"""`matcha undeploy`."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import folder_to_change
from matcha.views.text import line

EXAMPLES = ("matcha undeploy movie",)
Name = Annotated[str, typer.Argument(metavar="NAME", help="What it is served as.")]


def command(
    name: Name,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Stop serving a model; it stays in the registry."""
    from matcha import api
    from matcha.views.documents import DoneDocument

    folder = folder_to_change(project)
    with screen.progress(
        f"Undeploying {name}", plain=output == Output.json, resume="matcha provision"
    ) as display:
        api.undeploy(name, project=folder, target=target, emit=display.emit)
    if output == Output.json:
        screen.show_json(DoneDocument("undeploy", name))
    else:
        screen.show([line(f"{name} is not served any more; the model stays in the registry.")])
