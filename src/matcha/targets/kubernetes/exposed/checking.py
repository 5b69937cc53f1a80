"""Whether a cluster has what exposing models needs: asked before anything is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matcha.errors import MatchaError
from matcha.targets.kubernetes.cluster import Cluster, ClusterError, Gone
from matcha.targets.kubernetes.exposed.conditions import Parts
from matcha.targets.kubernetes.exposed.kinds import CERTIFICATES, GATEWAYS, Certificate, Gateway, HTTPRoute
from matcha.targets.kubernetes.exposed.objects import NAME, of
from matcha.targets.kubernetes.exposed.options import Expose
from matcha.targets.kubernetes.options import KubernetesOptions

API = f"/apis/{GATEWAYS}/v1"
ISSUERS = f"/apis/{CERTIFICATES}/v1"
INSTALL = (
    "kubectl apply --server-side -f "
    "https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.0/standard-install.yaml"
)


def refuse(cluster: Cluster, options: KubernetesOptions) -> None:
    """Raises MatchaError for what is missing, with what to do. What the user may not see is left alone."""
    if (expose := options.expose) is None:
        return
    _refuse_api(cluster)
    if expose.gateway_class:
        _refuse_class(cluster, expose)
    else:
        _refuse_gateway(cluster, expose)
    if expose.issuer or expose.cluster_issuer:
        _refuse_issuer(cluster, expose)


def _refuse_api(cluster: Cluster) -> None:
    there = {each["kind"] for each in (_asked(cluster, API) or {}).get("resources") or ()}
    if not {Gateway.__name__, HTTPRoute.__name__} <= there:
        raise MatchaError(
            "The cluster has no Gateway API (v1), by which models are exposed.",
            details="It needs these kinds, and a controller that serves them, such as Envoy Gateway, Istio, "
            "Cilium or the one of your cloud.",
            resolution=f"Have an administrator install a controller, and the kinds where it lacks them: "
            f"{INSTALL}",
        )


def _refuse_class(cluster: Cluster, expose: Expose) -> None:
    if _asked(cluster, f"{API}/gatewayclasses/{expose.gateway_class}") is not None:
        return
    known = (_asked(cluster, f"{API}/gatewayclasses") or {}).get("items") or ()
    names = ", ".join(str(each["metadata"]["name"]) for each in known)
    raise MatchaError(
        f'The cluster has no GatewayClass "{expose.gateway_class}".',
        details=f"It has: {names}." if names else "It has none: a controller brings one.",
        resolution="Change targets.kubernetes.expose.gateway-class in matcha.yaml, then: matcha plan",
    )


def _refuse_gateway(cluster: Cluster, expose: Expose) -> None:
    """Raises also for a listener that others could read tokens from."""
    namespace, name = of(expose, cluster.namespace)
    found = _asked(cluster, f"{API}/namespaces/{namespace}/gateways/{name}")
    option = "targets.kubernetes.expose in matcha.yaml"
    if found is None:
        raise MatchaError(
            f"There is no Gateway {name} in the namespace {namespace}.",
            resolution=f"Change {option} (gateway), then: matcha plan",
        )
    if not found:
        return
    listeners = found["spec"].get("listeners") or ()
    listener = next((each for each in listeners if each["name"] == expose.listener), None)
    if listener is None:
        names = ", ".join(str(each["name"]) for each in listeners)
        raise MatchaError(
            f"The Gateway {namespace}/{name} has no listener {expose.listener}. It has: {names or 'none'}.",
            resolution=f"Change {option} (listener), then: matcha plan",
        )
    mode = (listener.get("tls") or {}).get("mode", "Terminate")
    if listener["protocol"] != "HTTPS" or mode != "Terminate":
        raise MatchaError(
            f"The listener {expose.listener} of the Gateway {namespace}/{name} does not end TLS.",
            details="Tokens are sent by TLS only.",
            resolution=f"Change {option} (listener) to one of protocol HTTPS, then: matcha plan",
        )


def _refuse_issuer(cluster: Cluster, expose: Expose) -> None:
    there = {each["kind"] for each in (_asked(cluster, ISSUERS) or {}).get("resources") or ()}
    if Certificate.__name__ not in there:
        raise MatchaError(
            "The cluster has no cert-manager, which issues certificates.",
            resolution="Have an administrator install it (https://cert-manager.io), or name a Secret with a "
            "certificate: targets.kubernetes.expose.tls-secret",
        )
    name = expose.issuer or expose.cluster_issuer
    where = f"namespaces/{cluster.namespace}/issuers" if expose.issuer else "clusterissuers"
    if _asked(cluster, f"{ISSUERS}/{where}/{name}") is None:
        kind = "Issuer" if expose.issuer else "ClusterIssuer"
        raise MatchaError(
            f"The cluster has no {kind} {name}.",
            resolution="Make it, or change targets.kubernetes.expose in matcha.yaml. "
            f"To see those there are: kubectl get {kind.lower()}",
        )


def _asked(cluster: Cluster, address: str) -> Mapping[str, Any] | None:
    """None for what is not there; empty for what this user may not see."""
    try:
        found: Mapping[str, Any] = cluster.ask(address, again=True)
    except Gone:
        return None
    except ClusterError as error:
        if error.status == 403:
            return {}
        raise
    return found


def parts(cluster: Cluster, expose: Expose) -> Parts:
    """As `conditions.judge` takes them."""
    namespace, name = of(expose, cluster.namespace)
    issued = expose.issuer or expose.cluster_issuer
    own = f"namespaces/{cluster.namespace}"
    return Parts(
        route=cluster.raw(f"{API}/{own}/httproutes/{NAME}"),
        gateway=cluster.raw(f"{API}/namespaces/{namespace}/gateways/{name}"),
        certificate=cluster.raw(f"{ISSUERS}/{own}/certificates/{NAME}") if issued else None,
    )


def notes(cluster: Cluster, options: KubernetesOptions) -> Iterator[str]:
    """For a plan: what could not be checked, and who gets in."""
    if (expose := options.expose) is None:
        return
    yield f"Applications reach models at https://{expose.models}, each with a token (matcha tokens)."
    if expose.gateway:
        namespace, name = of(expose, cluster.namespace)
        if not _asked(cluster, f"{API}/namespaces/{namespace}/gateways/{name}"):
            named = f"the Gateway {namespace}/{name}"
            yield f"You may not see {named}: whether its listener ends TLS was not checked."
