"""What a cluster's admission (webhooks, policies) makes of what Matcha applies: kept as marks on the object.

It is no drift: Matcha would apply the same again, and get the same again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from matcha.targets.kubernetes.compare import differences
from matcha.targets.kubernetes.names import ADMITTED


def left(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, str]:
    """Path of each difference -> its mark."""
    return {each.path: each.mark for each in differences(wanted, live)}


def noted(live: Mapping[str, Any]) -> dict[str, str]:
    """As `left` was when the object was last applied; empty where what is noted cannot be read."""
    raw = (live["metadata"].get("annotations") or {}).get(ADMITTED, "")
    try:
        return msgspec.json.decode(raw, type=dict[str, str]) if raw else {}
    except msgspec.MsgspecError:
        return {}


def note(marks: Mapping[str, str]) -> str | None:
    """The annotation; None for an object that is as it was applied."""
    return msgspec.json.encode(marks, order="sorted").decode() if marks else None


def drift(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Paths of differences that admission did not make."""
    known = noted(live)
    return [path for path, mark in left(wanted, live).items() if known.get(path) != mark]
