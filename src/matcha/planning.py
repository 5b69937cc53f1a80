"""Desired resources and what a target shows of them -> the frozen list of steps between the two. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from matcha.component import Component, Deployment, services_of
from matcha.errors import COMPONENT, MatchaError
from matcha.service import Environment, Service, digest_of, service_digest
from matcha.state import State
from matcha.target import Foundation, Seen, Snapshot

Action = Literal["create", "update", "start", "repair", "remove"]
UNFINISHED = "unfinished"  # the digest recorded while a recorded resource is being changed


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should exist.

    `parts` are the keys a target shows it under (its own key where empty). `recorded` resources cannot be
    seen on the target (a registration inside a server): the state says whether they were made; they are
    made again with any of `remade_with`, and when one of their `parts`, which may be asked for, is ill.
    """

    key: str
    digest: str
    needs: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    recorded: bool = False
    remade_with: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    action: Action
    reason: str
    needs: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps ordered so that each comes after those it needs; `unchanged` is what already matches."""

    stack: str
    target: str
    steps: tuple[Step, ...] = ()
    unchanged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a stack's components ask of a target."""

    environments: tuple[Environment, ...]
    services: tuple[Service, ...]
    secrets: tuple[str, ...]
    stores: tuple[str, ...]
    components: tuple[str, ...]
    deployments: tuple[Deployment, ...]
    resources: tuple[Resource, ...]

    def environment(self, name: str) -> Environment:
        return next(e for e in self.environments if e.name == name)

    def service(self, name: str) -> Service:
        return next(s for s in self.services if s.name == name)


def want(
    components: Sequence[Component],
    deployments: Sequence[Deployment],
    extra: Sequence[Environment] = (),
    foundations: Callable[
        [Sequence[Service], Sequence[Environment]], Sequence[Foundation]
    ] = lambda _services, _environments: (),
    *,
    apart: bool = True,
    kept: Sequence[Service] = (),
) -> Wanted:
    """What `components` and `deployments` need. `extra` are environments of models that brought their own;
    `foundations` says what the target needs for services; `apart`: whether it runs those that are. `kept`
    stay beside them, where nothing has their names.
    """
    services = tuple(s for c in components for s in services_of(c, deployments, apart=apart))
    names = {s.name for s in services}
    services = (*services, *(s for s in kept if s.name not in names))
    used = {s.environment for s in services}
    environments = tuple(
        e for e in (*(e for c in components for e in c.environments()), *extra) if e.name in used
    )
    secrets = _unique(n for c in components for n in c.secrets()) | _unique(
        n for s in services for n in s.secrets.values()
    )
    stores = _unique(a for c in components for a in c.stores()) | _unique(
        a for s in services for a in s.stores
    )
    wanted = Wanted(
        environments=environments,
        services=services,
        secrets=tuple(secrets),
        stores=tuple(stores),
        components=tuple(c.role for c in components),
        deployments=tuple(deployments),
        resources=(),
    )
    resources = _resources(components, wanted, foundations(services, environments))
    return msgspec.structs.replace(wanted, resources=tuple(resources))


def lent(components: Sequence[Component]) -> tuple[str, ...]:
    """Areas of the object store that jobs use, as all clients do."""
    return tuple(_unique(area for c in components for area in c.stores()))


