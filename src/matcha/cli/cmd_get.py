"""`matcha get`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutputWithYaml, OutputWithYaml, Project, ShowSensitive, Target
from matcha.cli.place import project_folder

if TYPE_CHECKING:
    from matcha.views.documents import Values

EXAMPLES = (
    "matcha get",
    "matcha get experiment-tracker tracking-url",
    "matcha get pipeline --show-sensitive --output json",
)
Resource = Annotated[
    str | None, typer.Argument(metavar="RESOURCE", help="Such as experiment-tracker.", show_default=False)
]
Property = Annotated[
    str | None,
    typer.Argument(metavar="PROPERTY", help="Such as tracking-url: its bare value.", show_default=False),
]


def command(
    resource: Resource = None,
    prop: Property = None,
    project: Project = None,
    target: Target = None,
    output: AsOutputWithYaml = OutputWithYaml.text,
    show_sensitive: ShowSensitive = False,
) -> None:
    """Show the stack's endpoints, names and secrets."""
    from matcha import api
    from matcha.views import documents, outputs

    found = api.get(resource, prop, project=project_folder(project), target=target)
    _show(documents.values(found, show=show_sensitive), output, bare=prop is not None)
    if documents.hides(found, show=show_sensitive) and output == OutputWithYaml.text:
        screen.note(outputs.HIDDEN_NOTE)


def _show(values: Values, output: OutputWithYaml, *, bare: bool) -> None:
    from matcha.views import documents, outputs

    if output == OutputWithYaml.json:
        screen.show_json(values)
    elif output == OutputWithYaml.yaml:
        screen.write(documents.to_yaml(values))
    elif bare:
        screen.write("".join(f"{value}\n" for properties in values.values() for value in properties.values()))
    else:
        screen.show(outputs.get_lines(values, screen.paper()))
