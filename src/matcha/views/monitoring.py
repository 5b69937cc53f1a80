"""What the monitor found: each column's score against its threshold. Pure.

A report is the monitoring service's own document (see `documents.Report`); whatever it lacks is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matcha.views.format import number, plural
from matcha.views.text import Column, Line, Paper, Span, Style, line, table, wrap

BAR = 24  # cells; the threshold stands in the middle
VERDICTS: dict[str, tuple[str, Style]] = {
    "ok": ("no drift", "green"),
    "drift": ("drift", "red"),
    "no-data": ("no traffic yet", "yellow"),
    "no-reference": ("nothing to compare with", "yellow"),
    "too-few": ("too few rows", "yellow"),
}
COLUMNS = (
    Column("column", shrink=True),
    Column("score", right=True),
    Column("", drop=2),
    Column("threshold", right=True),
    Column(""),
    Column("method", drop=3),
)

Report = Mapping[str, Any]


def drifts(report: Report) -> bool:
    """Whether a column, or the predictions, drift in this window."""
    return bool(report.get("dataset_drift") or report.get("drifted"))


def monitor_lines(reports: Sequence[Report], paper: Paper) -> list[Line]:
    lines: list[Line] = []
    for report in reports:
        lines += [line()] if lines else []
        lines += report_lines(report, paper)
    return lines


def report_lines(report: Report, paper: Paper) -> list[Line]:
    """One window: the verdict, where its rows are from, a bar a column, and what else is to be said."""
    columns = sorted(_columns(report), key=_distance, reverse=True)
    said = [each for text in _messages(report) for each in wrap(text, paper.width)]
    rows = [_row(column, paper) for column in columns]
    return [
        _headline(report, len(columns)),
        *(line(Span(part, "dim")) for part in _circumstances(report)),
        *([line(), *table(COLUMNS, rows, paper)] if rows else []),
        *([line(), *said] if said else []),
    ]


def _columns(report: Report) -> list[Mapping[str, Any]]:
    prediction = report.get("prediction_drift")
    return [*report.get("columns", ()), *([prediction] if prediction else [])]


def _headline(report: Report, count: int) -> Line:
    word, style = VERDICTS.get(report["status"], (report["status"], ""))
    drifted = sum(1 for column in _columns(report) if column["drifted"])
    of = f" in {drifted} of {plural(count, 'column')}" if drifted else ""
    version = f" version {report['version']}" if report.get("version") else ""
    return line(Span(f"{report['deployment']}{version}: ", "bold"), Span(word + of, style))


def _circumstances(report: Report) -> list[str]:
    """Which rows were compared, and with what."""
    window = report.get("window") or {}
    if not window.get("rows"):
        return []
    period = f"{plural(window['rows'], 'row')}, {_moment(window['from'])} to {_moment(window['to'])} UTC"
    source = (report.get("reference") or {}).get("source")
    return [period, f"compared with {source or 'the training data'}"]


def _moment(text: str | None) -> str:
    """`2026-11-05T10:00:00Z` as `2026-11-05 10:00`."""
    return (text or "?").replace("T", " ")[:16]


def _messages(report: Report) -> list[str]:
    dropped = report.get("dropped", 0)
    lost = [f"{plural(dropped, 'captured row')} had to be dropped."] if dropped else []
    return [*report.get("messages", ()), *lost]


def _distance(column: Mapping[str, Any]) -> tuple[bool, float]:
    score, threshold = column.get("score"), column.get("threshold")
    return bool(column["drifted"]), score / threshold if score is not None and threshold else 0.0


def _row(column: Mapping[str, Any], paper: Paper) -> tuple[Span, ...]:
    score, threshold = column.get("score"), column.get("threshold")
    style: Style = "red" if column["drifted"] else "green"
    return (
        Span(column["name"]),
        Span("" if score is None else number(score)),
        Span(_bar(score, threshold, paper), style),
        Span("" if threshold is None else number(threshold), "dim"),
        Span(_remark(column), "red" if column["drifted"] else "dim"),
        Span(column.get("method", ""), "dim"),
    )


def _bar(score: float | None, threshold: float | None, paper: Paper) -> str:
    if score is None or not threshold:
        return ""
    full, mark = ("█", "│") if paper.unicode else ("#", "|")
    half = BAR // 2
    filled = round(min(half * score / threshold, BAR))
    filled = max(filled, half + 1) if score > threshold else min(filled, half)
    before = full * min(filled, half)
    return f"{before:<{half}}{mark}{full * (filled - half):<{half}}"


def _remark(column: Mapping[str, Any]) -> str:
    if column.get("score") is None:
        return "no longer there" if column["drifted"] else "not compared"
    more_missing = column.get("current_missing", 0) > column.get("reference_missing", 0) + 0.005
    missing = f"{column['current_missing']:.0%} missing" if more_missing else ""
    return ", ".join(filter(None, ("drift" if column["drifted"] else "", missing)))
