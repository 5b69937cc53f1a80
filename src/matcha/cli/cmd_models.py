"""`matcha models`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import first_step, project_folder

EXAMPLES = ("matcha models",)


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """List models, their versions and what is served."""
    from matcha import api
    from matcha.views.serving import models_lines

    folder = project_folder(project)
    with screen.waiting("Asking the experiment tracker for its models"):
        found = api.models(folder, target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(models_lines(found, screen.paper(), first_step(folder, target)))
