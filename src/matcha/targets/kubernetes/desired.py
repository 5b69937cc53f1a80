"""Everything a stack wants in its namespace, by the step of a plan that makes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightkube.core.resource import NamespacedResource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from matcha.service import Service, digest_of
from matcha.target import Foundation
from matcha.targets.kubernetes import archives, foundations, network, outside, workloads
from matcha.targets.kubernetes.exposed import objects as exposing
from matcha.targets.kubernetes.names import (
    BUCKET_CHECK,
    DATABASE,
    KEEPS,
    MANAGER,
    SECRETS,
    STORE,
    labels,
    put_instance,
)
from matcha.targets.kubernetes.setting import Setting

Ref = tuple[str, str]  # kind and name
GENERATED = "<generated>"  # in the place of a value that stands in the cluster only


def laid(setting: Setting) -> dict[str, list[Any]]:
    """Objects of each foundation. Jobs that only bring something about are not among them."""
    found = {foundations.NETWORK: list(foundations.network(setting))}
    if setting.storage.own:
        found[STORE] = list(foundations.object_store(setting))
    else:
        found[BUCKET_CHECK] = [outside.identity()]
    if foundations.needs_database(setting):
        found[DATABASE] = [*foundations.database(setting), *foundations.database_dump(setting)]
    if exposing.doors(setting):
        found[exposing.GATEWAY] = list(exposing.objects(setting))
    return {name: of_stack(setting, objects) for name, objects in found.items()}


def steps(setting: Setting) -> dict[str, list[Any]]:
    """Key of the step -> objects, in the order in which they are applied."""
    found = {f"foundation/{name}": objects for name, objects in laid(setting).items()}
    for service in setting.services:
        found[f"service/{service.name}"] = of_service(setting, service)
    return found


def of_service(setting: Setting, service: Service) -> list[Any]:
    return of_stack(setting, workloads.objects(setting, service))


def of_stack(setting: Setting, objects: Iterable[Any]) -> list[Any]:
    """As what renders them makes them, and labelled as this stack's."""
    return put_instance(objects, setting.namespace)


def jobs(setting: Setting) -> Iterator[Any]:
    """Those that only bring something about, each after what it stands on."""
    if not setting.storage.own:
        yield from of_stack(setting, outside.check(setting))
    if foundations.needs_database(setting):
        yield from of_stack(setting, foundations.database_setup(setting))
    for environment in setting.environments:
        if not archives.has_image(environment):
            yield from of_stack(setting, archives.builder(setting, environment))


def whole(setting: Setting) -> list[Any]:
    """All that may be there of this stack, in an order in which it can be applied, each object once."""
    foundation, service = (
        [obj for key, objects in steps(setting).items() if key.startswith(kind) for obj in objects]
        for kind in ("foundation/", "service/")
    )
    return list(unique([*foundation, *jobs(setting), *service]))


def belonging(setting: Setting) -> set[Ref]:
    return {ref(obj) for obj in whole(setting)}


def placeholders(objects: Sequence[Any], namespace: str) -> Secret | None:
    """The Secret of generated values as far as the objects refer to it, without them."""
    names = {key for obj in objects for key in _secrets(obj.to_dict())}
    if not names:
        return None
    marks = {**labels("secrets", MANAGER), KEEPS: "true"}
    made = Secret(
        metadata=ObjectMeta(name=SECRETS, labels=marks), stringData=dict.fromkeys(sorted(names), GENERATED)
    )
    put_instance([made], namespace)
    return made


def _secrets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        found = node.get("secretKeyRef") or {}
        if found.get("name") == SECRETS:
            yield found["key"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _secrets(value)


def planned(setting: Setting) -> list[Foundation]:
    """The foundations as the planner sees them."""
    carries: dict[str, Any] = {
        foundations.NETWORK: ("secrets",),
        STORE: ("stores", "environments"),
        BUCKET_CHECK: ("stores", "environments"),
        DATABASE: ("databases",),
        exposing.GATEWAY: (),
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
    found = [name for name in laid(setting) if name not in (foundations.NETWORK, exposing.GATEWAY)]
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
