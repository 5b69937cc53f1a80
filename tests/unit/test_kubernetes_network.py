"""Who may talk to whom, worked out from the rendered network policies as a cluster's network does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from matcha import planning, registry
from matcha.component import Component, Deployment, ModelServer
from matcha.service import Service
from matcha.targets.kubernetes import KubernetesOptions, desired
from matcha.targets.kubernetes.names import JOB, MANAGER, labels, selector
from matcha.targets.kubernetes.setting import Setting, setting

LOCK = Path(registry.__file__).parent / "components" / "dvc" / "requirements.lock"
OWN_ENVIRONMENT = Deployment(
    name="m", asked="models:/m/1", uri="models:/m/1", environment="0123456789abcdef", python="3.11"
)
OUTSIDE = {
    "storage": "s3://company/ml?endpoint=https://s3.example.org",
    "storage-secret": "bucket-keys",
    "database": "mysql://db.example.org:3307",
    "database-secret": "db-login",
    "index-url": "http://index.example.org:8081/simple",
}
ANYWHERE, NEIGHBOUR = "anywhere", "a pod of another namespace"
DNS = (53, 5353)
SSH = 22  # nobody's
Flow = tuple[str, str, int]


class Pod(NamedTuple):
    """`namespace`: its labels; None is the stack's own."""

    name: str
    labels: dict[str, str]
    ports: tuple[int, ...] = ()
    namespace: dict[str, str] | None = None


def stack(options: dict[str, str], deployments: tuple[Deployment, ...] = ()) -> Setting:
    components: list[Component] = [
        cls(cls.Options()) for fs in registry.component_catalogue().values() for cls in fs.values()
    ]
    models = [
        c.model_environment("0123456789abcdef", LOCK, "3.11")
        for c in components
        if isinstance(c, ModelServer) and deployments
    ]
    wanted = planning.want(components, deployments, models)
    return setting(msgspec.convert(options, KubernetesOptions), wanted.services, wanted.environments)


# -- what a network that enforces policies would do ---------------------------------------------------------


def allowed(found: Setting, protocol: str = "TCP") -> set[Flow]:
    """Client, server and port of every connection that the policies let through: of what goes in or out, all
    that one end lets; within the stack, what both do, and neither may let more. Who may go anywhere meets the
    stack's own pods on the way, which do not let it in.
    """
    out, into = (opened(found, protocol, direction) for direction in ("egress", "ingress"))
    names = {pod.name for pod in pods(rendered(found))}
    inside = {(c, s, p) for c, s, p in out if s in names and not {(c, ANYWHERE, p), (c, NEIGHBOUR, p)} & out}
    assert inside <= into
    assert {f for f in into if f[0] in names} <= out
    return into | {f for f in out if f[1] not in names}


def opened(found: Setting, protocol: str, direction: str) -> set[Flow]:
    """What the policies of one end alone let through, to or from anybody that any policy may mean."""
    documents = rendered(found)
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    stack_pods = list(pods(documents))
    everybody = [
        *stack_pods,
        Pod(NEIGHBOUR, {}, namespace={}),
        Pod(ANYWHERE, {}),
        *others(policies, stack_pods),
    ]
    ports = (
        {p for pod in stack_pods for p in pod.ports}
        | {*DNS, SSH, 80, 443, 3307, 8081, 9000}
        | edges(policies)
    )
    return {
        (of.name, other.name, port) if direction == "egress" else (other.name, of.name, port)
        for of in stack_pods
        for other in everybody
        for port in ports
        if of.name != other.name and passes(policies, of, other, direction, port, protocol)
    }


def rendered(found: Setting) -> list[dict[str, Any]]:
    return [desired.document(obj, found.namespace) for obj in desired.whole(found)]


