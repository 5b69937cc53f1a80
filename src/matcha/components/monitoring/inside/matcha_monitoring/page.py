"""The page, for people: what is deployed, what was captured, which columns drift. No scripts.

Everything that came from outside goes through `_t`; nothing else puts text into the page.
"""

from __future__ import annotations

import datetime
import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import layout
from .deployments import Deployed
from .service import Service

SHOWN_COLUMNS = 12
SHOWN_WINDOWS = 30
_BAR = 200
_PLAIN_BELOW = 1e5
_VERDICTS = {
    "drift": ("bad", "Drift"),
    "ok": ("good", "No drift"),
    "no-reference": ("open", "Nothing to compare with"),
    "no-data": ("open", "No window yet"),
    "too-few": ("open", "Too few rows yet"),
}


def render(service: Service) -> str:
    known = sorted(service.deployments.all().values(), key=lambda d: d.name)
    cards = "".join(_card(service, d) for d in known)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="60">
<meta name="color-scheme" content="light dark">
<title>Monitoring - Matcha</title>
<link rel="stylesheet" href="/static/style.css">
</head>
<body>
<header><h1>Monitoring</h1>{_links(layout.read_json(service.data / "links.json") or {})}</header>
<main>
{_notices(service)}
{cards or _NOTHING}
</main>
<footer>As of {_moment(time.time())}. <a href="/metrics">Prometheus metrics</a></footer>
</body>
</html>
"""


_NOTHING = """<section class="card empty"><h2>No model is deployed yet</h2>
<p>Deploy one, and its traffic is captured from the first request:</p>
<pre>matcha deploy models:/NAME@ALIAS</pre></section>"""


_NO_WINDOW = """<p class="quiet">The first window is made by itself once enough rows came in,
or by <code>matcha monitor</code>.</p>"""


def _t(value: object) -> str:
    return html.escape(str(value), quote=True)


def _links(links: Mapping[str, Any]) -> str:
    items = "".join(f'<a href="{_t(url)}" rel="noreferrer">{_t(name)}</a>' for name, url in links.items())
    return f"<nav>{items}</nav>" if items else ""


def _notices(service: Service) -> str:
    ledger = service.ledger
    said = [_t(text) for text in service.notice()]
    if ledger.dropped:
        said.append(f"{_count(ledger.dropped, 'request')} could not be captured and were dropped.")
    if ledger.unreadable:
        said.append(f"{_count(ledger.unreadable, 'captured line')} could not be read.")
    if failure := ledger.failures.get(""):
        said.append(f"Taking captures in failed on {_moment(failure['at'])}: {_t(failure['message'])}")
    return "".join(f'<p class="notice">{text}</p>' for text in said)


def _card(service: Service, deployed: Deployed) -> str:
    window = service.newest(deployed)
    waiting = service.waiting(deployed)
    status, said = service.since(deployed, waiting)
    history = layout.windows(service.data, deployed.name, SHOWN_WINDOWS)
    return f"""<section class="card">
