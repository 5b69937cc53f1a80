"""`matcha open`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder

EXAMPLES = ("matcha open", "matcha open mlflow", "matcha open zenml --print")
Component = Annotated[
    str | None, typer.Argument(metavar="COMPONENT", help="Its role or its tool; the dashboard without it.")
]
Print = Annotated[bool, typer.Option("--print", help="Only print the address.")]


def command(
    component: Component = None,
    only_print: Print = False,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Open a component's page in the browser. Its address is printed as well."""
    from matcha import api
    from matcha.views.documents import UrlDocument

    url = api.url(component, project=project_folder(project), target=target)
    if output == Output.json:
        screen.show_json(UrlDocument(url))
        return
    screen.write(f"{url}\n")
    if not only_print and _has_display():
        import webbrowser

        webbrowser.open(url)


def _has_display() -> bool:
    """A browser in the terminal would take it over, so only one with a window counts."""
    if not sys.stdout.isatty():
        return False
    names = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in names)
