"""What a stack offers: endpoints, names, variables. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from matcha.views.documents import Values
from matcha.views.text import Column, Line, Paper, Span, line, table

HIDDEN_NOTE = "Secrets are hidden; --show-sensitive shows them."


def get_lines(values: Values, paper: Paper) -> list[Line]:
    """Every resource with its properties below it; values are never cut."""
    lines: list[Line] = []
    for resource, properties in values.items():
        rows = [(Span(name, "dim"), Span(value)) for name, value in properties.items()]
        lines += [line()] if lines else []
        lines += [line(Span(resource, "bold"))]
        lines += table((Column(""), Column("")), rows, paper, indent="  ") if rows else []
    return lines


def env_text(variables: Mapping[str, str]) -> str:
    """Lines that a POSIX shell understands: `export NAME='value'`."""
    return "".join(f"export {name}={_quoted(value)}\n" for name, value in variables.items())


def _quoted(value: str) -> str:
    quoted = shlex.quote(value)
    return quoted if quoted.startswith("'") else f"'{quoted}'"
