"""`matcha tokens create`, `matcha tokens list` and `matcha tokens revoke`."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target, epilog, shared
from matcha.cli.place import folder_to_change, project_folder

EXAMPLES = (
    "matcha tokens create shop --model recommendation --expires 90",
    "matcha tokens list",
    "matcha tokens revoke shop",
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list or revoke tokens of applications.",
    epilog=epilog(EXAMPLES),
    context_settings={"help_option_names": ["--help", "-h"]},
)
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME", help="A deployment that it may ask; again for more. [default: all]"
    ),
]
Expires = Annotated[
    int | None, typer.Option("--expires", metavar="DAYS", help="When it ends. [default: never]")
]


@app.command("create")
@shared
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the application.")],
    models: Models = None,
    expires: Expires = None,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Make a token, which is shown once."""
    from matcha import api
    from matcha.views.tokens import new_token_lines

    folder = folder_to_change(project)
    with screen.progress("Making a token", plain=output == Output.json) as display:
        made = api.create_token(
            name, models=models or (), expires=expires, project=folder, target=target, emit=display.emit
        )
    if output == Output.json:
        screen.show_json(made)
    else:
        screen.show(new_token_lines(made, screen.paper()))


@app.command("list")
@shared
def list_tokens(project: Project = None, target: Target = None, output: AsOutput = Output.text) -> None:
    """List tokens, without what is secret of them."""
    from matcha import api
    from matcha.views.tokens import tokens_lines

    folder = project_folder(project)
    with screen.waiting("Looking for tokens"):
        found = api.tokens(folder, target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(tokens_lines(found, screen.paper()))


@app.command("revoke")
@shared
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="One of those that list shows.")],
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """End a token."""
    from matcha import api
    from matcha.views.tokens import revoked_lines

    folder = folder_to_change(project)
    with screen.progress(f"Revoking {name}", plain=output == Output.json) as display:
        revoked = api.revoke_token(name, project=folder, target=target, emit=display.emit)
    if output == Output.json:
        screen.show_json(revoked)
    else:
        screen.show(revoked_lines(revoked, screen.paper()))
