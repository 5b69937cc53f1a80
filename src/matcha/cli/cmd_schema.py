"""`matcha schema`: the JSON Schemas of what `--output json` writes."""

from __future__ import annotations

from typing import Annotated

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output
from matcha.errors import BadInput, suggest

EXAMPLES = ("matcha schema", "matcha schema status")
Name = Annotated[
    list[str] | None, typer.Argument(metavar="COMMAND", help="Whose document; the names of all without it.")
]


def command(name: Name = None, output: AsOutput = Output.text) -> None:
    """Show the JSON Schema of a command's JSON."""
    from matcha.views.documents import SCHEMAS, schema

    wanted = " ".join(name or ())
    if not wanted and output == Output.json:
        screen.show_json(list(SCHEMAS))
    elif not wanted:
        screen.write("".join(f"{each}\n" for each in SCHEMAS))
    elif wanted in SCHEMAS:
        screen.show_json(schema(wanted))
    else:
        raise BadInput(f'"{wanted}" has no JSON.', resolution=suggest(wanted, SCHEMAS))
