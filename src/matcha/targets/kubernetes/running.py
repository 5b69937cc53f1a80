"""Whether the pods of a stack run, for the doctor."""

from __future__ import annotations

from collections.abc import Iterator

from matcha.host.findings import Finding
from matcha.state import State
from matcha.targets.kubernetes import statuses
from matcha.targets.kubernetes.cluster import Cluster
from matcha.targets.kubernetes.setting import Setting

WELL = ("running", "present")


def findings(cluster: Cluster, recorded: Setting | None, state: State | None) -> Iterator[Finding]:
    """Of a stack that should run. What others changed is `status`'s to tell."""
    if recorded is None or state is None or state.phase == "stopped":
        return
    found = statuses.statuses(cluster, recorded, None, {}, comparable=False, state=state)
    ill = [each for each in found if each.condition not in WELL]
    # what is no command of Matcha has to be done first: until then a provision is refused
    bars = next((e.resolution for e in ill if e.resolution and not e.resolution.startswith("matcha ")), "")
    for each in ill:
        yield Finding(
            check="services",
            ok=False,
            message=f"{each.name} is {_word(each.condition)}. {each.detail}".strip(),
            fix=each.resolution or bars or "matcha provision",
        )
    if not ill:
        yield Finding(check="services", ok=True, message=f"{len(found)} running and well.")


def _word(condition: str) -> str:
    """As `status` says it."""
    return "missing" if condition == "absent" else condition
