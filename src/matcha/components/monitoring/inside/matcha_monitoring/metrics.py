"""Prometheus text format, written by hand: a dozen lines against a library kept in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .deployments import Deployed
from .service import Service

TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float]


def render(service: Service) -> str:
    known = sorted(service.deployments.all().values(), key=lambda d: d.name)
    windows = [(d, w) for d in known if (w := service.newest(d)) and w.get("columns")]
    received = [({"deployment": d, "version": v}, n) for (d, v), n in sorted(service.received.items())]
    families = [
        ("rows_received_total", "counter", "Rows captured since the service started.", received),
        ("rows_stored", "gauge", "Captured rows kept.", [(_labels(d), service.stored(d)) for d in known]),
        (
            "rows_waiting",
            "gauge",
            "Rows no window holds yet.",
            [(_labels(d), service.waiting(d)) for d in known],
        ),
        (
            "captures_dropped_total",
            "counter",
            "Requests servers could not hand over.",
            [({}, service.ledger.dropped)],
        ),
        (
            "captures_unreadable_total",
            "counter",
            "Lines that could not be read.",
            [({}, service.ledger.unreadable)],
        ),
        ("drift_score", "gauge", "Drift score of a column in the newest window.", _columns(windows, "score")),
        (
            "drift_threshold",
            "gauge",
            "The score beyond which a column drifts.",
            _columns(windows, "threshold"),
        ),
        (
            "drifted",
            "gauge",
            "1 where the newest window drifts.",
            [(_labels(d), float(w["dataset_drift"])) for d, w in windows],
        ),
        (
            "window_timestamp_seconds",
            "gauge",
            "When the newest window was made.",
            [(_labels(d), w["made_at"]) for d, w in windows],
        ),
    ]
    return "".join(_family(f"matcha_monitoring_{name}", *rest) for name, *rest in families)  # type: ignore[arg-type]


def _labels(deployed: Deployed) -> dict[str, str]:
    return {"deployment": deployed.name, "version": deployed.version}


def _columns(windows: Iterable[tuple[Deployed, dict[str, object]]], value: str) -> list[Sample]:
    return [
        ({**_labels(deployed), "column": column["name"]}, column[value])
        for deployed, window in windows
        for column in window["columns"]  # type: ignore[attr-defined]
        if column[value] is not None
    ]


def _family(name: str, kind: str, about: str, samples: Iterable[Sample]) -> str:
    lines = "".join(f"{name}{_label_text(labels)} {value:.12g}\n" for labels, value in samples)
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n{lines}"


def _label_text(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
