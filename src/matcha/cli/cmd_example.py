"""`matcha example list` and `matcha example get`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, epilog, shared
from matcha.cli.place import current
from matcha.views.text import Span, line

EXAMPLES = (
    "matcha example list",
    "matcha example get recommendation",
    "matcha example get recommendation movies",
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List or get a working example.",
    epilog=epilog(EXAMPLES),
    context_settings={"help_option_names": ["--help", "-h"]},
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="One of those that list shows.")]
Destination = Annotated[
    Path | None, typer.Argument(metavar="DEST", help="The folder to make; called after it otherwise.")
]


@app.command("list")
@shared
def list_examples(output: AsOutput = Output.text) -> None:
    """List the examples."""
    from matcha import api
    from matcha.views.documents import ExampleDocument
    from matcha.views.upkeep import example_lines

    found = [ExampleDocument(each.name, each.title) for each in api.examples()]
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.show(example_lines(found, screen.paper()))


@app.command("get")
@shared
def get_example(
    name: Name,
    destination: Destination = None,
    output: AsOutput = Output.text,
) -> None:
    """Copy an example into a folder of your own."""
    from matcha import api
    from matcha.views.documents import PathDocument

    current()  # a folder that was removed is told as such
    path = api.example(name, destination)
    if output == Output.json:
        screen.show_json(PathDocument(str(path)))
    else:
        screen.show(
            [line(f"Wrote {path}"), line(Span("Next: ", "bold"), f"cd {destination or name}; less README.md")]
        )
