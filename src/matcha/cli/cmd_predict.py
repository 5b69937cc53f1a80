"""`matcha predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from matcha.cli import screen
from matcha.cli.options import AsOutput, Output, Project, Target
from matcha.cli.place import project_folder
from matcha.errors import BadInput

EXAMPLES = (
    "matcha predict movie --input rows.csv",
    """matcha predict movie --json '[{"user_id": 1, "movie_id": 50}]'""",
    "cat rows.json | matcha predict movie -",
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the model is served as.")]
Source = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="The same as --input; - reads JSON from stdin."),
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="FILE", help="Rows: a .json, .csv or .parquet file.")
]
Json = Annotated[str | None, typer.Option("--json", metavar="TEXT", help="Rows: JSON objects in a list.")]


def command(
    name: Name,
    source: Source = None,
    from_file: Input = None,
    from_text: Json = None,
    project: Project = None,
    target: Target = None,
    output: AsOutput = Output.text,
) -> None:
    """Ask a served model for predictions."""
    from matcha import api
    from matcha.views.serving import prediction_text

    rows = _rows(name, [each for each in (source, from_file) if each is not None], from_text)
    found = api.predict(name, rows, project=project_folder(project), target=target)
    if output == Output.json:
        screen.show_json(found)
    else:
        screen.write(prediction_text(found))


def _rows(name: str, files: list[str], text: str | None) -> Path | list[dict[str, Any]]:
    """Raises BadInput unless exactly one source of rows is named."""
    if len(files) + (text is not None) != 1:
        raise BadInput(
            "Name the rows to predict, once.",
            details="A file, --json TEXT, or - for JSON on stdin.",
            resolution=f"matcha predict {name} --input rows.csv",
        )
    if text is None and files[0] != "-":
        return Path(files[0])
    from matcha.api.rows import from_json

    return from_json(sys.stdin.read(), "stdin") if text is None else from_json(text, "--json")