def rules(policies: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for policy in policies:
        yield from (*(policy.get("ingress") or ()), *(policy.get("egress") or ()))


def others(policies: list[dict[str, Any]], known: list[Pod]) -> Iterator[Pod]:
    """For each peer that a rule names, one that it means where no pod of the stack is meant."""
    for peer in (p for rule in rules(policies) for key in ("to", "from") for p in rule.get(key) or ()):
        labels = peer.get("podSelector", {}).get("matchLabels", {})
        namespace = peer.get("namespaceSelector", {}).get("matchLabels", {})
        if (labels or namespace) and not any(reaches([peer], pod) for pod in known):
            yield Pod(str(peer), labels, namespace=namespace if "namespaceSelector" in peer else None)


def edges(policies: list[dict[str, Any]]) -> set[int]:
    """The ports at which any rule begins or ends, and those beside them."""
    named = [p for rule in rules(policies) for p in rule.get("ports") or ()]
    ends = {end for p in named for end in ends_of(p)}
    return {port + step for port in ends for step in (-1, 0, 1) if 1 <= port + step <= 65535}


def ends_of(port: dict[str, Any]) -> tuple[int, int]:
    """No number means all, as no protocol means TCP; names of ports are not understood here."""
    assert port.keys() <= {"port", "endPort", "protocol"}
    if "port" not in port:
        return 1, 65535
    assert isinstance(port["port"], int)
    return port["port"], port.get("endPort", port["port"])


def pods(documents: list[dict[str, Any]]) -> Iterator[Pod]:
    """One of each template, whatever kind of object holds it."""
    seen = set()
    for document in documents:
        spec = document.get("spec") or {}
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if document["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
            template = spec["template"]
            given = template["metadata"]["labels"]
            numbers = [p["containerPort"] for c in template["spec"]["containers"] for p in c.get("ports", ())]
            name = given["app.kubernetes.io/name"]
            if name not in seen:
                seen.add(name)
                yield Pod(name, given, tuple(numbers))
    yield Pod(JOB, {**labels(JOB, MANAGER), **selector(JOB)})  # which a run adds


def passes(
    policies: list[dict[str, Any]], of: Pod, other: Pod, direction: str, port: int, protocol: str
) -> bool:
    mine = [
        p
        for p in policies
        if direction.capitalize() in p["policyTypes"] and covers(p["podSelector"], of.labels)
    ]
    rules = [rule for p in mine for rule in p.get(direction) or ()]
    key = "to" if direction == "egress" else "from"
    return not mine or any(
        reaches(rule.get(key), other) and opens(rule.get("ports"), port, protocol) for rule in rules
    )


def covers(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def reaches(peers: list[dict[str, Any]] | None, other: Pod) -> bool:
    """A peer without a namespace selector is of the stack's own namespace; no peers at all are anybody.
    Blocks of addresses are not understood here.
    """
    if not peers:
        return True
    assert all(p.keys() and p.keys() <= {"podSelector", "namespaceSelector"} for p in peers)
    return other.name != ANYWHERE and any(means(p, other) for p in peers)


def means(peer: dict[str, Any], other: Pod) -> bool:
    if not covers(peer.get("podSelector", {}), other.labels):
        return False
    if "namespaceSelector" in peer:
        return covers(peer["namespaceSelector"], other.namespace or {})
    return other.namespace is None


def opens(ports: list[dict[str, Any]] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    spans = [ends_of(p) for p in ports if p.get("protocol", "TCP") == protocol]
    return any(first <= port <= last for first, last in spans)


# -- what the stack needs -----------------------------------------------------------------------------------


def graph(found: Setting) -> set[Flow]:
    """Flows between services, by what each says of itself."""
    by_role = {s.role: s for s in found.services}

    def to(client: Service, server: Service) -> set[Flow]:
        return {(client.name, server.name, p.preferred) for p in server.ports}

    flows: set[Flow] = set()
    for service in found.services:
        for role in (*service.needs, *service.talks_to):
            flows |= to(service, by_role[role]) if role in by_role else set()
        for role in service.called_by:
            flows |= to(by_role[role], service) if role in by_role else set()
    return flows


def with_database(found: Setting) -> set[str]:
    return {s.name for s in found.services if s.databases}


def with_storage(found: Setting) -> set[str]:
    archived = {e.name for e in found.environments if not e.image}
    return {s.name for s in found.services if s.stores or s.environment in archived}


def out(clients: set[str], *ports: int) -> set[Flow]:
    return {(c, server, port) for c in clients for server in (ANYWHERE, NEIGHBOUR) for port in ports}


def of_jobs(found: Setting) -> set[Flow]:
    """To the stack's servers, as their users reach them."""
    return {(JOB, s.name, p.preferred) for s in found.services if not s.apart for p in s.ports}


def others_than_jobs(flows: set[Flow]) -> set[Flow]:
    """Users' own code goes anywhere outside of the stack."""
    return {f for f in flows if f[0] != JOB or f[1] not in (ANYWHERE, NEIGHBOUR)}


def without_dns(flows: set[Flow]) -> set[Flow]:
    return {f for f in flows if f[1] not in (ANYWHERE, NEIGHBOUR) or f[2] not in DNS}


DEDICATED = Deployment(name="alone", asked="models:/m/2", uri="models:/m/2", dedicated=True)


@pytest.mark.parametrize(
    "deployments",
    [(), (OWN_ENVIRONMENT,), (DEDICATED, OWN_ENVIRONMENT)],
    ids=["plain", "own environment", "dedicated"],
)
def test_pods_may_talk_to_whom_they_need_and_to_nobody_else(deployments: tuple[Deployment, ...]) -> None:
    found = stack({}, deployments)
    own = {
        ("mysql-setup", "mysql", 3306),
        ("mysql-dump", "mysql", 3306),
        ("mysql-dump", "object-store", 7070),
        ("environment-builder", "object-store", 7070),
        *((name, "mysql", 3306) for name in with_database(found)),
        *((name, "object-store", 7070) for name in with_storage(found)),
        *out({"environment-builder"}, 443),
        (JOB, "object-store", 7070),
    }
    assert without_dns(others_than_jobs(allowed(found))) == graph(found) | of_jobs(found) | own


def test_jobs_go_anywhere_but_to_the_database() -> None:
    flows = {f for f in allowed(stack({})) if f[0] == JOB}
    assert {(JOB, ANYWHERE, SSH), (JOB, NEIGHBOUR, SSH), (JOB, "mlflow", 5001)} <= flows
    assert not {f for f in flows if f[1] == "mysql"}
    assert not {f for f in allowed(stack({})) if f[1] == JOB}  # and nobody to them


def test_namespaces_that_are_named_reach_models_and_nothing_else() -> None:
    found = stack({"namespace": "ml"})
    opened_too = msgspec.structs.replace(found.options, allow_from=("shop",))
    shop = "a pod of the namespace shop"
    policies = [
        d["spec"]
        for d in rendered(msgspec.structs.replace(found, options=opened_too))
        if d["kind"] == "NetworkPolicy"
    ]
    app = Pod(shop, {"any": "label"}, namespace={"kubernetes.io/metadata.name": "shop"})
    other = Pod("of another", {"any": "label"}, namespace={"kubernetes.io/metadata.name": "shopping"})
    reached = {
        (pod.name, port)
        for pod in pods(rendered(found))
        for port in pod.ports
        if passes(policies, pod, app, "ingress", port, "TCP")
    }
    assert reached == {("mlserver", 8080), ("mlserver", 8081)}
    assert not any(
        passes(policies, pod, other, "ingress", port, "TCP")
        for pod in pods(rendered(found))
        for port in pod.ports
    )


def test_servers_outside_are_reached_on_their_ports_only() -> None:
    found = stack(OUTSIDE)
    own = {
        *out(with_database(found), 3307),
        *out({"environment-builder", "bucket-check", *with_storage(found)}, 443),
        *out({"environment-builder"}, 8081),
    }
    assert without_dns(others_than_jobs(allowed(found))) == graph(found) | of_jobs(found) | own


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://minio", 80),
        ("http://minio.storage:9000", 9000),
        ("https://minio.storage.svc", 443),
        ("http://minio-0.minio.storage.svc.cluster.local:9000", 9000),
        ("http://10.96.7.8:9000", 9000),
        ("http://[fd00::8]:9000", 9000),
    ],
)
def test_a_store_that_may_be_a_service_of_the_cluster_is_reached_on_any_port_of_its_pods(
    endpoint: str, port: int
) -> None:
    """Policies see the port of the pod, which the URL does not say."""
    found = stack({**OUTSIDE, "storage": f"s3://company?endpoint={endpoint}"})
    flows = {f for f in allowed(found) if f[0] == "mlflow"}
    assert ("mlflow", NEIGHBOUR, SSH) in flows
    assert {f[2] for f in flows if f[1] == ANYWHERE} == {port, 3307, *DNS}


@pytest.mark.parametrize("options", [{}, OUTSIDE], ids=["own", "outside"])
def test_every_pod_may_have_names_resolved(options: dict[str, str]) -> None:
    """At 53, and at 5353: that is where the pods behind OpenShift's DNS listen. Nothing else is not TCP."""
    found = stack(options)
    names = {pod.name for pod in pods(rendered(found))}
    assert names > {"mlflow", "environment-builder", *(["bucket-check"] if options else ["mysql-dump"])}
    assert out(names, *DNS) <= allowed(found, "TCP")
    assert others_than_jobs(allowed(found, "UDP")) == out(names - {JOB}, *DNS)
    assert others_than_jobs(allowed(found, "SCTP")) == set()


def test_what_a_service_refers_to_it_may_reach() -> None:
    """An address in a service's strings without a flow would be a timeout in a cluster with policies."""
    for service in stack({}).services:
        texts = (*service.command, *service.env.values(), *service.files.values())
        roles = set(re.findall(r"\{(?:url|address):([a-z-]+)", " ".join(texts)))
        assert roles <= {*service.needs, *service.talks_to}, service.name
