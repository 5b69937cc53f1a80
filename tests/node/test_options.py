"""What matcha.yaml can say about a cluster that lets pods reach no registry and no PyPI, and that assigns the
users of pods: a stack of small services with an environment that is built there.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from matcha.targets.kubernetes.foundations import DATABASE_IMAGE, STORE_IMAGE
from matcha.targets.kubernetes.options import KubernetesOptions
from support.cluster import ClusterMatcha
from support.matcha import until
from support.outside import ASSIGNS, USER, WEB, Outside
from support.package_index import PackageIndex, wheel
from support.plain import SERVER
from support.small_stack import SmallStack, usual, with_database

pytestmark = pytest.mark.turn(1)

MIRROR = "registry.test:5000/mirror"
IMAGES = (KubernetesOptions().image, DATABASE_IMAGE, STORE_IMAGE)
KEY = {"auths": {"registry.test:5000": {"username": "u", "password": "p"}}}


@pytest.fixture
def mirror(kubeconfig: Path) -> str:
    """Its images are on the node already: no registry is asked."""
    address = kubeconfig.parent / "containerd" / "containerd.sock"
    if not address.exists():
        reason = "names of images are given only on a node of tests/e2e/cluster"
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(reason)
    for image in IMAGES:
        official = image if image.startswith("ghcr.io/") else f"docker.io/library/{image}"
        command = ("images", "tag", "--force", official, f"{MIRROR}/{image}")
        subprocess.run(
            ["ctr", f"--address={address}", "--namespace=k8s.io", *command],
            check=True,
            timeout=60,
            capture_output=True,
        )
    return MIRROR


@pytest.fixture
def closed(outside: Outside, mirror: str, tmp_path: Path) -> Iterator[SmallStack]:
    """Not provisioned yet."""
    namespace = f"matcha-test-{secrets.token_hex(3)}"
    outside.space(namespace, **{ASSIGNS: "yes"})
    outside.assign_users()
    made = SmallStack(tmp_path, outside.admin.kubeconfig, namespace, archive=True)
    back, front = usual()
    files = {"server.py": f"import shiny\n{SERVER}"}
    made.services = with_database(msgspec.structs.replace(back, files=files)), front
    index = PackageIndex(shiny=wheel("shiny"))
    index.server.server_close()
    index.lock(made.folder / "plain.lock")
    made.options = {
        "registry_mirror": mirror,
        "pull_secret": "registry-key",
        "run_as": "cluster",
        "index_url": f"{outside.url(WEB)}/simple",
        "ca_bundle": str(outside.ca),
    }
    try:
        yield made
    finally:
        outside.admin.kubectl("delete", "namespace", namespace, "--wait=false", code=None)


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The API runs in this process."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def test_a_closed_cluster_that_assigns_users(closed: SmallStack, outside: Outside, tmp_path: Path) -> None:
    admin = ClusterMatcha(tmp_path / "admin", tmp_path / "home", closed.kubeconfig, closed.namespace)
    _until_users_are_assigned(admin)
    finding = closed.doctor()["secrets"]
    assert not finding.ok
    admin.kubectl(
        "create",
        "secret",
        "generic",
        "registry-key",
        "--type=kubernetes.io/dockerconfigjson",
        f"--from-literal=.dockerconfigjson={json.dumps(KEY)}",
    )
    assert closed.doctor()["secrets"].ok
    closed.provision()
    assert closed.status().healthy and closed.plan().steps == ()
    asked = outside.admin.kubectl("logs", WEB)
    assert "GET /files/shiny-1.0-py3-none-any.whl" in asked
    pods = admin.objects("pods")
    assert {p["metadata"]["labels"]["app.kubernetes.io/name"] for p in pods} >= {
        "back",
        "front",
        "mysql",
        "mysql-setup",
        "object-store",
        "environment-builder",
    }
    for pod in pods:
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry-key"}]
        parts = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
        assert {c["securityContext"]["runAsUser"] for c in parts} == {USER}
        assert all(c["image"].startswith(f"{MIRROR}/") for c in parts)
    assert admin.kubectl("exec", "back-0", "--", "id", "-u").strip() == str(USER)
    starts = ("exec", "back-0", "--", "cat", "/matcha/volumes/data/starts")
    assert admin.kubectl(*starts) == "x"
    admin.kubectl("delete", "pod", "back-0", "--grace-period=1")
    assert until(lambda: admin.kubectl(*starts, code=None), 60, every=1) == "xx"


def _until_users_are_assigned(admin: ClusterMatcha) -> None:
    """The API server takes up a configuration some time after it was made."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "named"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "securityContext": {"runAsUser": 10001}},
    }
    command = ("create", "--dry-run=server", "--filename=-", "--output=name")
    until(lambda: not admin.kubectl(*command, stdin=json.dumps(pod), code=None), 30)
