"""Models exposed by the real kinds of the Gateway API: made, told, taken back; and the tokens for them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod, Secret
from lightkube.resources.core_v1 import Service as ServiceObject
from lightkube.resources.networking_v1 import NetworkPolicy
from lightkube.types import PatchType

from matcha.access import Access
from matcha.component import Tokens
from matcha.errors import MatchaError, NotFound
from matcha.service import Port
from matcha.target import Changed
from matcha.targets.kubernetes import permissions
from matcha.targets.kubernetes.exposed import waiting
from matcha.targets.kubernetes.exposed.kinds import Certificate, Gateway, HTTPRoute
from matcha.targets.kubernetes.exposed.mounted import KEY, NAME
from matcha.targets.kubernetes.exposed.objects import ISSUED
from matcha.targets.kubernetes.exposed.objects import NAME as EXPOSED
from matcha.targets.kubernetes.exposed.options import Expose
from matcha.targets.kubernetes.names import SECRETS, TOUCHED
from matcha.targets.kubernetes.secrets import values
from support.apiserver import as_user
from support.faults import Fault, FaultyProxy
from support.gateways import CERTIFICATES, GATEWAYS, edge, installed, make_class, published
from support.matcha import until
from support.rights import grant
from support.small_stack import Small, SmallStack, there, usual
from support.stores import cluster

HOST = "models.example.com"
CLASS = "edge"
BY_SECRET = Expose(models=HOST, gateway_class=CLASS, tls_secret="models-tls")
BY_ISSUER = Expose(models=HOST, gateway_class=CLASS, issuer="team")


class Guarded(Small):
    """With a service that is exposed, whose servers are told of tokens here."""

    told: list[Tokens] = []  # noqa: RUF012 - of one test
    silent: Sequence[str] = ()

    def take_tokens(self, access: Access, tokens: Tokens) -> Sequence[str]:
        self.told.append(tokens)
        return self.silent


def exposing(stack: SmallStack, expose: Expose | None = BY_SECRET) -> SmallStack:
    back, front = usual()
    outside_port = Port("applications", 8083)
    args = (*front.command, "{outside:port}", "{outside:hosts}")
    front = msgspec.structs.replace(front, role=Guarded.role, outside=outside_port, command=args)
    stack.services = (back, front)
    stack.options = {"expose": expose}
    stack.component = Guarded
    Guarded.told, Guarded.silent = [], ()
    return stack


@pytest.fixture(scope="module")
def _kinds(api_server: Path) -> Iterator[None]:
    with installed(api_server, published(GATEWAYS, CERTIFICATES)):
        make_class(api_server, CLASS)
        yield


@pytest.fixture
def exposed(_kinds: None, stack: SmallStack) -> SmallStack:
    return exposing(stack)


@pytest.fixture
def controller(_kinds: None, api_server: Path) -> Iterator[None]:
    with edge(api_server, CLASS):
        yield


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL", 0.2)


def certificate(api_server: Path, namespace: str, name: str = "models-tls", **labels: str) -> None:
    made = trustme.CA().issue_cert(HOST)
    data = {"tls.crt": made.cert_chain_pems[0].bytes(), "tls.key": made.private_key_pem.bytes()}
    coded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = ObjectMeta(name=name, labels=labels)
    cluster(api_server, namespace).create(Secret(metadata=metadata, type="kubernetes.io/tls", data=coded))


def gateway(stack: SmallStack) -> Any:
    return next(f for f in stack.status().foundations if f.name == "gateway")


# -- before anything is made --------------------------------------------------------------------------------


def test_a_cluster_without_the_kinds_is_refused_before_anything_is_made(
    api_server: Path, stack: SmallStack
) -> None:
    """Runs before the others of this file, which install them."""
    exposing(stack)
    with pytest.raises(MatchaError, match="has no Gateway API") as told:
        stack.provision()
    assert "standard-install.yaml" in told.value.resolution
    assert there(api_server, stack.namespace) == set()
    found = stack.doctor()["expose"]
    assert not found.ok and "standard-install.yaml" in found.fix


@pytest.mark.parametrize(
    ("expose", "said", "resolution"),
    [
        (
            Expose(models=HOST, gateway_class="none", tls_secret="a"),
            'no GatewayClass "none"',
            "gateway-class",
        ),
        (BY_ISSUER, "no Issuer team", "kubectl get issuer"),
        (
            Expose(models=HOST, gateway_class=CLASS, cluster_issuer="all"),
            "no ClusterIssuer all",
            "get clusterissuer",
        ),
        (Expose(models=HOST, gateway="shared", listener="https"), "no Gateway shared", "(gateway)"),
    ],
)
def test_what_the_cluster_lacks_is_said_at_once(
    api_server: Path, exposed: SmallStack, expose: Expose, said: str, resolution: str
) -> None:
    exposed.options = {"expose": expose}
    with pytest.raises(MatchaError, match=said) as told:
        exposed.plan()
    assert resolution in told.value.resolution
    assert there(api_server, exposed.namespace) == set()


def test_a_listener_without_tls_is_refused(api_server: Path, exposed: SmallStack) -> None:
    """What would carry tokens in the clear."""
    listeners = [
        {"name": "plain", "port": 80, "protocol": "HTTP"},
        {"name": "through", "port": 8443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
        {
            "name": "https", "port": 443, "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "a"}]},
        },
    ]  # fmt: skip
    made = Gateway(metadata=ObjectMeta(name="shared"), spec={"gatewayClassName": "x", "listeners": listeners})
    cluster(api_server, exposed.namespace).create(made)
    for name, said in (
        ("plain", "does not end TLS"),
        ("through", "does not end TLS"),
        ("other", "has: plain, through, https"),
    ):
        exposed.options = {"expose": Expose(models=HOST, gateway="shared", listener=name)}
        with pytest.raises(MatchaError, match=said):
            exposed.plan()
    exposed.options = {"expose": Expose(models=HOST, gateway="shared", listener="https")}
    assert [s.key for s in exposed.plan().steps if s.key == "foundation/gateway"]


def test_the_plan_says_what_will_be_open_and_what_is_missing(exposed: SmallStack) -> None:
    notes = exposed.plan().notes
    assert f"Applications reach models at https://{HOST}, each with a token (matcha tokens)." in notes
    [lacking] = [note for note in notes if "models-tls" in note]
    assert "models are not reachable before" in lacking and "create secret tls models-tls" in lacking


# -- a life -------------------------------------------------------------------------------------------------


def test_it_is_made_told_kept_and_taken_back(api_server: Path, exposed: SmallStack, controller: None) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    admin = cluster(api_server, exposed.namespace)
    found = {"Gateway/matcha-models", "HTTPRoute/matcha-models"}
    assert found <= there(api_server, exposed.namespace)
    [backend] = admin.get(HTTPRoute, EXPOSED).spec["rules"][0]["backendRefs"]
    assert (backend["name"], backend["port"]) == ("front", 8083)
    service = admin.get(ServiceObject, "front")
    assert 8083 in [p.port for p in service.spec.ports]
    [container] = admin.get(Deployment, "front").spec.template.spec.containers
    assert container.args[-2:] == ["8083", HOST]
    until(lambda: gateway(exposed).healthy, 30)
    assert gateway(exposed).detail == f"https://{HOST}, at 203.0.113.10"
    assert exposed.plan().steps == ()  # what controllers say is no drift
    assert not exposed.provision().changed
    exposed.options = {}
    assert {"service/front", "foundation/gateway"} <= {s.key for s in exposed.plan().steps}
    exposed.provision()
    assert not found & there(api_server, exposed.namespace)
    [container] = admin.get(Deployment, "front").spec.template.spec.containers
    assert container.args[-2:] == ["0", ""]
    assert 8083 not in [p.port for p in admin.get(ServiceObject, "front").spec.ports]
    assert exposed.plan().steps == ()


def test_it_goes_with_the_stack(api_server: Path, exposed: SmallStack, controller: None) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    exposed.create_token("shop")
    assert f"Secret/{NAME}" in there(api_server, exposed.namespace)
    gone = exposed.destroy(delete_data=False)
    assert "HTTPRoute matcha-models" in gone.removed and f"Secret {NAME}" in gone.removed
    left = there(api_server, exposed.namespace)
    assert left == {
        "PersistentVolumeClaim/object-store",
        "PersistentVolumeClaim/back-data",
        f"Secret/{SECRETS}",
    }
    exposed.destroy()
    assert there(api_server, exposed.namespace) == set()
    assert cluster(api_server, exposed.namespace).get(Secret, "models-tls")  # the user's own


def test_what_somebody_changed_is_seen_and_put_right(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    other = cluster(api_server, exposed.namespace).client
    other.patch(HTTPRoute, EXPOSED, {"spec": {"hostnames": ["else.example.com"]}}, patch_type=PatchType.MERGE)
    assert "spec.hostnames" in exposed.details()["gateway"]
    [step] = exposed.plan().steps
    assert step.key == "foundation/gateway"
    exposed.provision()
    assert other.get(HTTPRoute, EXPOSED).spec["hostnames"] == [HOST]
    other.delete(Gateway, EXPOSED)
    assert not gateway(exposed).healthy
    exposed.provision()
    until(lambda: gateway(exposed).healthy, 30)


def test_what_is_somebody_elses_is_not_written_over(api_server: Path, exposed: SmallStack) -> None:
    spec = {"parentRefs": [{"name": "theirs"}], "hostnames": ["a.example.com"]}
    route = HTTPRoute(metadata=ObjectMeta(name=EXPOSED), spec=spec)
    cluster(api_server, exposed.namespace).client.create(route, field_manager="team")
    with pytest.raises(MatchaError, match=f"HTTPRoute {EXPOSED} exists"):
        exposed.provision()


def test_only_the_gateways_namespace_is_let_in(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    wide = msgspec.structs.replace(
        BY_SECRET, gateway_namespace="edge-system", gateway_addresses=("10.8.0.0/16",)
    )
    exposed.options = {"expose": wide}
    certificate(api_server, exposed.namespace)
    exposed.provision()
    policy = cluster(api_server, exposed.namespace).get(NetworkPolicy, "matcha-front")
    rules = [r for r in policy.spec.ingress if r.ports[0].port == 8083]
    [space], [addresses] = rules[0].from_, rules[1].from_
    assert len(rules) == 2
    assert space.namespaceSelector.matchLabels == {"kubernetes.io/metadata.name": "edge-system"}
    assert addresses.ipBlock.cidr == "10.8.0.0/16"


# -- what is in the way -------------------------------------------------------------------------------------


def test_without_a_controller_the_rest_is_made_and_it_is_said(
    api_server: Path, exposed: SmallStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SECONDS", 1.0)
    certificate(api_server, exposed.namespace)
    with pytest.raises(MatchaError, match="no controller has taken up the Gateway") as told:
        exposed.provision()
    assert "kubectl get gatewayclass" in told.value.resolution
    assert "Deployment/front" in there(api_server, exposed.namespace)
    found = gateway(exposed)
    assert not found.healthy and f'(of class "{CLASS}")' in found.detail
    with edge(api_server, CLASS):
        exposed.provision()
        until(lambda: gateway(exposed).healthy, 30)


def test_a_certificate_that_is_missing_is_said_and_not_waited_for(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    exposed.provision()
    until(lambda: "lacks what it names: Secret has no certificate" in gateway(exposed).detail, 30)
    assert not exposed.status().healthy
    assert "describe gateway matcha-models" in gateway(exposed).resolution
    certificate(api_server, exposed.namespace)
    until(lambda: gateway(exposed).healthy, 30)


def test_a_certificate_is_asked_of_an_issuer_and_goes_with_the_stack(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    admin = cluster(api_server, exposed.namespace)
    issuer = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "team"}}
    raw = admin.client._client._client
    path = f"/apis/cert-manager.io/v1/namespaces/{exposed.namespace}/issuers"
    raw.post(path, json={**issuer, "spec": {"selfSigned": {}}}).raise_for_status()
    exposed.options = {"expose": BY_ISSUER}
    exposed.provision()
    asked = admin.get(Certificate, EXPOSED)
    assert asked.spec["dnsNames"] == [HOST] and asked.spec["issuerRef"]["name"] == "team"
    assert "nobody issues the certificate" in gateway(exposed).detail
    say(admin, "False", "the order is pending")
    assert gateway(exposed).detail == "its certificate is not issued: the order is pending"
    certificate(api_server, exposed.namespace, ISSUED, **asked.spec["secretTemplate"]["labels"])
    say(admin, "True", "")
    until(lambda: gateway(exposed).healthy, 30)
    assert exposed.plan().steps == ()
    exposed.destroy()
    assert there(api_server, exposed.namespace) == set()
    assert admin.get(Secret, ISSUED) is None


def say(admin: Any, status: str, message: str) -> None:
    """As cert-manager does of a Certificate."""
    condition = {"type": "Ready", "status": status, "reason": "Test", "message": message}
    admin.client.patch(
        Certificate.Status, EXPOSED, {"status": {"conditions": [condition]}}, patch_type=PatchType.MERGE
    )


# -- rights -------------------------------------------------------------------------------------------------


def test_the_ready_role_is_enough_and_the_doctor_names_what_is_missing(
    api_server: Path, tmp_path: Path, exposed: SmallStack, controller: None
) -> None:
    certificate(api_server, exposed.namespace)
    role = permissions.role()
    grant(api_server, exposed.namespace, role, "alice")
    alice = exposing(SmallStack(tmp_path, as_user(api_server, "alice"), exposed.namespace))
    assert permissions.missing(cluster(alice.kubeconfig, alice.namespace), exposes=True) == []
    alice.provision()
    until(lambda: gateway(alice).healthy, 30)
    alice.destroy()
    assert there(api_server, exposed.namespace) == set()
    assert role.rules
    role.rules = [r for r in role.rules if "gateways" not in (r.resources or ())]
    grant(api_server, exposed.namespace, role, "alice")
    assert "httproutes.gateway.networking.k8s.io (exposing models)" in alice.doctor()["permissions"].message
    alice.options = {}
    assert alice.doctor()["permissions"].ok
    alice.provision()  # who exposes nothing needs none of it
    assert alice.plan().steps == ()


# -- tokens -------------------------------------------------------------------------------------------------


def test_tokens_are_kept_by_their_digests_and_outlive_a_provision(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    made = exposed.create_token("shop")
    exposed.create_token("reports")
    assert made.url == f"https://{HOST}"
    admin = cluster(api_server, exposed.namespace)
    text = values(admin.get(Secret, NAME))[KEY]
    assert made.bearer not in text and made.bearer.rpartition("_")[2] not in text
    [pod] = admin.found(Pod, {"app.kubernetes.io/name": "front"})
    assert TOUCHED in pod.metadata.annotations  # its kubelet looks at once
    [volume] = [v for v in pod.spec.volumes if v.name == "outside"]
    assert volume.secret.secretName == NAME and volume.secret.optional
    exposed.provision()
    assert exposed.tokens() == ["shop", "reports"]
    Guarded.silent = ("front-1",)
    assert exposed.revoke_token(made.token.id).notes == (
        "front-1 did not answer. It goes by the new list within about a minute.",
    )
    assert exposed.tokens() == ["reports"]
    with pytest.raises(NotFound):
        exposed.revoke_token("shop")
    serials = [each.serial for each in Guarded.told]
    assert serials == sorted(set(serials)) and len(serials) == 3
    assert values(admin.get(Secret, NAME))[KEY] == msgspec.json.encode(Guarded.told[-1]).decode()


def test_two_who_make_tokens_at_once_lose_none(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    target = exposed.target()
    token = target.store().acquire("test", wait=10, emit=lambda _: None).token
    target.keep_tokens(Tokens(serial=5), before=0)
    with pytest.raises(Changed, match="Somebody else changed the tokens meanwhile"):
        target.keep_tokens(Tokens(serial=7), before=0)
    target.store().release(token)
    assert exposed.target().tokens().serial == 5
    with pytest.raises(MatchaError):
        target.keep_tokens(Tokens(serial=6), before=5)  # without the lock
    assert exposed.target().tokens().serial == 5


def test_a_token_ends_at_once_whoever_has_the_stack_and_stays_ended(
    api_server: Path, exposed: SmallStack, controller: None, proxy: FaultyProxy
) -> None:
    """Revoked while somebody provisions, and while somebody makes another one of what was there before."""
    certificate(api_server, exposed.namespace)
    exposed.provision()
    exposed.create_token("leaked")
    store = exposed.target().store()
    token = store.acquire("provision", wait=10, emit=lambda _: None).token
    assert exposed.revoke_token("leaked").token.name == "leaked"
    store.release(token)
    assert exposed.tokens() == []
    exposed.create_token("leaked")
    held = proxy.add(Fault("PUT", "/secrets/", hold=True))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(exposed.create_token, "shop")
        assert held.came.wait(60)
        admin = SmallStack(exposed.folder.parent, api_server, exposed.namespace)
        target = exposing(admin).target()
        was = target.tokens()
        target.keep_tokens(Tokens(serial=was.serial + 1), before=was.serial, locked=False)
        held.let_go.set()
        slow.result(120)
    assert exposed.tokens() == ["shop"]


def test_a_lost_answer_leaves_the_token_kept_and_shown(
    exposed: SmallStack, controller: None, proxy: FaultyProxy, api_server: Path
) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    fault = proxy.add(Fault("POST", "/secrets", after=True))
    made = exposed.create_token("shop")
    assert fault.came.is_set() and made.bearer
    assert exposed.tokens() == ["shop"]


def test_somebody_elses_secret_of_that_name_is_left_alone(
    api_server: Path, exposed: SmallStack, controller: None
) -> None:
    certificate(api_server, exposed.namespace)
    exposed.provision()
    theirs = Secret(metadata=ObjectMeta(name=NAME), data={"a": "Yg=="})
    cluster(api_server, exposed.namespace).client.create(theirs, field_manager="team")
    with pytest.raises(MatchaError, match=f"Secret {NAME} exists"):
        exposed.create_token("shop")
    assert values(cluster(api_server, exposed.namespace).get(Secret, NAME)) == {"a": "b"}
