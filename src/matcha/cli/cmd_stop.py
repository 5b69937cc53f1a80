"""`matcha stop`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import folder_to_change
from matcha.views.text import Span, line

EXAMPLES = ("matcha stop",)


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Stop every process and keep all data."""
    from matcha import api
    from matcha.views.documents import DoneDocument

    folder = folder_to_change(project)
    with screen.progress("Stopping", plain=output == Output.json, resume="matcha stop") as display:
        api.stop(folder, target=target, emit=display.emit)
    if output == Output.json:
        screen.show_json(DoneDocument("stop"))
    else:
        screen.show([line("Stopped; all data is kept."), line(Span("Next: ", "bold"), "matcha start")])
