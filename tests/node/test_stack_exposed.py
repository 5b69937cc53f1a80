"""An application outside of the cluster asks a model by TLS, with a token, through a gateway that reads the
real objects: `support.edge`, in a pod of another namespace, stands where a controller's gateway would.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from support import edge
from support.cluster import ClusterMatcha, _kubectl
from support.gateways import GATEWAYS, installed, make_class, published
from support.matcha import until
from support.pages import marked
from support.scaled import Scaled

HOST = "models.example.com"
CLASS = "edge"
SOON = 90.0  # seconds for a kubelet to bring a list of tokens to a pod, and more


class World(NamedTuple):
    """`curl`: what an application's curl reads at its start: where the gateway is, and whom it trusts."""

    stack: ClusterMatcha
    curl: Path
    trust: Path


def pod(namespace: str) -> list[dict[str, Any]]:
    """The gateway, with an account that may read and say what a controller does."""
    rules = [
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"], "verbs": ["get", "list", "patch"]},
        {"apiGroups": [""], "resources": ["services", "secrets"], "verbs": ["get"]},
    ]
    own = {"name": f"edge-{namespace}"}
    program = Path(edge.__file__).read_text()
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "edge", "namespace": namespace}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": own,
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": own,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **own},
            "subjects": [{"kind": "ServiceAccount", "name": "edge", "namespace": namespace}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "edge", "namespace": namespace},
            "data": {"edge.py": program},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "edge", "namespace": namespace},
            "spec": {
                "serviceAccountName": "edge",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "edge",
                        "image": "python:3.11-slim-bookworm",
                        "command": ["python", "/edge/edge.py", CLASS, "8443"],
                        "volumeMounts": [{"name": "edge", "mountPath": "/edge"}],
                    }
                ],
                "volumes": [{"name": "edge", "configMap": {"name": "edge"}}],
            },
        },
    ]


