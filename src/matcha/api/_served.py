"""Whether the deployed models answer, as the model server itself says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from matcha.access import Access
from matcha.api._project import Project
from matcha.api.types import ModelStatus
from matcha.component import Deployment, LoadResult, ModelServer
from matcha.errors import NotProvisioned
from matcha.planning import Wanted, model_key
from matcha.state import State
from matcha.target import Seen, Snapshot


def observe(opened: Project, state: State | None, wanted: Wanted) -> Snapshot:
    """What the target shows, and how each deployed model is."""
    asked = asking(opened, state)
    shown = opened.target.observe(state, wanted.services, wanted.environments)
    models = {model_key(m.name): _seen(m) for m in asked()}
    return msgspec.structs.replace(shown, resources={**shown.resources, **models})


def _seen(model: ModelStatus) -> Seen:
    return Seen("running" if model.healthy else "failed", detail=model.detail)


def asking(opened: Project, state: State | None) -> Callable[[], tuple[ModelStatus, ...]]:
    """Ask at once, beside whatever else is asked; what is returned awaits the answer.

    Nobody is asked, and nothing is said, where the stack is stopped, gone, or has no model server.
    """
    servers = [c for c in opened.components if isinstance(c, ModelServer)]
    if state is None or state.phase == "stopped" or not state.deployments or not servers:
        return tuple
    try:
        access = opened.target.access(state)
    except NotProvisioned:
        return tuple
    return _asking(access, servers[0], opened.deployments(state))


def _asking(
    access: Access, server: ModelServer, deployments: Sequence[Deployment]
) -> Callable[[], tuple[ModelStatus, ...]]:
    results: list[LoadResult] = []
    thread = threading.Thread(target=lambda: results.extend(server.served(access, deployments)), daemon=True)
    thread.start()

    def answer() -> tuple[ModelStatus, ...]:
        thread.join()
        errors = {r.name: r.error for r in results}
        return tuple(_status(d, errors[d.name]) for d in deployments)

    return answer


def _status(deployment: Deployment, error: str) -> ModelStatus:
    return ModelStatus(
        name=deployment.name,
        uri=deployment.uri,
        healthy=not error,
        dedicated=deployment.dedicated,
        detail=error,
    )
