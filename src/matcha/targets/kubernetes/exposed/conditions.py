"""What those who run gateways and issue certificates say of the stack's, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from matcha.targets.kubernetes.exposed.objects import ISSUED, LISTENER
from matcha.targets.kubernetes.exposed.options import Expose

Document = Mapping[str, Any]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`detail`: why applications do not reach models, or where they do. `resolution`: what shows more."""

    reachable: bool
    detail: str
    resolution: str = ""
    taken_up: bool = True  # somebody looks at the Gateway, and at the route


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """As they are in the cluster; None for what is not there, or may not be seen. The `gateway` may be
    somebody else's.
    """

    route: Document | None
    gateway: Document | None
    certificate: Document | None = None


def judge(expose: Expose, parts: Parts) -> Verdict:
    """The first thing that is in the way, in the order in which they depend on each other."""
    for verdict in (*_of_gateway(expose, parts), *_of_route(parts.route)):
        if verdict is not None:
            return verdict
    said = f"https://{expose.models}"
    address = _address(parts.gateway)
    if parts.gateway is not None and not address:
        return _no("the Gateway has no address yet", _look("gateway", parts.gateway))
    return Verdict(reachable=True, detail=f"{said}, at {address}" if address else said)


def _of_gateway(expose: Expose, parts: Parts) -> Iterator[Verdict | None]:
    gateway = parts.gateway
    if gateway is None:
        return  # it may be another namespace's, which this user does not see
    look = _look("gateway", gateway)
    accepted = _condition(gateway, "Accepted")
    if accepted is None:
        named = f'class "{gateway.get("spec", {}).get("gatewayClassName", "")}"'
        yield _no(f"no controller has taken up the Gateway (of {named})", "kubectl get gatewayclass", False)
    elif accepted.get("status") != "True":
        yield _no(f"the Gateway is not accepted: {_said(accepted)}", look)
    if parts.certificate is not None:
        yield _certificate(parts.certificate)
    listener = _listener(gateway, expose.listener or LISTENER)
    for kind, what in (("Accepted", "is not accepted"), ("ResolvedRefs", "lacks what it names")):
        found = _condition({"status": listener}, kind)
        if found is not None and found.get("status") == "False":
            yield _no(f"the Gateway's listener {what}: {_said(found)}", look)
    programmed = _condition(gateway, "Programmed")
    if programmed is None or programmed.get("status") != "True":
        why = f": {_said(programmed)}" if programmed else ""
        yield _no(f"the Gateway is being set up{why}", look)


def _certificate(found: Document) -> Verdict | None:
    ready = _condition(found, "Ready")
    look = _look("certificate", found)
    if ready is None:
        return _no(f"nobody issues the certificate ({ISSUED}): is cert-manager well?", look)
    if ready.get("status") != "True":
        return _no(f"its certificate is not issued: {_said(ready)}", look)
    return None


def _of_route(route: Document | None) -> Iterator[Verdict | None]:
    if route is None:
        yield _no("the HTTPRoute is missing", "matcha provision")
        return
    look = _look("httproute", route)
    parents = (route.get("status") or {}).get("parents") or ()
    generation = _generation(route)
    conditions = [
        c for p in parents for c in p.get("conditions") or () if c.get("observedGeneration", 0) >= generation
    ]
    if not conditions:
        yield _no("no controller has taken up the HTTPRoute", look, False)
    for found in conditions:
        if found.get("type") in ("Accepted", "ResolvedRefs") and found.get("status") != "True":
            yield _no(f"the HTTPRoute is not accepted: {_said(found)}", look)


def _condition(of: Document, kind: str) -> Document | None:
    """None where nobody said anything of the object as it is now."""
    generation = _generation(of)
    for each in _conditions(of):
        if each.get("type") == kind and each.get("observedGeneration", generation) >= generation:
            # what the API server fills in, for nobody has looked at it
            return None if each.get("status") == "Unknown" and each.get("reason") == "Pending" else each
    return None


def _conditions(of: Document) -> Sequence[Document]:
    found: Sequence[Document] = (of.get("status") or {}).get("conditions") or ()
    return found


def _generation(of: Document) -> int:
    return int((of.get("metadata") or {}).get("generation") or 0)


def _listener(gateway: Document, name: str) -> Document:
    listeners = (gateway.get("status") or {}).get("listeners") or ()
    return next((each for each in listeners if each.get("name") == name), {})


def _address(gateway: Document | None) -> str:
    addresses = ((gateway or {}).get("status") or {}).get("addresses") or ()
    return next((str(each["value"]) for each in addresses if each.get("value")), "")


def _said(condition: Document) -> str:
    """Its message, or its reason."""
    return " ".join(str(condition.get("message") or condition.get("reason") or "").split()).rstrip(".")


def _look(kind: str, of: Document) -> str:
    metadata = of.get("metadata") or {}
    where = f" --namespace {metadata['namespace']}" if "namespace" in metadata else ""
    return f"kubectl{where} describe {kind} {metadata.get('name', '')}"


def _no(detail: str, resolution: str, taken_up: bool = True) -> Verdict:
    return Verdict(reachable=False, detail=detail, resolution=resolution, taken_up=taken_up)
