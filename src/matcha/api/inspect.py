"""Looking at a stack: nothing here takes the lock or changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matcha.access import Output
from matcha.api import _served
from matcha.api._project import Folder, Project, open_project
from matcha.api._recorded import open_recorded
from matcha.api.types import ComponentStatus, FoundationStatus, StackStatus
from matcha.component import Component, Deployment, ModelServer
from matcha.errors import BadInput, MatchaError, NotProvisioned, suggest
from matcha.service import Environment, Service
from matcha.state import State
from matcha.target import Contested, LockInfo, Loud, ServiceStatus


def status(project: Folder = ".", *, target: str | None = None) -> StackStatus:
    """Condition of every component and deployed model, probed now.

    Raises NotProvisioned where there is no stack.
    """
    said: list[str] = []
    opened = open_recorded(project, target, lambda event: said.append(event.message))
    state = opened.state()
    asked = _served.asking(opened, state)
    deployments = opened.deployments(state)
    facts = opened.target.status(state, *_described(opened, state, deployments))
    services = {s.name: s for s in facts}
    wanted = [(c, opened.services_of(c, deployments)) for c in opened.components]
    components = [_component_status(c, state, needed, services) for c, needed in wanted]
    lock = None
    try:
        lock = opened.store.lock()
    except MatchaError as error:  # of what is said beside the rest
        said.append(f"Whether somebody is changing the stack was not seen. {error.message}")
    models = asked()
    foundations = tuple(_foundation_status(s) for s in facts if s.foundation)
    parts: list[ComponentStatus | FoundationStatus] = [*components, *foundations]
    well = all(part.healthy for part in parts) and all(m.healthy for m in models)
    return StackStatus(
        stack=state.stack,
        target=state.target,
        phase=state.phase,
        healthy=well and state.phase == "ready",
        components=tuple(components),
        models=models,
        foundations=foundations,
        lock=_holder(lock),
        notes=tuple(said),
    )


def _described(
    opened: Project, state: State, deployments: Sequence[Deployment]
) -> tuple[list[Service], list[Environment]]:
    """What a target where others may change things compares with. Locks of models that somebody else deployed
    are not on this machine.
    """
    if not isinstance(opened.target, Contested) or opened.by_record:
        return [], []
    services = [s for c in opened.components for s in opened.services_of(c, deployments)]
    environments = [e for c in opened.components for e in c.environments()]
    if any(isinstance(c, ModelServer) for c in opened.components):
        environments += [opened.model_environment(state, d) for d in deployments if d.environment]
    return services, [e for e in environments if e.lock.is_file()]


def _holder(lock: LockInfo | None) -> str:
    return f"{lock.owner} ({lock.operation})" if lock else ""


def _component_status(
    component: Component, state: State, wanted: object, services: Mapping[str, ServiceStatus]
) -> ComponentStatus:
    names = [s.name for s in wanted]  # type: ignore[attr-defined]
    facts = [services.get(n, ServiceStatus(name=n, condition="absent")) for n in names]
    if not facts:
        return _without_service(component, state)
    worst = next((f for f in facts if f.condition != "running"), None) or next(
        (f for f in facts if f.detail), facts[0]
    )
    memory = [f.memory for f in facts if f.memory >= 0]
    scaled = [f.replicas for f in facts if f.replicas is not None]
    return ComponentStatus(
        role=component.role,
        flavor=component.flavor,
        title=component.title,
        condition=worst.condition,
        healthy=worst.condition == "running",
        address=facts[0].address,
        version=component.version,
        memory=sum(memory) if memory else -1,
        uptime=facts[0].uptime,
        restarts=sum(f.restarts for f in facts),
        replicas=(sum(r for r, _ in scaled), sum(n for _, n in scaled)) if scaled else None,
        detail=worst.detail,
        resolution=worst.resolution,
    )


def _foundation_status(seen: ServiceStatus) -> FoundationStatus:
    return FoundationStatus(
        name=seen.name,
        condition=seen.condition,
        healthy=seen.condition in ("running", "present"),
        memory=seen.memory,
        uptime=seen.uptime,
        restarts=seen.restarts,
        detail=seen.detail,
        resolution=seen.resolution,
    )


def _without_service(component: Component, state: State) -> ComponentStatus:
    ready = all(key in state.resources for key in (["stores"] if component.stores() else []))
    return ComponentStatus(
        role=component.role,
        flavor=component.flavor,
        title=component.title,
        condition="present" if ready else "absent",
        healthy=ready,
        version=component.version,
    )


def outputs_of(opened: Project) -> dict[str, dict[str, Output]]:
    """Outputs of every component that has been set up, by role."""
    access = opened.access()
    found: dict[str, dict[str, Output]] = {}
    for component in opened.components:
        try:
            found |= {name: dict(outputs) for name, outputs in component.resources(access).items()}
        except NotProvisioned:
            continue
    return found


def get(
    resource: str | None = None,
    prop: str | None = None,
    *,
    project: Folder = ".",
    target: str | None = None,
) -> dict[str, dict[str, Output]]:
    """Outputs, narrowed to a resource and a property. Raises BadInput for one Matcha does not know."""
    opened = open_project(project, target)
    known = [name for c in opened.components for name in (c.role, *c.also)]
    if resource is not None and resource not in known:
        raise BadInput(f'Unknown resource "{resource}".', resolution=suggest(resource, known))
    found = outputs_of(opened)
    if resource is None:
        return found
    properties = found.get(resource)
    if properties is None:
        raise opened.lacking(NotProvisioned(f"{resource} is not set up yet."))
    if prop is None:
        return {resource: properties}
    if prop not in properties:
        raise BadInput(f'{resource} has no property "{prop}".', resolution=suggest(prop, properties))
    return {resource: {prop: properties[prop]}}


def logs(
    component: str | None = None,
    *,
    project: Folder = ".",
    target: str | None = None,
    lines: int = 100,
    follow: bool = False,
) -> Iterator[tuple[str, str]]:
    """(service, line) of one component's services, or of all. Raises BadInput for an unknown component."""
    opened = open_project(project, target)
    names = _services_of(opened, component)
    if not follow or len(names) == 1:
        return ((n, line) for n in names for line in opened.target.logs(n, lines=lines, follow=follow))
    return _interleaved(opened, names, lines)