def _unique(values: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(values)


def _resources(
    components: Sequence[Component], wanted: Wanted, foundations: Sequence[Foundation]
) -> Iterable[Resource]:
    def under(kind: str) -> tuple[str, ...]:
        return tuple(f"foundation/{f.name}" for f in foundations if kind in f.carries)

    for each in foundations:
        needs = tuple(f"foundation/{n}" for n in each.needs)
        yield Resource(key=f"foundation/{each.name}", digest=each.digest, needs=needs)
    if wanted.secrets:
        parts = tuple(f"secret/{n}" for n in wanted.secrets)
        yield Resource(key="secrets", digest="", parts=parts, needs=under("secrets"))
    if wanted.stores:
        parts = tuple(f"store/{a}" for a in wanted.stores)
        yield Resource(key="stores", digest="", parts=parts, needs=under("stores"))
    for environment in wanted.environments:
        key = f"environment/{environment.name}"
        yield Resource(key=key, digest=environment.digest, needs=under("environments"))
    services, by_role = wanted.services, {s.role: s for s in wanted.services}
    for service in services:
        yield _service_resource(service, wanted, by_role, under("databases"))
    for component in components:
        if digest := component.setup_digest():
            yield _setup_resource(component, digest, by_role)
    deployer = next((s for s in services if s.role == "model-deployer"), None)
    if deployer:
        needs = tuple(f"service/{s.name}" for s in services if s.live)
        yield Resource(
            key="deployments",
            digest=digest_of([d.digest for d in wanted.deployments]),
            needs=needs,
            parts=tuple(model_key(d.name) for d in wanted.deployments),
            recorded=True,
            remade_with=needs,
        )


def model_key(name: str) -> str:
    """The key under which a snapshot shows whether a deployed model answers."""
    return f"model/{name}"


def _service_resource(
    service: Service, wanted: Wanted, by_role: dict[str, Service], databases: tuple[str, ...]
) -> Resource:
    """`databases`: keys of what carries them."""
    environment = wanted.environment(service.environment)
    needs = [*(databases if service.databases else ()), f"environment/{environment.name}"]
    needs += ["secrets"] if service.secrets else []
    needs += ["stores"] if service.stores else []
    needs += [f"service/{by_role[role].name}" for role in service.needs if role in by_role]
    return Resource(
        key=f"service/{service.name}", digest=service_digest(service, environment), needs=tuple(needs)
    )


def _setup_resource(component: Component, digest: str, by_role: dict[str, Service]) -> Resource:
    roles = (component.role, *component.requires)
    services = tuple(f"service/{by_role[role].name}" for role in roles if role in by_role)
    needs = (*services, "secrets")  # what a setup keeps there is gone with them
    return Resource(
        key=f"setup/{component.role}", digest=digest, needs=needs, recorded=True, remade_with=needs
    )


def make(stack: str, target: str, wanted: Wanted, snapshot: Snapshot, state: State | None) -> Plan:
    """The steps from `snapshot` (and what `state` recorded of things that cannot be seen) to `wanted`."""
    steps: dict[str, Step] = {}
    unchanged: list[str] = []
    for resource in in_order(wanted.resources):
        step = _step(resource, snapshot, state, steps)
        if step:
            steps[step.key] = step
        else:
            unchanged.append(resource.key)
    removals = _removals(wanted, snapshot, state)
    needs = {r.key: r.needs for r in wanted.resources}
    ordered = [msgspec.structs.replace(s, needs=_awaited(s.key, needs, steps)) for s in steps.values()]
    return Plan(stack=stack, target=target, steps=(*ordered, *removals), unchanged=tuple(unchanged))


def _awaited(key: str, needs: Mapping[str, Sequence[str]], steps: Mapping[str, Step]) -> tuple[str, ...]:
    """The steps that `key` waits for; what is between them may well be as it should be."""
    found, open_ = dict[str, None](), list(needs[key])
    while open_:
        need = open_.pop(0)
        if need not in found:
            found[need] = None
            open_ += () if need in steps else needs.get(need, ())
    return tuple(n for n in found if n in steps)


def _step(resource: Resource, snapshot: Snapshot, state: State | None, steps: dict[str, Step]) -> Step | None:
    if resource.recorded:
        verdict = _recorded(resource, state, steps) or _ill(resource, snapshot)
    else:
        verdict = _seen(resource, snapshot)
    if verdict is None and state and resource.key not in state.resources:
        verdict = _unrecorded(resource.key)
    if verdict is None:
        return None
    action, reason = verdict
    return Step(key=resource.key, action=action, reason=reason, needs=resource.needs)


def _unrecorded(key: str) -> tuple[Action, str] | None:
    """The step for what is there and not in the record, where the record is what `status` goes by."""
    actions: dict[str, Action] = {"service": "start", "stores": "create"}
    action = actions.get(key.partition("/")[0])
    return (action, "left by a run that was killed") if action else None


def _recorded(resource: Resource, state: State | None, steps: dict[str, Step]) -> tuple[Action, str] | None:
    record = state.resources.get(resource.key) if state else None
    if record is None:
        if resource.key == "deployments" and resource.digest == digest_of([]):
            return None
        return "create", "not done yet"
    if record.digest != resource.digest:
        return "update", "the last change was not finished" if record.digest == UNFINISHED else "changed"
    # A model server that was only started has its models to load again.
    with_start = resource.key == "deployments"
    remade = [k for k in resource.remade_with if k in steps and (with_start or steps[k].action != "start")]
    return ("update", f"{remade[0]} is made anew") if remade else None


def undone(step: Step, wanted: Wanted, state: State) -> list[str]:
    """Keys of what the record has as done and `step` makes to be done again. What can be asked whether it is
    well needs no record.
    """
    if step.action == "start":
        return []
    again = [r for r in wanted.resources if r.recorded and not r.parts and step.key in r.remade_with]
    return [r.key for r in again if r.key in state.resources]


def _ill(resource: Resource, snapshot: Snapshot) -> tuple[Action, str] | None:
    """For parts of a recorded resource that were asked and are not well."""
    shown = {key: snapshot.resources[key] for key in resource.parts if key in snapshot.resources}
    ill = [
        f"{key.partition('/')[2]}: {s.detail or s.condition}"
        for key, s in shown.items()
        if s.condition != "running"
    ]
    return ("repair", "; ".join(ill)) if ill else None


def _seen(resource: Resource, snapshot: Snapshot) -> tuple[Action, str] | None:
    absent = Seen("absent")
    parts = [snapshot.resources.get(key, absent) for key in resource.parts or (resource.key,)]
    missing = sum(1 for seen in parts if seen.condition == "absent")
    if missing:
        return "create", "not there yet" if missing == len(parts) else f"{missing} of {len(parts)} missing"
    return _condition(resource, parts[0])


def _condition(resource: Resource, seen: Seen) -> tuple[Action, str] | None:
    if resource.digest and seen.digest != resource.digest:
        return "update", seen.detail or "changed"
    if seen.condition == "stopped":
        return "start", "stopped"
    if seen.condition in ("failed", "unhealthy"):
        return "repair", seen.detail or seen.condition
    if seen.condition == "starting":
        return "start", "still starting"
    return None


def _removals(wanted: Wanted, snapshot: Snapshot, state: State | None) -> list[Step]:
    known = {r.key for r in wanted.resources}
    kept = set(snapshot.resources)
    gone = [k for k in sorted(kept) if k.startswith(("service/", "foundation/")) and k not in known]
    recorded = [
        k for k in sorted(state.resources if state else ()) if k.startswith("setup/") and k not in known
    ]
    return [Step(key=key, action="remove", reason="no longer wanted") for key in (*recorded, *gone)]


def only_for(plan: Plan, key: str, wanted: Wanted) -> Plan:
    """The part of `plan` that the resource `key` needs, itself included; removals stay."""
    kept = _with_remade(_needed(key, wanted) | {key}, plan, wanted)
    return _part(plan, lambda s: s.key in kept or s.action == "remove")


def before(plan: Plan, key: str, wanted: Wanted) -> Plan:
    """The part of `plan` that has to be done before anything is done about the resource `key`."""
    kept = _with_remade(_needed(key, wanted), plan, wanted) - {key}
    return _part(plan, lambda s: s.key in kept and s.action != "remove")


def _with_remade(kept: set[str], plan: Plan, wanted: Wanted) -> set[str]:
    """With what steps of these undo (`undone`): who runs a part of a plan leaves nothing half done."""
    changing = kept & {s.key for s in plan.steps if s.action != "start"}
    return kept | {r.key for r in wanted.resources if r.recorded and changing & set(r.remade_with)}


def removals(plan: Plan) -> Plan:
    return _part(plan, lambda s: s.action == "remove")


def _part(plan: Plan, keep: Callable[[Step], bool]) -> Plan:
    return msgspec.structs.replace(plan, steps=tuple(s for s in plan.steps if keep(s)))


def _needed(key: str, wanted: Wanted) -> set[str]:
    needs = {r.key: r.needs for r in wanted.resources}
    found, open_ = set[str](), list(needs.get(key, ()))
    while open_:
        found.add(need := open_.pop())
        open_ += [n for n in needs.get(need, ()) if n not in found]
    return found


def in_order(resources: Sequence[Resource]) -> list[Resource]:
    """Resources after those they need; otherwise in the order given. Raises MatchaError on a cycle."""
    by_key = {r.key: r for r in resources}
    done: dict[str, Resource] = {}

    def visit(resource: Resource, path: tuple[str, ...]) -> None:
        if resource.key in path:
            raise MatchaError(
                "Components need each other in a circle.",
                details=" -> ".join((*path, resource.key)),
                resolution=COMPONENT,
            )
        for need in resource.needs:
            if need in by_key and need not in done:
                visit(by_key[need], (*path, resource.key))
        done[resource.key] = resource

    for resource in resources:
        if resource.key not in done:
            visit(resource, ())
    return list(done.values())
