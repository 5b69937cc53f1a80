"""Which steps of a pipeline may start, and which never will. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

State = Literal["waiting", "running", "succeeded", "failed", "skipped"]
FAIL_FAST, STOP, CONTINUE = "fail_fast", "stop_on_failure", "continue_on_failure"
MODES = (FAIL_FAST, STOP, CONTINUE)
AT_ONCE = 16  # steps; each is followed by a thread of its leader's


def startable(
    upstream: Mapping[str, Sequence[str]], states: Mapping[str, State], mode: str, limit: int = AT_ONCE
) -> list[str]:
    """In the order of `upstream`: steps -> those that they need. One that is not a step of this run is done:
    ZenML took it from an earlier run.
    """
    if mode != CONTINUE and "failed" in states.values():
        return []
    free = limit - sum(state == "running" for state in states.values())
    ready = [
        step
        for step, needs in upstream.items()
        if states[step] == "waiting" and all(states.get(need, "succeeded") == "succeeded" for need in needs)
    ]
    return ready[: max(free, 0)]


def skipped(upstream: Mapping[str, Sequence[str]], states: Mapping[str, State], mode: str) -> list[str]:
    """Steps that wait, and will never start, since something failed; each time all of them."""
    found = dict(states)
    waiting = [step for step in upstream if states[step] == "waiting"]
    if mode != CONTINUE and "failed" in states.values():
        return waiting
    while True:
        more = [
            step
            for step in waiting
            if found[step] == "waiting"
            and any(found.get(need) in ("failed", "skipped") for need in upstream[step])
        ]
        if not more:
            return [step for step in waiting if found[step] == "skipped"]
        found.update(dict.fromkeys(more, "skipped"))


def is_over(states: Mapping[str, State]) -> bool:
    return not {"waiting", "running"}.intersection(states.values())
