"""The model `credit` of `jobs/credit.py`, deployed: what it is asked, and what its two versions answer."""

from __future__ import annotations

from typing import Any

import httpx

from support.matcha import Matcha

ROWS = [{"income": 50.0, "age": 30}, {"income": 40.0, "age": 60}]
FIRST = [130.0, 140.0]  # 2 * income + age
SECOND = [1130.0, 1140.0]
BACK = 120.0  # seconds in which a server that was killed serves again


def body(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The V2 request for these rows."""
    size = len(rows)
    return {
        "inputs": [
            {"name": "income", "shape": [size, 1], "datatype": "FP64", "data": [r["income"] for r in rows]},
            {"name": "age", "shape": [size, 1], "datatype": "INT64", "data": [r["age"] for r in rows]},
        ]
    }


def answer(url: str, rows: list[dict[str, Any]] = ROWS) -> list[float]:
    """The predictions. Raises httpx.HTTPError for anything but an answer."""
    found = httpx.post(url, json=body(rows), timeout=60).raise_for_status()
    return [round(value, 6) for value in found.json()["outputs"][0]["data"]]


def answers(url: str, wanted: list[float]) -> bool:
    try:
        return answer(url) == wanted
    except httpx.HTTPError:
        return False


def deployed(stack: Matcha) -> dict[str, str]:
    """Name -> version, as the record of the stack has it."""
    return {d["name"]: d["version"] for model in stack.json("models") for d in model["deployments"]}


def at_version_one(stack: Matcha) -> None:
    if deployed(stack).get("credit") != "1":
        stack("deploy", "models:/credit/1")