@pytest.fixture(scope="module")
def world(kubeconfig: Path, scaled: Scaled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The stack that serves `movie`, exposed. It goes with the last test here."""
    folder, stack = tmp_path_factory.mktemp("exposed"), scaled.matcha
    space = f"edge-{secrets.token_hex(3)}"
    authority = trustme.CA()
    (trust := folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    expose = f"models: {HOST}, gateway-class: {CLASS}, tls-secret: models-tls, gateway-namespace: {space}"
    forward: subprocess.Popen[str] | None = None
    with installed(kubeconfig, published(GATEWAYS)):
        make_class(kubeconfig, CLASS)
        try:
            with_certificate(stack, authority)
            listed = {"apiVersion": "v1", "kind": "List", "items": pod(space)}
            stack.kubectl("apply", f"--namespace={space}", "--filename=-", stdin=json.dumps(listed))
            stack.kubectl(
                "wait", "pod/edge", f"--namespace={space}", "--for=condition=Ready", "--timeout=120s"
            )
            scaled.of_target(f"expose: {{{expose}, rate: 50}}")
            scaled.provision(least=1, most=1)
            scaled.deploy(1)
            forward, port = forwarded(kubeconfig, space)
            (curl := folder / "curl").mkdir()
            (curl / ".curlrc").write_text(
                f'connect-to = "{HOST}:443:127.0.0.1:{port}"\ncacert = "{trust}"\nmax-time = 30\n'
            )
            yield World(stack, curl, trust)
        finally:
            if forward is not None:
                forward.terminate()
                forward.communicate(timeout=30)
            own = {"namespace": space, "clusterrole": f"edge-{space}", "clusterrolebinding": f"edge-{space}"}
            for kind, name in own.items():
                stack.kubectl("delete", kind, name, "--wait=false", "--ignore-not-found", code=None)


def with_certificate(stack: ClusterMatcha, authority: trustme.CA) -> None:
    """By the page's own command."""
    made = authority.issue_cert(HOST)
    made.cert_chain_pems[0].write_to_path(stack.home / "models.crt")
    made.private_key_pem.write_to_path(stack.home / "models.key")
    command = next(iter(marked(__file__))).text.replace("matcha-docs", stack.namespace)
    stack.shell(command, where=stack.home)


def forwarded(kubeconfig: Path, space: str) -> tuple[subprocess.Popen[str], int]:
    """From this machine to the gateway, which has no address of its own here."""
    there = [_kubectl(), f"--kubeconfig={kubeconfig}", f"--namespace={space}"]
    command = [*there, "port-forward", "pod/edge", ":8443"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, int(line.partition("127.0.0.1:")[2].split()[0])


def call(world: World, curl: str, token: str = "") -> tuple[int, Any]:
    """Status and answer of a call as Matcha prints it, by somebody who has the token in a variable."""
    env = {"PATH": os.environ["PATH"], "CURL_HOME": str(world.curl), "MATCHA_TOKEN": token}
    done = subprocess.run(
        ["sh", "-c", f"{curl} --write-out '\\n%{{http_code}}'"],
        cwd=world.curl, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text) if text.startswith("{") else text


def test_an_application_outside_asks_a_model_with_its_token(world: World) -> None:
    made = world.stack.json("tokens", "create", "shop", "--model", "movie")
    assert made["url"] == f"https://{HOST}"
    assert world.stack.url("model-deployer", "public-url") == f"https://{HOST}"
    status, said = call(world, made["curl"], made["bearer"])
    assert status == 200, said
    assert said["outputs"][0]["shape"][0] == 1
    assert call(world, made["curl"], made["bearer"][:-1] + "x") == (401, {"error": "Unauthorized"})
    assert call(world, made["curl"], "") == (401, {"error": "Unauthorized"})
    other = made["curl"].replace("/models/movie/", "/models/other/")
    assert call(world, other, made["bearer"]) == (403, {"error": "Forbidden"})
    in_the_address = f"curl -s 'https://{HOST}/v2/models/movie?token={made['bearer']}'"
    assert call(world, in_the_address)[0] == 401
    logs = world.stack.kubectl("logs", "deployment/mlserver")
    assert made["bearer"].rpartition("_")[2] not in logs


def test_the_page_is_right(world: World) -> None:
    """With its names for those of this stack. The Secret was made by its first block."""
    _, making, asking, ending = (block.text.replace("diabetes", "movie") for block in marked(__file__))
    said = _typed(world, making)
    [bearer] = re.findall(r"^matcha_\w+$", said, re.MULTILINE)
    inputs = [{"name": n, "shape": [1, 1], "datatype": "FP64", "data": [2.0]} for n in ("a", "b")]
    (world.curl / "request.json").write_text(json.dumps({"inputs": inputs}))
    status, answer = call(world, asking.rstrip(), bearer)
    assert (status, answer["outputs"][0]["data"]) == (200, pytest.approx([0.0]))
    listed = _typed(world, ending)
    assert "page" in listed and "lets nobody in any more" in listed
    assert call(world, asking.rstrip(), bearer)[0] == 401


def _typed(world: World, commands: str) -> str:
    lines = [shlex.split(line.replace("shop", "page")) for line in commands.splitlines()]
    assert all(line[0] == "matcha" for line in lines)
    return "".join(world.stack(*line[1:]).stdout for line in lines)


def test_the_gateway_is_told_and_its_address(world: World) -> None:
    [told] = [f for f in world.stack.json("status")["foundations"] if f["name"] == "gateway"]
    assert told["healthy"] and told["detail"] == f"https://{HOST}, at {edge.ADDRESS}"


def test_nothing_else_comes_through(world: World) -> None:
    made = world.stack.json("tokens", "create", "curious")
    header = "printf 'Authorization: Bearer %s' \"$MATCHA_TOKEN\" | curl -s -H @-"
    for path in ("/", "/metrics", "/v2/repository/index", "/matcha/deployments", "/v2"):
        status, _ = call(world, f"{header} https://{HOST}{path}", made["bearer"])
        assert status == 404, path
    status, _ = call(world, f"{header} -H 'Host: mlserver' https://{HOST}/v2/models/movie", made["bearer"])
    assert status == 404
    plain = subprocess.run(
        ["curl", "-s", f"http://{HOST}/v2/models/movie"],
        env={"PATH": os.environ["PATH"], "CURL_HOME": str(world.curl)},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert plain.returncode != 0  # nobody listens without TLS


def test_a_revoked_token_ends_at_once(world: World) -> None:
    made = world.stack.json("tokens", "create", "guest")
    assert call(world, made["curl"], made["bearer"])[0] == 200
    revoked = world.stack.json("tokens", "revoke", "guest")
    assert revoked["notes"] == []
    assert call(world, made["curl"], made["bearer"]) == (401, {"error": "Unauthorized"})


def test_a_new_pod_knows_the_tokens_by_itself(world: World) -> None:
    """From the Secret: nobody told it."""
    made = world.stack.json("tokens", "create", "partner")
    world.stack.kubectl("rollout", "restart", "deployment/mlserver")
    world.stack.kubectl("rollout", "status", "deployment/mlserver", "--timeout=400s", timeout=420)
    until(lambda: call(world, made["curl"], made["bearer"])[0] == 200, SOON, every=2)
    assert call(world, made["curl"], made["bearer"][:-1] + "x")[0] == 401


def test_servers_that_nobody_told_follow_the_list_within_a_minute_or_so(world: World) -> None:
    """As where Matcha was killed after it kept the list, or a server did not answer it."""
    made = world.stack.json("tokens", "create", "late")
    assert call(world, made["curl"], made["bearer"])[0] == 200
    [kept] = world.stack.objects("secrets", "--field-selector=metadata.name=matcha-tokens")
    listed = json.loads(base64.b64decode(kept["data"]["tokens.json"]))
    listed["tokens"] = [t for t in listed["tokens"] if t["name"] != "late"]
    listed["serial"] += 1
    coded = base64.b64encode(json.dumps(listed).encode()).decode()
    patch = json.dumps({"data": {"tokens.json": coded}})
    world.stack.kubectl("patch", "secret", "matcha-tokens", "--patch", patch)
    until(lambda: call(world, made["curl"], made["bearer"])[0] == 401, SOON * 2, every=3)


def test_tokens_go_with_the_stack_and_nothing_is_left(world: World) -> None:
    world.stack("destroy", "--yes", "--delete-data", timeout=600)
    kinds = "gateways,httproutes,secrets,services"
    mine = "--selector=app.kubernetes.io/managed-by=matcha"
    assert world.stack.objects(kinds, mine) == []
