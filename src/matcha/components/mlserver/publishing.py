"""Tells the serving processes what to serve.

The order keeps every model answering: children load what is new to them, then the main server swaps, and
only then children let go of what nobody forwards to them any more. The main server is told what a child could
not load, and leaves those names as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from matcha.access import Access, replicas
from matcha.component import ROOM, Deployment, LoadResult
from matcha.components.mlserver import replicas as telling
from matcha.components.mlserver.replicas import TOKEN as TOKEN  # noqa: PLC0414 - others have it from here
from matcha.components.mlserver.replicas import Look, Shown
from matcha.errors import ComponentFailed, MatchaError, NotProvisioned
from matcha.service import PLACEHOLDER, digest_of

SENT = ("name", "uri", "model", "version", "run_id", "environment", "signature", "deployed_at")
LONGEST = 63  # of a process's name
NAMED = 3  # replicas in one sentence


def process_of(deployment: Deployment) -> str:
    """Role, and name, of the process that serves it; empty where the main server does.

    Another environment is another process, also of a model that has one for itself: both run while the
    main server changes from one to the other.
    """
    if not deployment.dedicated:
        return f"serving-{deployment.environment[:8]}" if deployment.environment else ""
    if not deployment.environment:
        return f"dedicated-{deployment.name}"
    mark = digest_of([deployment.name, deployment.environment])[:8]
    return f"dedicated-{mark}-{deployment.name}"[:LONGEST].rstrip("-")


def body(deployments: Iterable[Deployment]) -> str:
    """The list as the processes read it, from their live file or from `publish`.

    Its only placeholders are the addresses to forward to: what looks like one elsewhere (a column may have
    any name) is written so that no target takes it for one.
    """
    return f'{{"deployments": [{", ".join(_entry(d) for d in deployments)}]}}'


def _entry(deployment: Deployment) -> str:
    known = msgspec.structs.asdict(deployment)
    process = process_of(deployment)
    settings = {name: value for name, value in deployment.settings.items() if name not in ROOM}
    sent = {**{key: known[key] for key in SENT}, "settings": settings, "process": process}
    literal = PLACEHOLDER.sub(lambda found: "\\u007b" + found[0][1:], msgspec.json.encode(sent).decode())
    forward = f"{{url:{process}}}" if process else ""
    return f'{literal[:-1]}, "forward": "{forward}"}}'


def publish(access: Access, role: str, deployments: Sequence[Deployment]) -> tuple[LoadResult, ...]:
    """Raises ComponentFailed where the main server does not answer; a silent child fails its own models."""
    children = sorted({process_of(d) for d in deployments} - {""})
    text = access.inside(body(deployments))
    failed: dict[str, str] = {}
    for child in children:
        failed |= _tell_child(access, child, deployments, text, {"unload": False})
    told = telling.tell(access, role, text, {"failed": failed})
    late: dict[str, str] = {}
    for child in children:
        late |= _tell_child(access, child, deployments, text, {"failed": failed})
    return tuple(LoadResult(d.name, told.get(d.name) or late.get(d.name, "")) for d in deployments)


def _tell_child(
    access: Access, child: str, deployments: Sequence[Deployment], text: str, how: Mapping[str, Any]
) -> dict[str, str]:
    """Errors by name of this process's models."""
    try:
        told = telling.tell(access, child, text, how)
    except (ComponentFailed, NotProvisioned) as error:
        return {d.name: error.message for d in deployments if process_of(d) == child}
    return {name: error for name, error in told.items() if error}


def served(access: Access, role: str, deployments: Sequence[Deployment]) -> tuple[LoadResult, ...]:
    """The main server knows of the models that it forwards for, too."""
    try:
        with replicas(access, role) as found:
            looks = telling.looks(access, found)
    except MatchaError as error:
        return tuple(LoadResult(d.name, error.message) for d in deployments)
    except OSError:
        looks = {}
    said = {name: look for name, look in looks.items() if look is not None}
    taking = {name: look for name, look in said.items() if look[0]} or said
    return tuple(LoadResult(d.name, _trouble(d, taking)) for d in deployments)


def _trouble(deployment: Deployment, looks: Mapping[str, Look]) -> str:
    """Why a replica that takes requests does not answer for it; empty where all do."""
    if not looks:
        return telling.SILENT
    found = {name: _lack(deployment, shown.get(deployment.name)) for name, (_, shown) in looks.items()}
    ill = {name: why for name, why in found.items() if why}
    why = next(iter(ill.values()), "")
    return f"On {_listed(list(ill))}: {why}" if 0 < len(ill) < len(looks) else why


def _lack(deployment: Deployment, entry: Shown | None) -> str:
    if entry is None:
        return "It is not loaded yet."
    if (entry.uri, entry.version) == (deployment.uri, deployment.version):
        return entry.error
    return entry.refused or f"{entry.uri} answers in its place."


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return " and ".join(filter(None, [", ".join(names[:NAMED]), *more]))
