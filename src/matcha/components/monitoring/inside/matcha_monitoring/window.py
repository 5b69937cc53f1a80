"""One window: what was captured since the last one, compared with the reference, written down."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd

from . import calibration, captured, layout, reference
from .captured import Captured
from .columns import Pair, new_categories, out_of_range, pair
from .deployments import Deployed
from .reference import Reference
from .remark import VERDICTS
from .settings import Rules

PREDICTION = "prediction"
_SMALL_REFERENCE = 50

Window = dict[str, Any]


def make(data: Path, rules: Rules, order: dict[str, Any]) -> Window | None:
    """The new window; None without new rows.

    Only a verdict is written down. Without one (too few rows, no reference) the rows stay for the next, and
    `messages` say nothing of rows that are too few: the service does, which knows what stood before.
    """
    deployed = Deployed.of(order["deployed"])
    after = layout.cursor(data, deployed.name, deployed.version)
    parts = [p for p in layout.parts(data, deployed.name, deployed.version) if p.seq > after]
    if not parts:
        return None
    rows = captured.load(parts, rules.sample_rows)
    window = _start(deployed, rows, order, data)
    if rows.rows < rules.least(deployed.settings):
        return {**window, "status": "too-few"}
    name = f"{parts[-1].seq:012d}-{layout.safe(deployed.version)}"
    window |= _compare(data, deployed, rows, rules, name, order["mlflow"])
    if window["status"] in VERDICTS:
        file = data / "windows" / layout.safe(deployed.name) / f"{name}.json"
        layout.write_atomic(file, json.dumps(window).encode())
    return window


def _start(deployed: Deployed, rows: Captured, order: dict[str, Any], data: Path) -> Window:
    last = layout.windows(data, deployed.name, 1)
    dropped = order["dropped"] - (last[0].get("dropped_total", 0) if last else 0)
    return {
        "deployment": deployed.name,
        "version": deployed.version,
        "uri": deployed.uri,
        "run_id": deployed.run_id,
        "reference": deployed.compared,
        "made": _text(time.time()),
        "made_at": time.time(),
        "new": True,
        "waiting": 0,
        "window": {"from": _text(rows.first), "to": _text(rows.last), "rows": rows.rows},
        "status": "ok",
        "columns": [],
        "drifted": [],
        "dataset_drift": False,
        "prediction_drift": None,
        "dropped": max(0, dropped),
        "dropped_total": order["dropped"],
        "report": "",
        "messages": [],
    }


def _text(when: float) -> str:
    moment = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _compare(data: Path, deployed: Deployed, rows: Captured, rules: Rules, name: str, mlflow: str) -> Window:
    known = reference.load(data, deployed, mlflow)
    if known.frame is None or not len(known.frame):
        return {"status": "no-reference", "messages": list(known.messages) or ["The reference has no rows."]}
    frame = known.frame.head(rules.sample_rows)
    inputs, messages = _aligned(rows.inputs, known.inputs)
    pairs = [pair(c, frame[c], inputs[c]) for c in known.inputs if c in inputs]
    prediction = _prediction(known, frame, rows)
    if not any(p.comparable for p in pairs):
        messages.append("No captured input has the name of a column of the reference.")
        return {"status": "no-reference", "messages": [*known.messages, *messages]}
    report = data / "reports" / layout.safe(deployed.name) / f"{name}.html"
    everything = [*pairs, *([prediction] if prediction else [])]
    found = _judged(everything, len(frame), deployed, rules, report)
    messages += _size_messages(rows, len(frame), rules)
    result = _verdict(found, bool(prediction), [*known.messages, *messages])
    result["report"] = f"/reports/{layout.safe(deployed.name)}/{name}.html"
    return result


def _aligned(inputs: pd.DataFrame, wanted: tuple[str, ...]) -> tuple[pd.DataFrame, list[str]]:
    """One unnamed tensor of as many values as the reference has columns is taken in their order."""
    names = [str(c) for c in inputs]
    if (
        not set(names) & set(wanted)
        and len(names) == len(wanted)
        and names[-1].endswith(f"[{len(names) - 1}]")
    ):
        return inputs.set_axis(list(wanted), axis=1), []
    missing = [c for c in wanted if c not in names]
    extra = [c for c in names if c not in wanted]
    said = [(missing, "was not captured"), (extra, "is not in the reference")]
    return inputs, [f"{_listed(columns)} {what}." for columns, what in said if columns]


def _listed(names: list[str]) -> str:
    shown = ", ".join(n[:80] for n in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _prediction(known: Reference, frame: pd.DataFrame, rows: Captured) -> Pair | None:
    """Only where the training data itself held predictions: labels are spread wider than predictions."""
    if not known.prediction or rows.outputs.shape[1] != 1:
        return None
    found = pair(f"\0{PREDICTION}", frame[known.prediction], rows.outputs.iloc[:, 0])
    return found if found.comparable else None


def _judged(
    pairs: list[Pair], reference_rows: int, deployed: Deployed, rules: Rules, report: Path
) -> list[dict[str, Any]]:
    from . import drift

    comparable = [p for p in pairs if p.comparable]
    current_rows = max(len(p.current) for p in comparable)
    base = float(deployed.settings.get("drift_threshold") or rules.drift_threshold)
    limits = dict(
        calibration.thresholds(comparable, reference_rows, current_rows, base, rules.false_alarm_rate)
    )
    own = deployed.settings.get("thresholds") or {}
    limits |= {name: float(own[name]) for name in limits if name in own}
    partial = _partial(report)
    scores = drift.scores(comparable, limits, partial)
    partial.replace(report)
    return [_column(p, drift.method_of(p), scores.get(p.name), limits.get(p.name)) for p in pairs]


def _partial(report: Path) -> Path:
    report.parent.mkdir(parents=True, exist_ok=True)
    return report.with_name(f"{report.name}.tmp")


def _column(column: Pair, method: str, score: float | None, limit: float | None) -> dict[str, Any]:
    beyond = score is not None and limit is not None and score > limit
    return {
        "name": column.name,
        "kind": column.kind,
        "method": method if column.comparable else "",
        "score": None if score is None else round(score, 4),
        "threshold": None if limit is None else round(limit, 4),
        "drifted": beyond or column.gone,
        "reference_missing": round(column.reference_missing, 4),
        "current_missing": round(column.current_missing, 4),
        "new_categories": new_categories(column),
        "out_of_range": round(out_of_range(column), 4),
    }


def _size_messages(rows: Captured, reference_rows: int, rules: Rules) -> list[str]:
    said = []
    if rows.rows > rules.sample_rows:
        said.append(f"{rules.sample_rows} of {rows.rows} rows were drawn for the comparison.")
    if reference_rows < _SMALL_REFERENCE:
        said.append(f"The reference has {reference_rows} rows only: small shifts cannot be told from chance.")
    return said


def _verdict(found: list[dict[str, Any]], predicted: bool, messages: list[str]) -> Window:
    prediction = found.pop() if predicted else None
    if prediction:
        prediction["name"] = PREDICTION
    drifted = [c["name"] for c in found if c["drifted"]]
    lost = [c["name"] for c in found if c["drifted"] and c["current_missing"] > c["reference_missing"]]
    if lost:
        messages.append(f"Values are missing that the reference has: {_listed(lost)}.")
    drift = bool(drifted or (prediction and prediction["drifted"]))
    return {
        "status": "drift" if drift else "ok",
        "columns": found,
        "drifted": drifted,
        "dataset_drift": drift,
        "prediction_drift": prediction,
        "messages": messages,
    }
