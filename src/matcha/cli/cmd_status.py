"""`matcha status`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder

EXAMPLES = ("matcha status", "matcha status --output json")


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> int:
    """Show how each component is.

    Its state, address, version and memory, and which deployed models do not answer. The exit code is 0 only
    if all are healthy and every model answers.
    """
    from matcha import api
    from matcha.views.statuses import status_lines

    found = api.status(project_folder(project), target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(status_lines(found, screen.paper()))
    return 0 if found.healthy else 1
