"""`matcha logs`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen, streams
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES = ("matcha logs", "matcha logs mlflow --follow", "matcha logs model-deployer --lines 20")
Component = Annotated[
    str | None, typer.Argument(metavar="COMPONENT", help="Its role or its tool; all without it.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")]
Lines = Annotated[
    int,
    typer.Option(
        "--lines", "-n", min=0, metavar="N", show_default=False, help="How many old lines of each; 100."
    ),
]


def command(
    component: Component = None,
    follow: Follow = False,
    lines: Lines = 100,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Show what the components wrote."""
    from matcha import api

    found = api.logs(component, project=project_folder(project), target=target, lines=lines, follow=follow)
    pour(_texts(found, output, prefixed=component is None))


def pour(texts: Iterable[str]) -> None:
    """Write them all, or as many as whoever reads wants."""
    try:
        for text in texts:
            screen.write(text)
        sys.stdout.flush()
    except streams.Lost as lost:
        if not lost.hung_up:
            raise
        streams.drop_stdout()  # as `head` does who has enough: it got what it wanted


def _texts(found: Iterable[tuple[str, str]], output: Output, *, prefixed: bool) -> Iterable[str]:
    from matcha.views.documents import LogLine, to_json_line

    for service, each in found:
        if output == Output.json:
            yield to_json_line(LogLine(service, each))
        else:
            yield f"{service:<12} | {each}\n" if prefixed else f"{each}\n"
