"""Who may talk to whom: everything is denied, then exactly the flows that the services describe. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import msgspec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    IPBlock,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from lightkube.resources.networking_v1 import NetworkPolicy

from matcha.service import Service
from matcha.targets.kubernetes.archives import BUILDER, has_image
from matcha.targets.kubernetes.names import BUCKET_CHECK, DATABASE, JOB, MANAGER, STORE, labels, selector
from matcha.targets.kubernetes.resolve import DATABASE_PORT
from matcha.targets.kubernetes.setting import STORE_PORT, Setting

DNS = (53, 5353)  # the second: policies see the pods behind the Service, and OpenShift's listen there
HTTP, HTTPS = 80, 443
DATABASE_SETUP, DATABASE_DUMP = "mysql-setup", "mysql-dump"
EVERYWHERE = ""  # as a server: any address, in or outside the cluster
CLUSTER = "*"  # as a server: any pod, of any namespace
NAMESPACE = "namespace:"  # before a name, as a client: every pod of that namespace
NETWORK = "network:"  # before addresses, as a client
NAMED = "kubernetes.io/metadata.name"  # label that every namespace bears
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
        found |= {*_packages(setting), *_storage(setting, BUILDER)}
    if not setting.storage.own:
        found |= set(_storage(setting, BUCKET_CHECK))
    if setting.own_database and any(s.databases for s in setting.services):
        found |= {Flow(name, DATABASE, DATABASE_PORT) for name in (DATABASE_SETUP, DATABASE_DUMP)}
        found |= set(_storage(setting, DATABASE_DUMP))
    return sorted(found | set(_jobs(setting)))


def _jobs(setting: Setting) -> Iterator[Flow]:
    """They run users' own code, which fetches data from wherever that is. To the stack's pods they get by the
    ports of services alone: the database server lets none of them in.
    """
    yield Flow(JOB, EVERYWHERE, 0)
    yield from _storage(setting, JOB)
    for service in setting.services:
        if not service.apart:
            yield from (Flow(JOB, service.name, port.preferred) for port in service.ports)


def _of(setting: Setting, service: Service) -> Iterator[Flow]:
    peers = setting.around.peers
    for role in (*service.needs, *service.talks_to):
        if role in peers:
            yield from (Flow(service.name, peers[role].name, p.preferred) for p in peers[role].ports)
    numbers = {port.name: port.preferred for port in service.ports}
    for namespace in setting.options.allow_from:
        yield from (Flow(NAMESPACE + namespace, service.name, numbers[n]) for n in service.for_applications)
    yield from _gateways(setting, service)
    for role in service.called_by:
        if role in peers:
            yield from (Flow(peers[role].name, service.name, p.preferred) for p in service.ports)
    if service.databases:
        yield from _database(setting, service.name)
    if service.stores or not has_image(setting.environment(service.environment)):
        yield from _storage(setting, service.name)


def _gateways(setting: Setting, service: Service) -> Iterator[Flow]:
    expose = setting.options.expose
    if expose is None or service.outside is None:
        return
    namespace = expose.gateway_namespace or expose.namespace_and_gateway[0] or setting.namespace
    for client in (NAMESPACE + namespace, *(NETWORK + each for each in expose.gateway_addresses)):
        yield Flow(client, service.name, service.outside.preferred)


def _packages(setting: Setting) -> Iterator[Flow]:
    """The index, and the files that its pages name, which may lie at other hosts."""
    yield Flow(BUILDER, EVERYWHERE, HTTPS)
    if setting.options.index_url:
        yield from _outside(BUILDER, setting.options.index_url)


def _storage(setting: Setting, client: str) -> Iterator[Flow]:
    if setting.storage.own:
        yield Flow(client, STORE, STORE_PORT)
    else:
        yield from _outside(client, setting.storage.endpoint or "https://s3.amazonaws.com")


def _database(setting: Setting, client: str) -> Iterator[Flow]:
    host = setting.around.database.address
    if setting.own_database:
        yield Flow(client, DATABASE, DATABASE_PORT)
    else:
        yield from _outside(client, f"mysql://{host}")


def _outside(client: str, url: str) -> Iterator[Flow]:
    """To a server that is not Matcha's. Of a Service of the cluster the port of its pods is not known, and
    that is the one that policies see.
    """
    parts = urlsplit(url)
    yield Flow(client, EVERYWHERE, parts.port or (HTTP if parts.scheme == "http" else HTTPS))
    if _may_be_a_service(parts.hostname or ""):
        yield Flow(client, CLUSTER, 0)


def _may_be_a_service(host: str) -> bool:
    """`name`, `name.namespace` and what ends in `svc`, and private addresses."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        parts = host.rstrip(".").split(".")
        return len(parts) <= len(("name", "namespace")) or "svc" in parts


def policies(setting: Setting) -> list[NetworkPolicy]:
    """One that denies and lets names be resolved, then one for each group of pods."""
    known = flows(setting)
    ends = {n for f in known for n in (f.client, f.server)} - {EVERYWHERE, CLUSTER}
    names = sorted(n for n in ends if not n.startswith((NAMESPACE, NETWORK)))
    return [_deny(), *(_policy(name, known) for name in names)]


def _deny() -> NetworkPolicy:
    # Names are resolved at any address: a cluster's DNS need not be pods that a namespace selector picks. A
    # node-local cache listens on its node, at a link-local address or at the one of the DNS Service itself,
    # which no option says; so do DNS pods on the host's network, and servers outside that a kubelet names.
    resolving = NetworkPolicyEgressRule(ports=[_port(n, kind) for n in DNS for kind in ("UDP", "TCP")])
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
        NetworkPolicyIngressRule(from_=[_client(f.client)], ports=[_port(f.port)])
        for f in known
        if f.server == name
    ]
    egress = [
        NetworkPolicyEgressRule(to=_peers(f.server), ports=[_port(f.port)] if f.port else None)
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


def _peers(server: str) -> list[NetworkPolicyPeer] | None:
    if server == EVERYWHERE:
        return None
    if server == CLUSTER:
        return [NetworkPolicyPeer(namespaceSelector=LabelSelector())]
    return [_pods(server)]


def _client(name: str) -> NetworkPolicyPeer:
    if name.startswith(NAMESPACE):
        labels = {NAMED: name.removeprefix(NAMESPACE)}
        return NetworkPolicyPeer(namespaceSelector=LabelSelector(matchLabels=labels))
    if name.startswith(NETWORK):
        return NetworkPolicyPeer(ipBlock=IPBlock(cidr=name.removeprefix(NETWORK)))
    return _pods(name)


def _pods(name: str) -> NetworkPolicyPeer:
    return NetworkPolicyPeer(podSelector=LabelSelector(matchLabels=selector(name)))


def _port(number: int, protocol: str = "TCP") -> NetworkPolicyPort:
    return NetworkPolicyPort(port=number, protocol=protocol)
