"""Everything a stack wants in its namespace, by the step of a plan that makes it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightkube.core.resource import NamespacedResource

from matcha.component import digest_of
from matcha.target import Foundation
from matcha.targets.kubernetes import archives, foundations, network, workloads
from matcha.targets.kubernetes.names import DATABASE, STORE
from matcha.targets.kubernetes.setting import Setting

Ref = tuple[str, str]  # kind and name


def laid(setting: Setting) -> dict[str, list[Any]]:
    """Objects of each foundation. Jobs that only bring something about are not among them."""
    found = {foundations.NETWORK: list(foundations.network(setting))}
    if setting.storage.own:
        found[STORE] = list(foundations.object_store(setting))
    if foundations.needs_database(setting):
        found[DATABASE] = [*foundations.database(setting), *foundations.database_dump(setting)]
    return found


def steps(setting: Setting) -> dict[str, list[Any]]:
    """Key of the step -> objects, in the order in which they are applied."""
    found = {f"foundation/{name}": objects for name, objects in laid(setting).items()}
    for service in setting.services:
        found[f"service/{service.name}"] = list(workloads.objects(setting, service))
    return found


def belonging(setting: Setting) -> set[Ref]:
    """All that may be there of this stack, with what its Jobs stand on."""
    found = [obj for objects in steps(setting).values() for obj in objects]
    if foundations.needs_database(setting):
        found += foundations.database_setup(setting)
    for environment in setting.environments:
        if not archives.has_image(environment):
            found += archives.builder(setting, environment)
    return {ref(obj) for obj in found}


def planned(setting: Setting) -> list[Foundation]:
    """The foundations as the planner sees them."""
    carries: dict[str, Any] = {
        foundations.NETWORK: ("secrets",),
        STORE: ("stores", "environments"),
        DATABASE: ("databases",),
    }
    return [
        Foundation(
            name=name,
            digest=digest_of([o.to_dict() for o in objects]),
            carries=carries[name],
            needs=() if name == foundations.NETWORK else (foundations.NETWORK,),
        )
        for name, objects in laid(setting).items()
    ]


def loud(setting: Setting) -> list[str]:
    """Names that pods bear which are no service's."""
    found = [name for name in laid(setting) if name != foundations.NETWORK]
    if foundations.needs_database(setting):
        found += [network.DATABASE_SETUP, network.DATABASE_DUMP]
    built = any(not archives.has_image(e) for e in setting.environments)
    return [*found, *([archives.BUILDER] if built else [])]


def ref(obj: Any) -> Ref:
    return type(obj).__name__, obj.metadata.name


def document(obj: Any, namespace: str) -> dict[str, Any]:
    """The manifest as plain data, with its kind and namespace."""
    info = type(obj)._api_info.resource
    found = dict(obj.to_dict())
    if issubclass(type(obj), NamespacedResource):
        found["metadata"] = {**found["metadata"], "namespace": namespace}
    return {"apiVersion": info.api_version, "kind": info.kind, **found}


def unique(objects: Sequence[Any]) -> Iterator[Any]:
    """Objects that several services share, once."""
    seen: set[Ref] = set()
    for obj in objects:
        if ref(obj) not in seen:
            seen.add(ref(obj))
            yield obj
