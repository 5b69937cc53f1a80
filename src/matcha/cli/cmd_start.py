"""`matcha start`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import first_step, folder_to_change, titles

EXAMPLES = ("matcha start",)


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Bring a stopped stack back with its data. After a reboot, too."""
    from matcha import api
    from matcha.views import documents
    from matcha.views.plans import provisioned_lines

    folder = folder_to_change(project)
    with screen.progress("Starting", plain=output == Output.json, resume="matcha start") as display:
        result = api.start(folder, target=target, emit=display.emit)
    if output == Output.json:
        screen.show_json(documents.provisioned(result))
    else:
        screen.show(provisioned_lines(result, titles(), screen.paper(), first_step(folder, target)))