def _services_of(opened: Project, component: str | None) -> list[str]:
    state = opened.state()
    deployments = opened.deployments(state)
    found = {c.role: [s.name for s in opened.services_of(c, deployments)] for c in opened.components}
    if component is None:
        return [name for names in found.values() for name in names]
    by_service = {name: [name] for names in found.values() for name in names}
    by_flavor = {c.flavor: found[c.role] for c in opened.components}
    known = {**by_flavor, **by_service, **{role: names for role, names in found.items() if names}}
    if component not in known and isinstance(opened.target, Loud):
        known |= {name: [name] for name in opened.target.loud(state)}
    if component not in known:
        raise BadInput(f'Unknown component "{component}".', resolution=suggest(component, known))
    return known[component]


def _interleaved(opened: Project, names: list[str], lines: int) -> Iterator[tuple[str, str]]:
    import queue  # noqa: PLC0415 - only when following
    import threading  # noqa: PLC0415

    merged: queue.Queue[tuple[str, str] | Exception] = queue.Queue(maxsize=1000)

    def pump(name: str) -> None:
        try:
            for line in opened.target.logs(name, lines=lines, follow=True):
                merged.put((name, line))
        except Exception as error:  # noqa: BLE001 - it is raised where somebody sees it
            merged.put(error)

    for name in names:
        threading.Thread(target=pump, args=(name,), daemon=True).start()
    while True:
        found = merged.get()
        if isinstance(found, Exception):
            raise found
        yield found


def url(component: str | None = None, *, project: Folder = ".", target: str | None = None) -> str:
    """Address of a component's page. Raises BadInput for one without a page."""
    opened = open_project(project, target)
    state = opened.state()
    pages = {c.role: c for c in opened.components if c.services(opened.deployments(state))}
    if not pages:
        raise BadInput("No component of this stack has a page to open.", resolution="matcha get")
    flavors = {c.flavor: c.role for c in pages.values()}
    wanted = component or ("monitoring" if "monitoring" in pages else next(iter(pages)))
    role = flavors.get(wanted, wanted)
    if role not in pages:
        raise BadInput(f'"{wanted}" has no page to open.', resolution=suggest(wanted, [*pages, *flavors]))
    return opened.target.access(state).url(role)
