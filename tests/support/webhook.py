"""A mutating admission webhook of a test cluster: a real one, asked by the API server over HTTPS."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trustme
from lightkube import Client
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration
from lightkube.resources.core_v1 import ConfigMap

from support.stores import cluster

Patch = list[dict[str, Any]]  # JSON patch
_PROBE = "webhook-probe"


@contextlib.contextmanager
def mutating(kubeconfig: Path, namespace: str, change: Callable[[dict[str, Any]], Patch]) -> Iterator[None]:
    """`change` says what is made of each Deployment and StatefulSet of the namespace that somebody writes."""
    authority = trustme.CA()
    with _serving(authority, change) as port:
        admin = cluster(kubeconfig, namespace)
        name = f"{namespace}-webhook"
        made = MutatingWebhookConfiguration.from_dict(_configuration(name, namespace, port, authority))
        admin.create(made)
        try:
            _until_asked(kubeconfig, namespace)
            yield
        finally:
            admin.client.delete(MutatingWebhookConfiguration, name)


def _configuration(name: str, namespace: str, port: int, authority: trustme.CA) -> dict[str, Any]:
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    written = {"apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"]}
    return {
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "change.example.org",
                "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": bundle},
                "rules": [
                    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], **written},
                    {"apiGroups": [""], "resources": ["configmaps"], **written},
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail",
            }
        ],
    }


@contextlib.contextmanager
def _serving(authority: trustme.CA, change: Callable[[dict[str, Any]], Patch]) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps(_reviewed(review["request"], change)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _reviewed(request: dict[str, Any], change: Callable[[dict[str, Any]], Patch]) -> dict[str, Any]:
    found = request["object"]
    if request["kind"]["kind"] == "ConfigMap":
        is_probe = found["metadata"]["name"] == _PROBE
        patch: Patch = [{"op": "add", "path": "/data", "value": {"seen": "yes"}}] if is_probe else []
    else:
        patch = change(found)
    response = {"uid": request["uid"], "allowed": True}
    if patch:
        content = base64.b64encode(json.dumps(patch).encode()).decode()
        response |= {"patchType": "JSONPatch", "patch": content}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def _until_asked(kubeconfig: Path, namespace: str) -> None:
    """The API server takes up a configuration some time after it was made."""
    deadline = time.monotonic() + 60
    trying = Client(cluster(kubeconfig, namespace).config, namespace=namespace, dry_run=True)
    with contextlib.closing(trying):
        while not trying.create(ConfigMap(metadata=ObjectMeta(name=_PROBE))).data:
            assert time.monotonic() < deadline, "the API server asks no webhook"
            time.sleep(0.1)
