"""`matcha init`."""

from __future__ import annotations

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import current
from matcha.views.text import Span, line

EXAMPLES = ("matcha init",)


def command(
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Write a matcha.yaml that explains what can be set."""
    from matcha import api
    from matcha.views.documents import PathDocument

    path = api.init(project or current(), target=target)
    if output == Output.json:
        screen.show_json(PathDocument(path))
    else:
        screen.show([line(f"Wrote {path}"), line(Span("Next: ", "bold"), "matcha provision")])
