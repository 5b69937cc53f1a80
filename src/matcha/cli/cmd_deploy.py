"""`matcha deploy`."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import folder_to_change

EXAMPLES = (
    "matcha deploy models:/movie@champion",
    "matcha deploy models:/credit/3 --name credit --sensitive age_group",
    "matcha deploy models:/credit/3 --dedicated",
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Any MLflow model URI.")]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="What to serve it as; the model's own otherwise.")
]
Sensitive = Annotated[
    list[str] | None,
    typer.Option("--sensitive", metavar="COLUMN", help="A column to watch for bias; can be repeated."),
]
Dedicated = Annotated[
    bool, typer.Option("--dedicated", help="Serve it by a process of its own, which serves no other model.")
]


def command(
    model: Model,
    name: Name = None,
    sensitive: Sensitive = None,
    dedicated: Dedicated = False,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Serve a model under a name. Loading a model runs its code: deploy what you trust."""
    from matcha import api
    from matcha.views.serving import deploy_lines

    folder = folder_to_change(project)
    with screen.progress(
        f"Deploying {model}", plain=output == Output.json, mend="matcha provision"
    ) as display:
        result = api.deploy(
            model,
            name=name,
            sensitive=sensitive or (),
            dedicated=dedicated,
            project=folder,
            target=target,
            emit=display.emit,
        )
    if output == Output.json:
        screen.show_json(result)
    else:
        screen.show(deploy_lines(result, screen.paper()))
