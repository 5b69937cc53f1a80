"""What is wrong, what goes away, what there is to try. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matcha.api.types import Destroyed, Destruction, Finding
from matcha.views.documents import ExampleDocument
from matcha.views.format import plural
from matcha.views.text import Column, Line, Paper, Span, cells, line, table, wrap

MOST_LISTED = 12  # lines of what goes; more are counted by kind
MOST_NAMED = 3  # of one kind that is counted
_NAMED = re.compile(r"[A-Z][A-Za-z]+ [a-z0-9.-]+")


def doctor_lines(findings: Sequence[Finding], paper: Paper) -> list[Line]:
    """A line a check; what is wrong also with the mend."""
    width = max((cells(f.check) for f in findings), default=0)
    lines = [each for finding in findings for each in _finding(finding, width, paper)]
    return [*lines, line(), *_summary(findings)]


def _finding(finding: Finding, width: int, paper: Paper) -> list[Line]:
    indent = " " * (width + 4)
    room = None if paper.width is None else max(paper.width, len(indent) + 20)
    text = [each[0].text.strip() for each in wrap(finding.message, room, indent)]
    fix = wrap(f"Fix: {finding.fix}", room, indent) if finding.fix and not finding.ok else []
    first, rest = text[0], [line(indent + each) for each in text[1:]]
    name = finding.check + " " * (width - cells(finding.check))
    return [line(_mark(finding, paper), f" {name}  {first}"), *rest, *fix]


def _mark(finding: Finding, paper: Paper) -> Span:
    if finding.fixed:
        return Span("✓" if paper.unicode else "+", "yellow")
    if not finding.checked:
        return Span("?", "yellow")
    if finding.ok:
        return Span("✓" if paper.unicode else "+", "green")
    return Span("✗" if paper.unicode else "x", "red")


def _summary(findings: Sequence[Finding]) -> list[Line]:
    wrong = [f for f in findings if not f.ok]
    fixed = sum(1 for f in findings if f.fixed)
    mended = f" {plural(fixed, 'problem')} mended." if fixed else ""
    unchecked = sum(1 for f in findings if not f.checked)
    unsure = f" {plural(unchecked, 'check')} could not be made." if unchecked else ""
    if not wrong:
        well = "Nothing wrong was found." if unchecked else "All is well."
        return [line(Span(f"{well}{mended}{unsure}", "yellow" if unchecked else "green"))]
    said = [line(Span(f"{plural(len(wrong), 'problem')} found.{mended}{unsure}", "red"))]
    fixable = any(f.fixable for f in wrong)
    return [*said, *([line(Span("Next: ", "bold"), "matcha doctor --fix")] if fixable else [])]


def destruction_lines(going: Destruction, where: str) -> list[Line]:
    """What destroy would remove, and what would be lost with it."""
    lost = [line(f"  - {each}") for each in going.holdings]
    return [
        line(Span(f"This removes {where}:", "bold")),
        *(line(f"  - {each}") for each in condensed(going.belongings)),
        *([line(), line(Span("It may hold the only copy of:", "red")), *lost] if lost else []),
        line(),
    ]


def condensed(things: Sequence[str]) -> list[str]:
    """Many things of the form `Kind name` as one line a kind, in the order of the kinds; few as they are."""
    if len(things) <= MOST_LISTED:
        return list(things)
    kinds: dict[str, list[str]] = {}
    for thing in things:
        kind = thing.partition(" ")[0] if _NAMED.fullmatch(thing) else thing
        kinds.setdefault(kind, []).append(thing)
    return [_condensed(kind, alike) for kind, alike in kinds.items()]


def _condensed(kind: str, alike: Sequence[str]) -> str:
    if len(alike) == 1:
        return alike[0]
    several = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    names = ", ".join(thing.partition(" ")[2] for thing in alike)
    return f"{len(alike)} {several}" + (f": {names}" if len(alike) <= MOST_NAMED else "")


def destroyed_lines(result: Destroyed, *, listed: bool = False) -> list[Line]:
    """What was removed, unless it was `listed` before, and that it is gone."""
    if result.cancelled:
        return [line("Nothing was removed.")]
    kept = _kept_lines(result.kept)
    if result.nothing:
        return [line(f"There is nothing {'else ' if kept else ''}to destroy."), *kept]
    return [
        *(line(f"  - {each}") for each in condensed(result.removed) if not listed),
        line(_end(result)),
        *kept,
    ]


def _end(result: Destroyed) -> Span:
    """`unproved` was said as notes by then."""
    end = "nothing else of the stack is left" if result.kept else "nothing of the stack is left"
    if result.unproved:
        return Span(f"Removed. As far as it could be checked (see the notes), {end}.", "yellow")
    return Span(f"Removed, and checked: {end}.", "green")


def _kept_lines(kept: Sequence[str]) -> list[Line]:
    if not kept:
        return []
    said = "Kept, with all data (matcha destroy --delete-data removes it):"
    return [line(), line(said), *(line(f"  - {each}") for each in condensed(kept))]


def example_lines(examples: Sequence[ExampleDocument], paper: Paper) -> list[Line]:
    rows = [(Span(e.name, "bold"), Span(e.title)) for e in examples]
    columns = (Column("example"), Column("what it shows", shrink=True))
    name = examples[0].name if examples else "NAME"
    return [*table(columns, rows, paper), line(), line(Span("Next: ", "bold"), f"matcha example get {name}")]
