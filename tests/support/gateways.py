"""The kinds of the Gateway API and of cert-manager, as their projects publish them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightkube.generic_resource import create_global_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apiextensions_v1 import CustomResourceDefinition
from ruamel.yaml import YAML

from support.edge import CONTROLLER, Api, Edge
from support.matcha import until
from support.stores import cluster

# Go modules, which the module proxy keeps and Go's checksum database knows.
GATEWAYS = ("sigs.k8s.io/gateway-api", "v1.4.0", "config/crd/standard/gateway.networking.k8s.io_{}.yaml")
CERTIFICATES = ("github.com/cert-manager/cert-manager", "v1.21.2", "deploy/crds/{}.yaml")
NEEDED = {
    GATEWAYS: ("gatewayclasses", "gateways", "httproutes"),
    CERTIFICATES: (
        "cert-manager.io_certificates",
        "cert-manager.io_issuers",
        "cert-manager.io_clusterissuers",
    ),
}
GatewayClass: type[Any] = create_global_resource(
    "gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses"
)


def published(*modules: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Their definitions; the test is skipped without Go, which fetches them."""
    if shutil.which("go") is None:
        (pytest.fail if os.environ.get("MATCHA_REQUIRE_ALL") else pytest.skip)(
            "needs Go, to fetch definitions"
        )
    return [
        YAML(typ="safe").load((folder / pattern.format(name)).read_text())
        for path, version, pattern in modules
        for folder in [_downloaded(path, version)]
        for name in NEEDED[path, version, pattern]
    ]


def _downloaded(path: str, version: str) -> Path:
    with tempfile.TemporaryDirectory() as nowhere:
        ran = subprocess.run(
            ["go", "mod", "download", "-json", f"{path}@{version}"],
            cwd=nowhere,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Path(json.loads(ran.stdout)["Dir"])


@contextlib.contextmanager
def installed(kubeconfig: Path, definitions: Sequence[dict[str, Any]]) -> Iterator[None]:
    """In the cluster; they go afterwards, with every object of theirs."""
    admin = cluster(kubeconfig, "default")
    made = [CustomResourceDefinition.from_dict(each) for each in definitions]
    for each in made:
        admin.client.apply(each, field_manager="test", force=True)
    for each in made:
        name = each.metadata.name
        until(lambda name=name: _is_served(admin.client.get(CustomResourceDefinition, name)), 60)  # type: ignore[misc]
    try:
        yield
    finally:
        admin = cluster(kubeconfig, "default")  # tests close the connections of before
        for each in made:
            admin.delete(CustomResourceDefinition, each.metadata.name)
        for each in made:
            name = each.metadata.name
            until(lambda name=name: admin.get_global(CustomResourceDefinition, name) is None, 60)  # type: ignore[misc]


def _is_served(found: Any) -> bool:
    return any(c.type == "Established" and c.status == "True" for c in (found.status.conditions or ()))


def make_class(kubeconfig: Path, name: str) -> None:
    made = GatewayClass(metadata=ObjectMeta(name=name), spec={"controllerName": CONTROLLER})
    cluster(kubeconfig, "default").client.apply(made, field_manager="test", force=True)


@contextlib.contextmanager
def edge(kubeconfig: Path, gateway_class: str) -> Iterator[Edge]:
    """On this machine, by the kubeconfig's token: it says of Gateways what a controller would."""
    config = YAML(typ="safe").load(kubeconfig.read_text())
    [there], [user] = config["clusters"], config["users"]
    authority = base64.b64decode(there["cluster"]["certificate-authority-data"]).decode()
    made = Edge(Api(there["cluster"]["server"], user["user"]["token"], authority), gateway_class).start()
    try:
        yield made
    finally:
        made.stop()
