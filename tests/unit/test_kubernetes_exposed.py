"""Exposing models: what matcha.yaml may say of it, what is made of that, and what gateways say in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from matcha.api._project import open_project
from matcha.errors import StackFileError
from matcha.service import OUTSIDE, Environment, Port
from matcha.targets.kubernetes import KubernetesOptions, desired, network
from matcha.targets.kubernetes.exposed import objects
from matcha.targets.kubernetes.exposed.conditions import Parts, judge
from matcha.targets.kubernetes.exposed.options import Expose
from matcha.targets.kubernetes.names import MINE
from matcha.targets.kubernetes.names import NAME as NAMED
from matcha.targets.kubernetes.resolve import resolve
from matcha.targets.kubernetes.setting import Setting, setting
from support.plain import web

HOST = "models.example.com"
MADE = {"models": HOST, "gateway-class": "envoy", "tls-secret": "cert"}
SHARED = {"models": HOST, "gateway": "infra/shared", "listener": "https"}

# What is wrong, and what the error says of it, at which key.
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({**MADE, "models": "https://models.example.com"}, "models", "a host's whole name in lower case"),
    ({**MADE, "models": "models.example.com:443"}, "models", "without a port"),
    ({**MADE, "models": "*.example.com"}, "models", "a host's whole name"),
    ({**MADE, "models": "models"}, "models", "a host's whole name"),
    ({**MADE, "models": "10.0.0.1"}, "models", "a host's whole name"),
    ({**MADE, "models": "Models.example.com"}, "models", "a host's whole name"),
    ({**MADE, "models": f"{HOST}\n"}, "models", "a host's whole name"),
    ({"gateway-class": "envoy", "tls-secret": "cert"}, "", "models"),
    ({"models": HOST, "tls-secret": "cert"}, "gateway-class", "found neither"),
    ({**MADE, **SHARED}, "gateway", "found both"),
    ({"models": HOST, "gateway-class": "envoy"}, "models", "found none: tokens are sent by TLS only"),
    ({**MADE, "issuer": "team"}, "issuer", "found tls-secret and issuer"),
    (
        {**MADE, "issuer": "a", "cluster-issuer": "b"},
        "cluster-issuer",
        "tls-secret and issuer and cluster-issuer",
    ),
    ({**SHARED, "tls-secret": "cert"}, "tls-secret", "goes without gateway"),
    ({"models": HOST, "gateway": "shared"}, "listener", "gateway needs listener"),
    ({**MADE, "listener": "https"}, "listener", "of a Gateway that is there"),
    ({**SHARED, "gateway": "a/b/c"}, "gateway", "as in shared or infra/shared"),
    ({**MADE, "gateway-addresses": ["10.0.0.1/8"]}, "gateway-addresses", "as in [10.0.0.0/8]"),
    ({**MADE, "gateway-addresses": ["10.0.0.1"]}, "gateway-addresses", "found '10.0.0.1'"),
    ({**MADE, "rate": 0}, "rate", "a number of requests a second"),
    ({**MADE, "tls-secert": "cert"}, "tls-secert", 'Did you mean "tls-secret"?'),
]
GOOD: list[dict[str, Any]] = [
    MADE,
    SHARED,
    {**SHARED, "gateway": "shared"},
    {"models": "m.corp", "gateway-class": "nginx", "cluster-issuer": "letsencrypt", "rate": 0.5},
    {**MADE, "gateway-namespace": "envoy-gateway-system", "gateway-addresses": ["10.0.0.0/8", "fd00::/8"]},
]


def opened(folder: Path, expose: dict[str, Any]) -> Any:
    (folder / "matcha.yaml").write_text(
        f"target: kubernetes\ntargets:\n  kubernetes:\n    expose: {json.dumps(expose)}\n"
    )
    return open_project(folder, None)


@pytest.mark.parametrize(("expose", "key", "said"), BAD, ids=[f"{b[1]}: {b[2]}" for b in BAD])
def test_what_could_not_be_is_refused_as_the_file_is_read(
    tmp_path: Path, expose: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(StackFileError) as refused:
        opened(tmp_path, expose)
    error = refused.value
    assert said in f"{error.message} {error.resolution}"
    assert error.details.startswith(f"At targets.kubernetes.expose{f'.{key}' if key else ''}")


@pytest.mark.parametrize("expose", GOOD)
def test_what_could_be_is_taken(tmp_path: Path, expose: dict[str, Any]) -> None:
    opened(tmp_path, expose)


# -- what is made -------------------------------------------------------------------------------------------


def stack(**expose: Any) -> Setting:
    made = msgspec.convert(expose, Expose) if expose else None
    service = web("mlserver", preferred=8080, outside=Port("applications", 8083))
    options = KubernetesOptions(namespace="ml", expose=made)
    plain = Environment(name="plain", lock=Path(__file__), image="python:3.12")
    return setting(options, [service, web("mlflow", preferred=5001)], [plain])


def kinds(found: Setting) -> list[str]:
    return [type(each).__name__ for each in objects.objects(found)]


def test_nothing_is_open_where_nothing_is_exposed() -> None:
    found = stack()
    assert objects.GATEWAY not in desired.laid(found)
    assert not [f for f in network.flows(found) if f.port == 8083]
    service = found.services[0]
    for part, value in OUTSIDE.items():
        assert resolve(f"{{outside:{part}}}", service, found.around) == value


def test_a_service_learns_how_it_is_exposed() -> None:
    found = stack(**MADE, rate=7.5)
    exposed, other = found.services
    told = [resolve(f"{{outside:{part}}}", exposed, found.around) for part in OUTSIDE]
    assert told == ["8083", HOST, "/matcha/outside/tokens.json", "7.5"]
    assert resolve("{outside:port}", other, found.around) == "0"


def test_by_what_tls_is_spoken_is_said_once() -> None:
    assert kinds(stack(**MADE)) == ["Gateway", "HTTPRoute"]
    by_issuer = stack(models=HOST, **{"gateway-class": "envoy", "issuer": "team"})
    assert kinds(by_issuer) == ["Certificate", "Gateway", "HTTPRoute"]
    for found, secret in ((stack(**MADE), "cert"), (by_issuer, objects.ISSUED)):
        [listener] = next(o for o in objects.objects(found) if "Gateway" in type(o).__name__).spec[
            "listeners"
        ]
        assert listener["protocol"] == "HTTPS" and listener["tls"]["mode"] == "Terminate"
        assert listener["tls"]["certificateRefs"][0]["name"] == secret


def test_what_a_controller_makes_for_the_gateway_is_not_taken_for_matchas() -> None:
    """Istio copies a Gateway's own labels where it names none: the stack's policies would close its pods."""
    found, _ = objects.objects(stack(**MADE))
    given = found.spec["infrastructure"]["labels"]
    assert given
    assert not given.items() & {**MINE, **network.PART_OF}.items()
    assert given[NAMED] not in [f.server for f in network.flows(stack(**MADE))]


def test_a_gateway_of_others_gets_a_route_of_its_own_to_one_listener() -> None:
    found = stack(**SHARED)
    [route] = objects.objects(found)
    [parent] = route.spec["parentRefs"]
    assert (parent["namespace"], parent["name"], parent["sectionName"]) == ("infra", "shared", "https")
    [flow] = [f for f in network.flows(found) if f.port == 8083]
    assert flow == network.Flow("namespace:infra", "mlserver", 8083)


def test_who_may_bring_requests_in() -> None:
    def clients(**more: Any) -> list[str]:
        return [f.client for f in network.flows(stack(**{**MADE, **more})) if f.port == 8083]

    assert clients() == ["namespace:ml"]
    assert clients(**{"gateway-namespace": "edge"}) == ["namespace:edge"]
    assert clients(**{"gateway-addresses": ["10.0.0.0/8"]}) == ["namespace:ml", "network:10.0.0.0/8"]


# -- what those say who run it ------------------------------------------------------------------------------

EXPOSE = msgspec.convert(MADE, Expose)
META = {"name": "matcha-models", "namespace": "ml", "generation": 3}


def condition(kind: str, status: str = "True", message: str = "", generation: int = 3, **more: str) -> Any:
    return {"type": kind, "status": status, "message": message, "observedGeneration": generation, **more}


def gateway(*conditions: Any, listener: Any = (), address: str = "203.0.113.9") -> Any:
    status = {
        "conditions": [*conditions],
        "listeners": [{"name": "https", "conditions": [*listener]}],
        "addresses": [{"value": address}] if address else [],
    }
    return {"metadata": META, "spec": {"gatewayClassName": "envoy"}, "status": status}


def route(*conditions: Any) -> Any:
    return {"metadata": META, "status": {"parents": [{"conditions": [*conditions]}] if conditions else []}}


WELL = gateway(condition("Accepted"), condition("Programmed"), listener=[condition("ResolvedRefs")])
ROUTED = route(condition("Accepted"), condition("ResolvedRefs"))
PENDING = condition("Accepted", "Unknown", "Waiting for controller", 0, reason="Pending")
NO_CERTIFICATE = condition("ResolvedRefs", "False", "Secret cert not found.")


ACCEPTED, PROGRAMMED = condition("Accepted"), condition("Programmed")
UNASSIGNED = condition("Programmed", "False", reason="AddressNotAssigned")
NO_BACKEND = condition("ResolvedRefs", "False", "no backend")
ORDERED: Any = {"metadata": META, "status": {"conditions": [condition("Ready", "False", "Order pending")]}}
NOBODY = "no controller has taken up the"

IN_THE_WAY: list[tuple[Parts, str, bool]] = [
    (Parts(route=ROUTED, gateway=gateway(PENDING)), f'{NOBODY} Gateway (of class "envoy")', False),
    (Parts(route=ROUTED, gateway=gateway()), f"{NOBODY} Gateway", False),
    (Parts(route=ROUTED, gateway=gateway(condition("Accepted", generation=2))), f"{NOBODY} Gateway", False),
    (
        Parts(route=ROUTED, gateway=gateway(condition("Accepted", "False", "no such port."))),
        "the Gateway is not accepted: no such port",
        True,
    ),
    (
        Parts(route=ROUTED, gateway=gateway(ACCEPTED, listener=[NO_CERTIFICATE])),
        "the Gateway's listener lacks what it names: Secret cert not found",
        True,
    ),
    (
        Parts(route=ROUTED, gateway=gateway(ACCEPTED, UNASSIGNED)),
        "the Gateway is being set up: AddressNotAssigned",
        True,
    ),
    (Parts(route=ROUTED, gateway=gateway(ACCEPTED, PROGRAMMED, address="")), "has no address yet", True),
    (Parts(route=None, gateway=WELL), "the HTTPRoute is missing", True),
    (Parts(route=route(), gateway=WELL), f"{NOBODY} HTTPRoute", False),
    (Parts(route=route(condition("Accepted", generation=2)), gateway=WELL), f"{NOBODY} HTTPRoute", False),
    (
        Parts(route=route(condition("Accepted", "False", "NotAllowedByListeners")), gateway=None),
        "the HTTPRoute is not accepted: NotAllowedByListeners",
        True,
    ),
    (Parts(route=route(ACCEPTED, NO_BACKEND), gateway=WELL), "is not accepted: no backend", True),
    (
        Parts(route=ROUTED, gateway=gateway(ACCEPTED), certificate={"metadata": META}),
        "nobody issues the certificate",
        True,
    ),
    (
        Parts(route=ROUTED, gateway=gateway(ACCEPTED, listener=[NO_CERTIFICATE]), certificate=ORDERED),
        "its certificate is not issued: Order pending",
        True,
    ),
]


@pytest.mark.parametrize(("parts", "said", "taken_up"), IN_THE_WAY, ids=[each[1] for each in IN_THE_WAY])
def test_what_is_in_the_way_is_said(parts: Parts, said: str, taken_up: bool) -> None:
    found = judge(EXPOSE, parts)
    assert not found.reachable and said in found.detail
    assert found.resolution.startswith(("kubectl ", "matcha "))
    assert found.taken_up is taken_up


def test_where_models_are_is_said_where_nothing_is_in_the_way() -> None:
    assert judge(EXPOSE, Parts(route=ROUTED, gateway=WELL)).detail == f"https://{HOST}, at 203.0.113.9"
    unseen = judge(EXPOSE, Parts(route=ROUTED, gateway=None))  # of a namespace that one may not see
    assert unseen.reachable and unseen.detail == f"https://{HOST}"
