"""Provisioning where servers are busy, answers are lost, connections die and credentials end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lightkube.models.batch_v1 import JobSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import PatchType

from matcha.errors import Locked
from matcha.host.leases import LEASE
from matcha.targets.kubernetes import cluster as clusters
from matcha.targets.kubernetes import removal
from matcha.targets.kubernetes.cluster import ClusterError, Conflict
from matcha.targets.kubernetes.fencing import Fenced
from matcha.targets.kubernetes.forward.api import Api
from matcha.targets.kubernetes.forward.config import Config
from matcha.targets.kubernetes.forward.log import Log
from matcha.targets.kubernetes.forward.pods import Pods
from matcha.targets.kubernetes.names import labels, selector
from matcha.targets.kubernetes.raising import Raiser
from matcha.targets.kubernetes.secrets import Secrets
from support.faults import Fault, FaultyProxy, faulty
from support.kubelet import Kubelet
from support.small_stack import SmallStack, there
from support.stores import Clock, cluster, elsewhere, store, take

HTML = "<html>Bad gateway</html>"
FAULTS: dict[str, dict[str, Any]] = {
    "two writes met": {"status": 409},
    "busy": {"status": 429, "retry_after": 3},
    "broken": {"status": 500},
    "broken but done": {"status": 500, "after": True},
    "not there yet": {"status": 503},
    "a proxy in between": {"status": 502, "body": HTML, "content_type": "text/html"},
    "a proxy of few words": {"status": 504, "body": ""},
    "request lost": {},
    "answer lost": {"after": True},
}
# Each comes twice, so that a call is tried more than once again.
WRITES = (
    ("PATCH", "/networkpolicies/matcha-default"),
    ("PATCH", "/persistentvolumeclaims/"),
    ("PATCH", "/statefulsets/back"),
    ("PATCH", "/deployments/front"),
    ("POST", "/secrets"),
    ("PUT", "/configmaps/matcha-state"),
)
READS = (("GET", "/pods?"), ("GET", "/statefulsets?"), ("GET", "/deployments/front"))


def is_whole(stack: SmallStack) -> bool:
    return stack.plan().steps == ()


@pytest.mark.sweep(sample=("two writes met", "busy", "broken but done", "a proxy in between", "answer lost"))
@pytest.mark.parametrize("how", FAULTS)
def test_a_provision_lives_through_it(stack: SmallStack, proxy: FaultyProxy, how: str) -> None:
    reads = () if how == "two writes met" else READS
    added = [proxy.add(Fault(m, part, times=2, **FAULTS[how])) for m, part in (*WRITES, *reads)]
    stack.provision()
    assert all(fault.came.is_set() for fault in added)
    assert is_whole(stack)
    if how == "busy":
        assert 3.0 in stack.pauses
    stack.destroy()
    assert there(stack.kubeconfig, stack.namespace) == set()


@pytest.mark.sweep(sample=("broken but done", "request lost"))
@pytest.mark.parametrize("how", ["broken", "broken but done", "request lost", "answer lost"])
def test_what_fails_for_good_is_named_and_a_rerun_finishes(
    stack: SmallStack, proxy: FaultyProxy, how: str
) -> None:
    proxy.add(Fault("PATCH", "/deployments/front", times=1000, **FAULTS[how]))
    with pytest.raises(ClusterError) as told:
        stack.provision()
    lost = "status" not in FAULTS[how]
    said = "The cluster does not answer" if lost else "The cluster refused to apply Deployment front"
    assert said in told.value.message
    assert ("Tried to apply Deployment front" if lost else "a fault of the test") in told.value.details
    assert told.value.resolution == "matcha doctor"
    assert stack.target().store().lock() is None
    proxy.heal()
    stack.provision()
    assert is_whole(stack)


@pytest.mark.sweep(sample=("answer lost", "two writes met"))
@pytest.mark.parametrize("how", ["broken but done", "answer lost", "two writes met", "request lost"])
def test_what_others_added_is_taken_out_whatever_happens_on_the_way(
    api_server: Path, stack: SmallStack, proxy: FaultyProxy, how: str
) -> None:
    """A change that was made must not be made again: what stands at that place by then is another entry."""
    stack.provision()
    added = [{"name": "A_DEBUG", "value": "1"}, {"name": "Z_DEBUG", "value": "1"}]
    edit = {"spec": {"template": {"spec": {"containers": [{"name": "front", "env": added}]}}}}
    admin = cluster(api_server, stack.namespace).client
    admin.patch(Deployment, "front", edit, patch_type=PatchType.STRATEGIC)
    proxy.add(Fault("PATCH", "/deployments/front", skip=1, times=2, **FAULTS[how]))
    stack.provision()
    assert is_whole(stack)
    [container] = admin.get(Deployment, "front").spec.template.spec.containers
    assert not {"A_DEBUG", "Z_DEBUG"} & {v.name for v in container.env}


# -- a lock that is lost in the middle ----------------------------------------------------------------------


def test_a_write_is_not_tried_again_once_the_lock_is_somebody_elses(
    api_server: Path, through: tuple[FaultyProxy, Path], namespace: str
) -> None:
    """What is on its way is not called back; what is not sent yet never is."""
    proxy, kubeconfig = through
    timer, theirs = Clock(), Clock()
    held = store(kubeconfig, namespace, timer=timer)
    take(held)
    other = elsewhere(api_server, namespace, theirs)
    with pytest.raises(Locked):
        take(other)
    way = cluster(kubeconfig, namespace)
    secrets, target = Secrets(Fenced(way, held.fence)), Raiser(way, held.fence)
    secrets.ensure(["one"])
    wanted = ConfigMap(metadata=ObjectMeta(name="front"), data={"a": "1"})

    def overtaken() -> None:
        for clock in (timer, theirs):
            clock.now += LEASE
        take(other)

    held_up = proxy.add(Fault("PATCH", "/configmaps/front", strike=overtaken))
    with pytest.raises(Locked):
        target.apply([wanted])
    assert held_up.came.is_set()
    assert proxy.count("PATCH") == 1
    before = written(proxy)
    for write in (
        lambda: secrets.ensure(["two"]),
        lambda: secrets.keep("three", "x"),
        lambda: target.apply([wanted]),
        lambda: removal.remove_service(way, "secrets", held.fence),
        lambda: removal.scale_down(way, lambda _: None, held.fence),
    ):
        admin_made_something_to_stop(api_server, namespace)
        with pytest.raises(Locked):
            write()
    assert written(proxy) == before


def written(proxy: FaultyProxy) -> list[tuple[str, str]]:
    """But to the lock, which is what tells that it is lost."""
    return [(method, path) for method, path in proxy.requests if method != "GET" and "/leases" not in path]


def admin_made_something_to_stop(api_server: Path, namespace: str) -> None:
    for name in ("secrets", "dump"):
        made = ConfigMap(metadata=ObjectMeta(name=name, labels=labels("secrets", "matcha")))
        pod = PodSpec(containers=[Container(name="main", image="none:1")], restartPolicy="Never")
        job = Job(
            metadata=ObjectMeta(name=name, labels=labels("dump", "mysql")),
            spec=JobSpec(suspend=True, template=PodTemplateSpec(spec=pod)),
        )
        for obj in (made, job):
            with contextlib.suppress(Conflict):
                cluster(api_server, namespace).create(obj)


def test_a_cluster_that_goes_away_in_the_middle_is_said_once(stack: SmallStack, proxy: FaultyProxy) -> None:
    """Neither the step nor the record nor the lock can be written; what is there stays."""
    away = proxy.add(Fault("PATCH", "/statefulsets/back"))
    away.strike = lambda: proxy.add(Fault("", times=100_000)) and None
    with pytest.raises(ClusterError, match="The cluster does not answer"):
        stack.provision()
    proxy.heal()
    stack.target().store().break_lock()  # of this process, which lives on: a killed one's is free at once
    stack.provision()
    assert is_whole(stack)


def test_a_request_that_hangs_is_given_up_and_asked_again(
    stack: SmallStack, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "TIMEOUT", httpx2.Timeout(3.0))
    held = [proxy.add(Fault(m, part, hold=True)) for m, part in (WRITES[0], WRITES[2], WRITES[3], READS[0])]
    try:
        stack.provision()
        assert all(fault.came.is_set() for fault in held)
    finally:
        for fault in held:
            fault.let_go.set()  # and only now the API gets it
    time.sleep(0.5)
    assert is_whole(stack)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 200, "body": "<html>Sign in</html>", "content_type": "text/html"}, "is not a cluster"),
        ({"status": 200, "body": '{"kind": "Depl', "content_type": "application/json"}, "is not a cluster"),
        ({"status": 403, "body": "<html>", "content_type": "text/html"}, "You may not apply ConfigMap"),
        ({"status": 400, "body": "no"}, "refused to apply ConfigMap"),
        ({"status": 422, "body": "{}", "content_type": "application/json"}, "refused to apply ConfigMap"),
        ({"status": 418, "body": "[", "content_type": "application/json"}, "refused to apply ConfigMap"),
    ],
)
def test_an_answer_that_no_cluster_gives_is_an_error_as_any_other(
    api_server: Path, namespace: str, tmp_path: Path, answer: dict[str, Any], said: str
) -> None:
    with faulty(api_server, tmp_path) as (proxy, kubeconfig):
        proxy.add(Fault("PATCH", times=1000, **answer))
        with pytest.raises(ClusterError, match=said) as told:
            cluster(kubeconfig, namespace).apply(ConfigMap(metadata=ObjectMeta(name="front")))
        assert told.value.resolution == "matcha doctor"


# -- credentials --------------------------------------------------------------------------------------------


def with_user(kubeconfig: Path, folder: Path, user: dict[str, Any]) -> Path:
    """As `kubeconfig`, but another way to sign in."""
    lines = kubeconfig.read_text().splitlines()
    users = f"users: [{{name: admin, user: {json.dumps(user)}}}]"
    changed = [users if line.startswith("users:") else line for line in lines]
    made = folder / "signing-in.kubeconfig"
    made.write_text("\n".join(changed))
    return made


def token_of(kubeconfig: Path) -> str:
    return kubeconfig.read_text().partition('token: "')[2].partition('"')[0]


def plugin(folder: Path, *lines: str) -> dict[str, Any]:
    script = folder / "plugin"
    script.write_text("\n".join((f"#!{sys.executable}", "import json, pathlib, sys", *lines)))
    script.chmod(0o700)
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": str(script), "interactiveMode": "Never"}}


def saying(token: Path) -> tuple[str, ...]:
    return (
        f"token = pathlib.Path({str(token)!r}).read_text()",
        "print(json.dumps({'kind': 'ExecCredential', 'status': {'token': token}}))",
    )


def test_a_token_that_ends_in_the_middle_is_asked_for_anew(
    stack: SmallStack, proxy: FaultyProxy, tmp_path: Path
) -> None:
    token, runs = tmp_path / "token", tmp_path / "runs"
    token.write_text(token_of(stack.kubeconfig))
    counted = f"pathlib.Path({str(runs)!r}).open('a').write('x')"
    stack.kubeconfig = with_user(stack.kubeconfig, tmp_path, plugin(tmp_path, counted, *saying(token)))
    ended = [proxy.add(Fault(m, part, status=401)) for m, part in (WRITES[0], WRITES[2], READS[0])]
    stack.provision()
    assert all(fault.came.is_set() for fault in ended)
    assert len(runs.read_text()) >= 1 + len(ended)
    assert is_whole(stack)


def test_a_token_file_is_read_anew(
    api_server: Path, namespace: str, through: tuple[FaultyProxy, Path], tmp_path: Path
) -> None:
    token, (proxy, kubeconfig) = tmp_path / "token", through
    token.write_text("expired")
    signed = cluster(with_user(kubeconfig, tmp_path, {"tokenFile": str(token)}), namespace)
    held = proxy.add(Fault("GET", hold=True))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(signed.found, ConfigMap)
        assert held.came.wait(60)
        token.write_text(token_of(api_server))
        held.let_go.set()
        assert asked.result(60) == []


def test_a_kubeconfig_that_was_signed_in_again_is_read_anew(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    path = with_user(api_server, tmp_path, {"token": "expired"})
    signed = cluster(path, namespace)
    with pytest.raises(ClusterError, match="does not accept your credentials") as told:
        signed.found(ConfigMap)
    assert told.value.status == 401
    assert told.value.resolution.startswith("Sign in again")
    path.write_text(api_server.read_text())
    assert signed.found(ConfigMap) == []


def test_the_doctor_knows_credentials_that_are_refused(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = with_user(api_server, tmp_path, {"token": "expired"})
    [found] = SmallStack(tmp_path, kubeconfig, namespace).target().examine(None, (), fix=False)
    assert (found.check, found.ok) == ("cluster", False)
    assert found.message.startswith("The cluster does not accept your credentials.")
    assert found.fix.startswith("Sign in again")


def test_credentials_that_end_for_good_end_the_run_and_a_rerun_finishes(
    stack: SmallStack, proxy: FaultyProxy
) -> None:
    proxy.add(Fault("PATCH", "/deployments/front", times=1000, status=401))
    with pytest.raises(ClusterError, match="does not accept your credentials") as told:
        stack.provision()
    assert told.value.resolution.startswith("Sign in again")
    proxy.heal()
    stack.provision()
    assert is_whole(stack)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("sys.exit('please sign in')",), "please sign in"),
        (("print('hello')",), "gave no token"),
        (("print('{}')",), "gave no token"),
        (("print(json.dumps({'status': {'clientCertificateData': 'x'}}))",), "gave no token"),
        (None, "is not installed. Install it."),
    ],
)
def test_a_plugin_that_gives_no_token_is_named(
    api_server: Path, namespace: str, tmp_path: Path, lines: tuple[str, ...] | None, said: str
) -> None:
    user = plugin(tmp_path, *(lines or ()))
    if lines is None:
        user["exec"] |= {"command": "no-such-plugin", "installHint": "Install it."}
    signed = cluster(with_user(api_server, tmp_path, user), namespace)
    with pytest.raises(ClusterError, match="credentials for the cluster could not be had") as told:
        signed.found(ConfigMap)
    assert said in told.value.details and "plugin" in told.value.details
    assert told.value.resolution.startswith("Sign in again")


def test_a_line_break_after_a_token_is_no_part_of_it(
    api_server: Path, namespace: str, tmp_path: Path
) -> None:
    """As a block of YAML leaves it."""
    user = {"token": f"{token_of(api_server)}\n"}
    assert cluster(with_user(api_server, tmp_path, user), namespace).found(ConfigMap) == []


@pytest.mark.parametrize("broken", ["hush\nhush", "hush hush\r\nhush", "hush\u00e4", "hush\x00"])
@pytest.mark.parametrize("how", ["token", "tokenFile", "exec"])
def test_a_token_that_no_request_can_bear_is_told_at_once_and_not_shown(
    api_server: Path, namespace: str, tmp_path: Path, how: str, broken: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(broken.encode())
    users = {"token": {"token": broken}, "tokenFile": {"tokenFile": str(file)}}
    user = users.get(how) or plugin(tmp_path, *saying(file))
    pauses: list[float] = []
    signed = cluster(with_user(api_server, tmp_path, user), namespace, sleep=pauses.append)
    with pytest.raises(ClusterError) as told:
        signed.found(ConfigMap)
    context = signed.config.context_name
    assert told.value.message == f"The token of the kubeconfig (context {context}) is malformed."
    assert "hush" not in "".join(traceback.format_exception(told.value))
    assert "hush" not in f"{told.value.details} {told.value.resolution}"
    assert pauses == []


# -- the watch of the forwarder -----------------------------------------------------------------------------


STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"}
EXPIRED = json.dumps({"type": "ERROR", "object": STATUS})


def pod(name: str) -> Pod:
    made = PodSpec(containers=[Container(name="main", image="none:1")])
    return Pod(metadata=ObjectMeta(name=name, labels=selector("web")), spec=made)


@pytest.mark.parametrize(
    "expiry",
    [{"status": 410}, {"status": 200, "body": EXPIRED + "\n", "content_type": "application/json"}, {}],
    ids=["refused", "an event", "cut"],
)
def test_a_watch_that_cannot_go_on_begins_anew(
    api_server: Path, namespace: str, node: Kubelet, tmp_path: Path, expiry: dict[str, Any]
) -> None:
    admin = cluster(api_server, namespace)
    with faulty(api_server, tmp_path) as (proxy, kubeconfig):
        ended = proxy.add(Fault("GET", "watch=true", **expiry))
        found = asyncio.run(_watched(kubeconfig, namespace, lambda: admin.create(pod("first"))))
        assert found == "first"
        assert ended.came.is_set()
        lists = [p for m, p in proxy.requests if "/pods?" in p and "watch" not in p]
        assert len(lists) >= 2


async def _watched(kubeconfig: Path, namespace: str, change: Any) -> str:
    config = Config(
        kubeconfig=str(kubeconfig), context="test", namespace=namespace, health=0, environment="", forwards=()
    )
    api = Api(config)
    pods = Pods(api, namespace, ["web"], Log())
    async with pods.watched():
        taking = asyncio.create_task(pods.take("web"))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(change)
        taken = await asyncio.wait_for(taking, 60)
    pods.close()
    await api.client().aclose()
    return taken.name
