"""The table, for a terminal and as Markdown, and the raw figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.figures import Row
from benchmarks.machine import Machine

HEAD = ("subject", "what", "Matcha", "bare", "figure", "budget", "met", "rounds")
MEANING = (
    "Medians of interleaved rounds. A ratio is the median of the rounds' own ratios, Matcha to bare, "
    "a difference likewise; load is the load average over a minute before the first measurement."
)


def machine_line(machine: Machine) -> str:
    return (
        f"{machine.when}: {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.system}, "
        f"Python {machine.python}, load {machine.load:g} before"
    )


def cells(row: Row) -> tuple[str, ...]:
    kind = row.budget.kind if row.budget else ("ratio" if row.bare else "value")
    figure = row.ratio if kind == "ratio" else row.figure
    return (
        row.subject,
        row.what,
        _with_unit(median(row.ours), row.unit),
        _with_unit(median(row.bare), row.unit) if row.bare else "",
        f"{figure:.2f} x" if kind == "ratio" else _with_unit(figure, row.unit),
        _budget(row),
        {True: "yes", False: "NO", None: ""}[row.met],
        str(len(row.ours)),
    )


def line(row: Row) -> str:
    return "  ".join(filter(None, cells(row)[1:]))


def _budget(row: Row) -> str:
    if row.budget is None:
        return ""
    unit = "x" if row.budget.kind == "ratio" else row.unit
    more = "+" if row.budget.kind == "difference" else ""
    return f"{row.budget.limit} {more}{row.budget.than:g} {unit}"


def _with_unit(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def text(machine: Machine, weather: str, rows: Sequence[Row]) -> str:
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    table = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join([f"{machine_line(machine)}; {weather}", "", *table])


def markdown(machine: Machine, weather: str, rows: Sequence[Row]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *map(cells, rows)]
    table = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([f"{machine_line(machine)}; {weather}.", "", *table, "", MEANING, ""])


def save(folder: Path, name: str, machine: Machine, weather: str, rows: Sequence[Row]) -> list[Path]:
    """NAME.md and NAME.json in `folder`, written over where they exist."""
    folder.mkdir(exist_ok=True)
    raw = {"machine": asdict(machine), "weather": weather, "rows": [asdict(row) for row in rows]}
    table, figures = folder / f"{name}.md", folder / f"{name}.json"
    table.write_text(markdown(machine, weather, rows))
    figures.write_text(json.dumps(raw, indent=1) + "\n")
    return [table, figures]
