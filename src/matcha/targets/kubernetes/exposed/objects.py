"""What exposing a stack's models consists of. Pure.

A request comes by TLS to the Gateway, which sends it to the `outside` port of the service: that asks for a
token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightkube.models.meta_v1 import ObjectMeta

from matcha.service import Port, Service
from matcha.targets.kubernetes.exposed.kinds import CERTIFICATES, GATEWAYS, Certificate, Gateway, HTTPRoute
from matcha.targets.kubernetes.exposed.options import Expose
from matcha.targets.kubernetes.names import INSTANCE, MANAGER, labels
from matcha.targets.kubernetes.names import NAME as NAMED
from matcha.targets.kubernetes.setting import Setting

GATEWAY = "gateway"  # the foundation
NAME = "matcha-models"
ISSUED = "matcha-models-tls"  # the Secret into which cert-manager puts its certificate
LISTENER = "https"
PREFIX = "/v2/models/"
METHODS = ("GET", "POST")


def doors(setting: Setting) -> list[tuple[Service, Port]]:
    """Services that are exposed, each with its port for it."""
    found = [(service, service.outside) for service in setting.services if service.outside is not None]
    return found if setting.options.expose else []


def objects(setting: Setting) -> Iterator[Any]:
    """In the order of need."""
    expose = setting.options.expose
    assert expose is not None
    if expose.issuer or expose.cluster_issuer:
        yield _certificate(expose, setting.namespace)
    if expose.gateway_class:
        yield _gateway(expose)
    yield _route(expose, setting)


def secret(expose: Expose) -> str:
    """That holds the certificate of a Gateway of Matcha's."""
    return expose.tls_secret or ISSUED


def of(expose: Expose, namespace: str) -> tuple[str, str]:
    """Namespace and name of the Gateway."""
    there, name = expose.namespace_and_gateway
    return there or namespace, name or NAME


def _metadata() -> ObjectMeta:
    return ObjectMeta(name=NAME, labels=labels(GATEWAY, MANAGER))


def _certificate(expose: Expose, namespace: str) -> Any:
    """Its Secret bears Matcha's labels, so that it goes with the stack: cert-manager would leave it."""
    kind = "Issuer" if expose.issuer else "ClusterIssuer"
    issuer = {"name": expose.issuer or expose.cluster_issuer, "kind": kind, "group": CERTIFICATES}
    spec = {
        "secretName": ISSUED,
        "secretTemplate": {"labels": {**labels(GATEWAY, MANAGER), INSTANCE: namespace}},
        "dnsNames": [expose.models],
        "issuerRef": issuer,
        "privateKey": {"rotationPolicy": "Always"},
        "usages": ["digital signature", "key encipherment"],
    }
    return Certificate(metadata=_metadata(), spec=spec)


def _gateway(expose: Expose) -> Any:
    """It listens for this host alone, by TLS alone, and takes routes of its own namespace alone.

    Some controllers (Istio) give the pods that they make for it the Gateway's labels where it says no others:
    by these Matcha would take them for its own, stop them, and let nothing in to them.
    """
    listener = {
        "name": LISTENER,
        "hostname": expose.models,
        "port": 443,
        "protocol": "HTTPS",
        "tls": {
            "mode": "Terminate",
            "certificateRefs": [{"group": "", "kind": "Secret", "name": secret(expose)}],
        },
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    spec = {
        "gatewayClassName": expose.gateway_class,
        "infrastructure": {"labels": {NAMED: NAME}},
        "listeners": [listener],
    }
    return Gateway(metadata=_metadata(), spec=spec)


def _route(expose: Expose, setting: Setting) -> Any:
    """By its listener: another one of the same Gateway may speak without TLS."""
    namespace, name = of(expose, setting.namespace)
    parent = {"group": GATEWAYS, "kind": "Gateway", "name": name}
    parent |= {"namespace": namespace} if namespace != setting.namespace else {}
    path = {"type": "PathPrefix", "value": PREFIX}
    rules = [
        {
            "matches": [{"path": path, "method": method} for method in METHODS],
            "backendRefs": [
                {"group": "", "kind": "Service", "name": service.name, "port": port.preferred, "weight": 1}
            ],
        }
        for service, port in doors(setting)
    ]
    spec = {
        "parentRefs": [{**parent, "sectionName": expose.listener or LISTENER}],
        "hostnames": [expose.models],
        "rules": rules,
    }
    return HTTPRoute(metadata=_metadata(), spec=spec)
