"""Who may talk to whom: everything is denied, then exactly the flows that the services describe. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from lightkube.resources.networking_v1 import NetworkPolicy

from matcha.component import Service
from matcha.targets.kubernetes.archives import BUILDER, has_image
from matcha.targets.kubernetes.names import DATABASE, MANAGER, STORE, labels, selector
from matcha.targets.kubernetes.resolve import DATABASE_PORT
from matcha.targets.kubernetes.setting import STORE_PORT, Setting

DNS = 53
DATABASE_SETUP, DATABASE_DUMP = "mysql-setup", "mysql-dump"
EVERYWHERE = ""  # as a server: any address, in or outside the cluster
PART_OF = {"app.kubernetes.io/part-of": MANAGER}


class Flow(msgspec.Struct, frozen=True, order=True):
    """`client` may open connections to `server` on `port` (TCP; 0: any)."""

    client: str
    server: str
    port: int


def flows(setting: Setting) -> list[Flow]:
    """Every connection inside the stack, and those that leave it."""
    found = {flow for service in setting.services for flow in _of(setting, service)}
    if any(not has_image(e) for e in setting.environments):
        found |= {Flow(BUILDER, EVERYWHERE, 0)}
    if setting.own_database and any(s.databases for s in setting.services):
        found |= {Flow(name, DATABASE, DATABASE_PORT) for name in (DATABASE_SETUP, DATABASE_DUMP)}
        found |= set(_storage(setting, DATABASE_DUMP))
    return sorted(found)


def _of(setting: Setting, service: Service) -> Iterator[Flow]:
    peers = setting.around.peers
    for role in (*service.needs, *service.talks_to):
        if role in peers:
            yield from (Flow(service.name, peers[role].name, p.preferred) for p in peers[role].ports)
    for role in service.called_by:
        if role in peers:
            yield from (Flow(peers[role].name, service.name, p.preferred) for p in service.ports)
    if service.databases:
        yield from _database(setting, service.name)
    if service.stores or not has_image(setting.environment(service.environment)):
        yield from _storage(setting, service.name)


def _storage(setting: Setting, client: str) -> Iterator[Flow]:
    yield Flow(client, STORE, STORE_PORT) if setting.storage.own else Flow(client, EVERYWHERE, 0)


def _database(setting: Setting, client: str) -> Iterator[Flow]:
    own = setting.own_database
    number = int(setting.around.database.address.rpartition(":")[2])
    yield Flow(client, DATABASE if own else EVERYWHERE, number)


def policies(setting: Setting) -> list[NetworkPolicy]:
    """One that denies and lets names be resolved, then one for each group of pods."""
    known = flows(setting)
    names = sorted({f.client for f in known} | {f.server for f in known if f.server != EVERYWHERE})
    return [_deny(), *(_policy(name, known) for name in names)]


def _deny() -> NetworkPolicy:
    resolving = NetworkPolicyEgressRule(ports=[_port(DNS, "UDP"), _port(DNS, "TCP")])
    return NetworkPolicy(
        metadata=ObjectMeta(name="matcha-default", labels=labels("network", MANAGER)),
        spec=NetworkPolicySpec(
            podSelector=LabelSelector(matchLabels=PART_OF),
            policyTypes=["Ingress", "Egress"],
            ingress=[],
            egress=[resolving],
        ),
    )


def _policy(name: str, known: Iterable[Flow]) -> NetworkPolicy:
    ingress = [
        NetworkPolicyIngressRule(from_=[_pods(f.client)], ports=[_port(f.port)])
        for f in known
        if f.server == name
    ]
    egress = [
        NetworkPolicyEgressRule(
            to=[_pods(f.server)] if f.server != EVERYWHERE else None,
            ports=[_port(f.port)] if f.port else None,
        )
        for f in known
        if f.client == name
    ]
    return NetworkPolicy(
        metadata=ObjectMeta(name=f"matcha-{name}", labels=labels(name, "network")),
        spec=NetworkPolicySpec(
            podSelector=LabelSelector(matchLabels=selector(name)),
            policyTypes=["Ingress", "Egress"],
            ingress=ingress,  # said also where there are none: what others let in is then taken out
            egress=egress,
        ),
    )


def _pods(name: str) -> NetworkPolicyPeer:
    return NetworkPolicyPeer(podSelector=LabelSelector(matchLabels=selector(name)))


def _port(number: int, protocol: str = "TCP") -> NetworkPolicyPort:
    return NetworkPolicyPort(port=number, protocol=protocol)
