"""The condition of a stack. Pure."""

from __future__ import annotations

from matcha.api.types import ComponentStatus, FoundationStatus, StackStatus
from matcha.views.format import duration, plural, size
from matcha.views.text import Column, Line, Paper, Span, Style, line, table, wrap

Part = ComponentStatus | FoundationStatus
STYLES: dict[str, Style] = {
    "running": "green",
    "present": "green",
    "starting": "yellow",
    "stopped": "dim",
    "absent": "dim",
    "unhealthy": "red",
    "failed": "red",
}
WORDS = {"present": "ready", "absent": "missing"}
COLUMNS = (
    Column("component", shrink=True),
    Column("state"),
    Column("address"),
    Column("version", drop=1),
    Column("memory", right=True, drop=2),
    Column("uptime", right=True, drop=3),
    Column("restarts", right=True, drop=4),
)
REPLICAS = Column("replicas", right=True)  # where there is a component that may have several


def status_lines(status: StackStatus, paper: Paper) -> list[Line]:
    """A row a component, then what is said of those, and of deployed models, that are not well."""
    scaled = any(component.replicas for component in status.components)
    columns = (*COLUMNS[:2], REPLICAS, *COLUMNS[2:]) if scaled else COLUMNS
    rows = [_row(each, scaled=scaled) for each in _parts(status)]
    return [
        line(f"Stack {status.stack} on {status.target}: ", _verdict(status)),
        *([line(f"Being changed by {status.lock}.")] if status.lock else []),
        *(each for note in status.notes for each in wrap(note, paper.width)),
        line(),
        *table(columns, rows, paper),
        *_complaints(status, paper),
    ]


def _verdict(status: StackStatus) -> Span:
    if status.healthy:
        return Span("healthy", "green")
    if status.phase == "stopped":
        return Span("stopped", "yellow")
    parts = _parts(status)
    if ill := sum(1 for part in parts if not part.healthy):
        return Span(f"{ill} of {len(parts)} not healthy", "red")
    if silent := sum(1 for model in status.models if not model.healthy):
        return Span(f"{plural(silent, 'model')} {'does' if silent == 1 else 'do'} not answer", "red")
    return Span("unfinished", "yellow")


def _row(component: Part, *, scaled: bool) -> tuple[Span, ...]:
    up = component.uptime > 0 or component.memory >= 0  # a process that has just begun has run for no second
    return (
        Span(_title(component)),
        Span(WORDS.get(component.condition, component.condition), STYLES[component.condition]),
        *([_replicas(component)] if scaled else []),
        Span(component.address if isinstance(component, ComponentStatus) else ""),
        Span(component.version if isinstance(component, ComponentStatus) else ""),
        Span(size(component.memory)),
        Span(duration(component.uptime) if up else ""),
        Span(str(component.restarts) if up or component.restarts else ""),
    )


def _replicas(component: Part) -> Span:
    if not isinstance(component, ComponentStatus) or component.replicas is None:
        return Span("")
    ready, wanted = component.replicas
    return Span(f"{ready}/{wanted}", "" if ready >= wanted else "yellow")


def _parts(status: StackStatus) -> list[Part]:
    return [*status.components, *status.foundations]


def _title(part: Part) -> str:
    return part.title if isinstance(part, ComponentStatus) else part.name


def _complaints(status: StackStatus, paper: Paper) -> list[Line]:
    """What is wrong, and what others changed of that which is well."""
    said = [f"{_title(p)}: {p.detail}" for p in _parts(status) if p.detail]
    said += [f"Model {m.name}: {m.detail}" for m in status.models if not m.healthy]
    lines = [each for text in said for each in wrap(text, paper.width)]
    resolution = next_command(status)
    return [
        *([line(), *lines] if lines else []),
        *([line(), line(Span("Next: ", "bold"), resolution)] if resolution else []),
    ]


def next_command(status: StackStatus) -> str:
    """What mends the stack; empty where nothing needs mending."""
    parts = _parts(status)
    changed = any(part.healthy and part.detail for part in parts)
    if status.healthy and not changed:
        return ""
    if status.lock:
        return "matcha status, once that change is done"
    ill = [p for p in parts if not p.healthy]
    others = [p.resolution for p in ill if p.resolution]
    # what is no command of Matcha has to be done first: until then a provision is refused
    if bars := [each for each in others if not each.startswith("matcha ")]:
        return bars[0]
    if status.phase == "stopped":
        return "matcha start"
    silent = any(not model.healthy for model in status.models)
    if others and len(others) == len(ill) and not silent and not changed and status.phase == "ready":
        return others[0]
    return "matcha provision"
