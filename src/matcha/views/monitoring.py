"""What the monitor found: each column's score against its threshold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from matcha.api.types import ColumnReport, Report
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


def _columns(report: Report) -> list[ColumnReport]:
    return [*report.columns, *([report.prediction_drift] if report.prediction_drift else [])]


def _headline(report: Report, count: int) -> Line:
    word, style = VERDICTS.get(report.status, (report.status, ""))
    drifted = sum(1 for column in _columns(report) if column.drifted)
    of = f" in {drifted} of {plural(count, 'column')}" if drifted else ""
    version = f" version {report.version}" if report.version else ""
    return line(Span(f"{report.deployment}{version}: ", "bold"), Span(word + of, style))


def _circumstances(report: Report) -> list[str]:
    """Which rows were compared, and with what."""
    window = report.window
    if not window.rows:
        return []
    period = f"{plural(window.rows, 'row')}, {_moment(window.since)} to {_moment(window.until)} UTC"
    source = report.reference.source if report.reference else ""
    return [period, f"compared with {source or 'the training data'}"]


def _moment(text: str | None) -> str:
    """`2026-11-05T10:00:00Z` as `2026-11-05 10:00`."""
    return (text or "?").replace("T", " ")[:16]


def _messages(report: Report) -> list[str]:
    lost = [f"{plural(report.dropped, 'captured row')} had to be dropped."] if report.dropped else []
    return [*report.messages, *lost]


def _distance(column: ColumnReport) -> tuple[bool, float]:
    score, threshold = column.score, column.threshold
    return column.drifted, score / threshold if score is not None and threshold else 0.0


def _row(column: ColumnReport, paper: Paper) -> tuple[Span, ...]:
    score, threshold = column.score, column.threshold
    style: Style = "red" if column.drifted else "green"
    return (
        Span(column.name),
        Span("" if score is None else number(score)),
        Span(_bar(score, threshold, paper), style),
        Span("" if threshold is None else number(threshold), "dim"),
        Span(_remark(column), "red" if column.drifted else "dim"),
        Span(column.method, "dim"),
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


def _remark(column: ColumnReport) -> str:
    if column.score is None:
        return "no longer there" if column.drifted else "not compared"
    more_missing = column.current_missing > column.reference_missing + 0.005
    missing = f"{column.current_missing:.0%} missing" if more_missing else ""
    return ", ".join(filter(None, ("drift" if column.drifted else "", missing)))