<div class="title"><h2>{_t(deployed.name)}</h2>{_verdict(window["status"] if window else status)}</div>
{_facts(service, deployed, window)}
{_paragraphs(said) if waiting or not window else ""}
{_failure(service.ledger.failures.get(deployed.name))}
{_window(window) if window else _NO_WINDOW if status in ("no-data", "too-few") else ""}
{_history(history)}
</section>
"""


def _verdict(status: str) -> str:
    kind, text = _VERDICTS.get(status, ("open", "?"))
    return f'<span class="verdict {kind}">{text}</span>'


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f'<p class="quiet">{_t(text)}</p>' for text in texts)


def _facts(service: Service, deployed: Deployed, window: Mapping[str, Any] | None) -> str:
    facts = [
        ("Version", _t(deployed.version or deployed.uri or "-")),
        ("Rows captured", f"{service.stored(deployed):,}"),
        ("Since the last window", f"{service.waiting(deployed):,}"),
        ("Compared with", _t(deployed.compared["source"] or "the training data")),
        ("Last window", _span(window) if window else "none yet"),
    ]
    return f"<dl>{''.join(f'<div><dt>{k}</dt><dd>{v}</dd></div>' for k, v in facts)}</dl>"


def _span(window: Mapping[str, Any]) -> str:
    rows = window["window"]
    first, last = _short(rows["from"]), _short(rows["to"])
    return f"{first if first == last else f'{first} to {last}'} UTC, {_count(rows['rows'], 'row')}"


def _short(text: object) -> str:
    return _t(str(text or "?").replace("T", " ")[:16])


def _moment(when: float) -> str:
    moment = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _failure(failure: Mapping[str, Any] | None) -> str:
    if not failure:
        return ""
    return f'<p class="notice">The window of {_moment(failure["at"])} failed: {_t(failure["message"])}</p>'


def _window(window: Mapping[str, Any]) -> str:
    said = "".join(f"<li>{_t(text)}</li>" for text in window["messages"])
    report = (
        f'<p><a href="{_t(window["report"])}">Full report of this window</a></p>' if window["report"] else ""
    )
    return _columns(window) + (f'<ul class="quiet">{said}</ul>' if said else "") + report


def _columns(window: Mapping[str, Any]) -> str:
    prediction = window.get("prediction_drift")
    columns = sorted([*window["columns"], *([prediction] if prediction else [])], key=_weight, reverse=True)
    shown = max(SHOWN_COLUMNS, sum(c["drifted"] for c in columns))
    if not columns:
        return ""
    first, rest = _table(columns[:shown]), columns[shown:]
    more = f"<details><summary>{len(rest)} more columns</summary>{_table(rest)}</details>" if rest else ""
    return first + more


def _weight(column: Mapping[str, Any]) -> tuple[bool, float]:
    score, threshold = column["score"], column["threshold"]
    return bool(column["drifted"]), score / threshold if score is not None and threshold else 0.0


def _table(columns: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(_row(c) for c in columns)
    heads = '<th>Column</th><th class="wide">Score against threshold</th><th>Score</th><th>Remarks</th>'
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _row(column: Mapping[str, Any]) -> str:
    kind = "bad" if column["drifted"] else "good"
    score = "-" if column["score"] is None else f"{_number(column['score'])}{_limit(column['threshold'])}"
    return (
        f'<tr class="{kind}"><th scope="row">{_t(column["name"]) or "(no name)"}</th>'
        f'<td class="wide">{_bar(column)}</td><td class="number">{score}</td>'
        f"<td>{'; '.join(_remarks(column))}</td></tr>"
    )


def _limit(threshold: float | None) -> str:
    return f' <span class="quiet">/ {_number(threshold)}</span>' if threshold else ""


def _number(value: float) -> str:
    """As `matcha monitor` shows it (`matcha.views.format.number`)."""
    return f"{value:.3f}" if abs(value) < _PLAIN_BELOW else f"{value:.2e}"


def _bar(column: Mapping[str, Any]) -> str:
    """The threshold stands in the middle, so bars of different columns compare."""
    score, threshold = column["score"], column["threshold"]
    if score is None or not threshold:
        return ""
    width = round(min(score / threshold / 2, 1) * _BAR)
    label = _t(f"{column['method']} {_number(score)}, threshold {_number(threshold)}")
    return (
        f'<svg class="bar" viewBox="0 0 {_BAR} 12" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">'
        f'<title>{label}</title><rect class="track" width="{_BAR}" height="12"/>'
        f'<rect class="score" width="{width}" height="12"/>'
        f'<rect class="limit" x="{_BAR // 2 - 1}" width="2" height="12"/></svg>'
    )


def _remarks(column: Mapping[str, Any]) -> Iterable[str]:
    if column["drifted"]:
        yield "<strong>drifted</strong>"
    if column["current_missing"] > column["reference_missing"] + 0.005:
        yield f"{column['current_missing']:.0%} missing (was {column['reference_missing']:.0%})"
    if column["new_categories"]:
        yield f"new: {_t(', '.join(column['new_categories'][:3]))}"
    if column["out_of_range"] > 0.005 and column["kind"] != "category":
        yield f"{column['out_of_range']:.0%} outside the range of the reference"


def _history(windows: Sequence[Mapping[str, Any]]) -> str:
    if len(windows) < 2:
        return ""
    rows = "".join(_past(w) for w in windows)
    return f"<details><summary>Earlier windows</summary><ul class='past'>{rows}</ul></details>"


def _past(window: Mapping[str, Any]) -> str:
    drifted = window["drifted"]
    names = ", ".join(drifted[:5]) + (f" and {len(drifted) - 5} more" if len(drifted) > 5 else "")
    link = f' <a href="{_t(window["report"])}">report</a>' if window["report"] else ""
    what = f"{_span(window)}, version {_t(window['version'])} {_t(names)}"
    return f"<li>{_verdict(window['status'])} {what}{link}</li>"
