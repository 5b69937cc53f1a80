"""A plan, and what came of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from matcha.access import Output
from matcha.api.types import Provisioned
from matcha.planning import Plan, Step
from matcha.views.format import duration
from matcha.views.names import Titles, noun, title_of
from matcha.views.text import Column, Line, Paper, Span, Style, cells, fold, line, table, wrap

SYMBOLS: dict[str, tuple[str, Style]] = {
    "create": ("+", "green"),
    "update": ("~", "yellow"),
    "start": (">", "cyan"),
    "repair": ("!", "yellow"),
    "remove": ("-", "red"),
}
COLUMNS = (Column(""), Column(""), Column("", shrink=True), Column("", shrink=True))
INDENT = "  "
NARROWEST = 20  # cells for reasons, which are elided where there is less


def plan_lines(plan: Plan, titles: Titles, paper: Paper) -> list[Line]:
    """Every step with its reason, then the notes and how much stays as it is."""
    notes = [each for note in plan.notes for each in wrap(note, paper.width)]
    if not plan.steps:
        return [line(_same(plan)), *notes]
    rows = _folded([_row(step, titles) for step in plan.steps], paper)
    return [
        line(Span(f"Plan for stack {plan.stack} on {plan.target}: ", "bold"), _summary(plan)),
        line(),
        *table(COLUMNS, rows, paper, indent=INDENT),
        *([line(), *notes] if notes else []),
    ]


def _row(step: Step, titles: Titles) -> tuple[Span, ...]:
    symbol, style = SYMBOLS[step.action]
    return (
        Span(symbol, style),
        Span(step.action, style),
        Span(noun(step.key, titles)),
        Span(step.reason, "dim"),
    )


def _folded(rows: list[tuple[Span, ...]], paper: Paper) -> list[tuple[Span, ...]]:
    """With reasons that go on below themselves, where a line has room for some words of them."""
    before = sum(max(cells(row[i].text) for row in rows) + 2 for i in range(3)) + len(INDENT)
    if paper.width is None or (room := paper.width - before) < NARROWEST:
        return rows
    return [
        (*(row[:3] if not i else [Span("")] * 3), Span(part, row[3].style))
        for row in rows
        for i, part in enumerate(fold(row[3].text, room))
    ]


def _summary(plan: Plan) -> str:
    counts = Counter(step.action for step in plan.steps)
    parts = [f"{counts[action]} to {action}" for action in SYMBOLS if counts[action]]  # type: ignore[index]
    same = [f"{len(plan.unchanged)} unchanged"] if plan.unchanged else []
    return ", ".join(parts + same)


def provisioned_lines(result: Provisioned, titles: Titles, paper: Paper, first: str) -> list[Line]:
    """What was done, where everything answers, and what to type next: `first` where nothing is served yet."""
    if result.cancelled:
        return [line("Nothing was changed.")]
    done = f"Ready in {duration(result.seconds)}." if result.changed else _same(result.plan)
    unasked = () if result.plan.steps else result.plan.notes  # otherwise they were shown with the plan
    ends = endpoint_lines(result.outputs, titles, paper)
    return [
        line(Span(done, "green")),
        *(each for note in unasked for each in wrap(note, paper.width)),
        *([line(), *ends, line()] if ends else []),
        line(Span("Next: ", "bold"), "matcha status" if result.serves else first),
    ]


def _same(plan: Plan) -> str:
    return f"Nothing to do: stack {plan.stack} on {plan.target} is as it should be."


def endpoint_lines(outputs: Mapping[str, Mapping[str, Output]], titles: Titles, paper: Paper) -> list[Line]:
    """The main address of every resource that has one: its first property that a browser or client opens."""
    rows = []
    for role, properties in outputs.items():
        urls = [o.value for name, o in properties.items() if _is_address(name, o)]
        flavor = properties["flavor"].value if "flavor" in properties else role
        if urls:
            rows.append((Span(role), Span(title_of(flavor, titles)), Span(urls[0], "cyan")))
    return table((Column("", drop=1), Column(""), Column("")), rows, paper, indent="  ") if rows else []


def _is_address(name: str, output: Output) -> bool:
    return name.endswith("-url") and output.value.startswith("http") and not output.sensitive


def brief_lines(plan: Plan, paper: Paper) -> list[Line]:
    """The plan where nobody is asked: how much there is to do, and the notes."""
    notes = [each for note in plan.notes for each in wrap(note, paper.width)]
    return [line(f"Stack {plan.stack} on {plan.target}: {_summary(plan)}"), *notes]
