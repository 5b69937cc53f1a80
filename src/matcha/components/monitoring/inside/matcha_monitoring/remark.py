"""Why there is no verdict, or none on what came since the last one, in words. Pure."""

from __future__ import annotations

from typing import Any

from .deployments import Deployed

Remark = dict[str, Any]
VERDICTS = ("ok", "drift")


def of(window: dict[str, Any]) -> Remark:
    """What to remember of a window that had rows enough and gave no verdict."""
    return {key: window[key] for key in ("version", "uri", "reference", "status", "messages")}


def since(
    deployed: Deployed, rows: int, needs: int, noted: Remark | None, *, stands: bool
) -> tuple[str, list[str]]:
    """Status of the rows since the last window, and why they have no verdict.

    `noted` is what `of` made of the last attempt; `stands` is whether an earlier verdict does.
    """
    if not rows:
        return "no-data", ["No rows were captured since."] if stands else [_none(deployed, "no rows yet.")]
    if rows < needs:
        return "too-few", [_few(deployed, rows, needs, stands)]
    if noted and _is_of(noted, deployed):
        return noted["status"], _uncompared(rows, noted["messages"], stands)
    waiting = f"{_rows(rows)} since wait for the next window."
    return "no-data", [waiting if stands else _none(deployed, f"{_rows(rows)} wait for the first window.")]


def _few(deployed: Deployed, rows: int, needs: int, stands: bool) -> str:
    if stands:
        return f"{_rows(rows)} since, too few for a verdict yet (needs {needs:,})."
    return _none(deployed, f"{_rows(rows)} so far, too few (needs {needs:,}).")


def _none(deployed: Deployed, why: str) -> str:
    return f"{f'Version {deployed.version}' if deployed.version else 'The model'} has no verdict yet: {why}"


def _is_of(noted: Remark, deployed: Deployed) -> bool:
    known = (deployed.version, deployed.uri, deployed.artifact)
    return (noted.get("version"), noted.get("uri"), (noted.get("reference") or {}).get("artifact")) == known


def _uncompared(rows: int, messages: list[str], stands: bool) -> list[str]:
    return [f"{_rows(rows)} since, without a verdict:", *messages] if stands else list(messages)


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def nothing(deployed: Deployed, dropped: int) -> dict[str, Any]:
    """A report without a window."""
    return {
        "deployment": deployed.name,
        "version": deployed.version,
        "reference": deployed.compared,
        "window": {"from": None, "to": None, "rows": 0},
        "columns": [],
        "drifted": [],
        "dataset_drift": False,
        "prediction_drift": None,
        "dropped": dropped,
        "report": "",
    }
