"""Servers of somebody else's in a cluster, each behind TLS: MySQL, an object store, and a web server that is
a package index and what assigns users to pods.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trustme
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import RoleRef, Subject
from lightkube.resources.rbac_authorization_v1 import RoleBinding

from matcha.targets.kubernetes import permissions
from matcha.targets.kubernetes.foundations import DATABASE_IMAGE, DATABASE_USER, STORE_IMAGE
from matcha.targets.kubernetes.options import KubernetesOptions
from support.cluster import ClusterMatcha
from support.stores import cluster

BUCKET, REGION = "team-bucket", "eu-west-1"
ACCESS_KEY, SECRET_KEY = "outside", "a/secret+with=signs"
USER = 1_000_650_000  # as high as those that OpenShift assigns
ASSIGNS = "test.matcha/assigns-users"  # label of namespaces
DATABASE, STORE, WEB = "db", "s3", "web"
_PORTS = {DATABASE: 3306, STORE: 7070, WEB: 8443}
_IMAGES = {DATABASE: DATABASE_IMAGE, STORE: STORE_IMAGE, WEB: KubernetesOptions().image}

# A package index, and a webhook that does to pods what OpenShift does: who names a user is refused.
_SERVER = """
import base64, http.server, json, ssl
WHEELS = {n: base64.b64decode(c) for n, c in json.load(open("/web/wheels.json")).items()}
USER = %d
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, _, name = self.path.strip("/").partition("/")
        named = [n for n in WHEELS if kind == "simple" and n.split("-")[0] == name]
        links = [f'<a href="/files/{n}">{n}</a>' for n in named]
        found = WHEELS.get(name) if kind == "files" else "".join(links).encode()
        self.answer(200 if found else 404, found or b"", "text/html" if links else "application/zip")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        spec = asked["object"]["spec"]
        parts = [(f"/spec/{kind}/{i}", c) for kind in ("containers", "initContainers")
                 for i, c in enumerate(spec.get(kind) or ())]
        named = [c for c in (spec, *(c for _, c in parts))
                 if {"runAsUser", "fsGroup"} & set(c.get("securityContext") or ())]
        said = {"uid": asked["uid"], "allowed": not named}
        if named:
            said["status"] = {"message": f"a user outside of the range {USER}/10000"}
        else:
            paths = ["/spec/securityContext/fsGroup", *(f"{p}/securityContext/runAsUser" for p, _ in parts)]
            patch = [{"op": "add", "path": path, "value": USER} for path in paths]
            said |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": said}
        self.answer(200, json.dumps(review).encode(), "application/json")
    def answer(self, code, body, kind):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


class Outside:
    """In the namespace of `admin`, whose home holds the users' kubeconfigs and `ca.pem`."""

    def __init__(self, admin: ClusterMatcha) -> None:
        self.admin = admin
        self.authority = trustme.CA()
        self.ca = admin.home / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)

    def start(self, wheels: dict[str, bytes]) -> None:
        """Makes the namespace; returns when the servers take connections."""
        space = self.admin.namespace
        found = self.authority.issue_cert(*map(self.host, _PORTS))
        tls = {"tls.crt": found.cert_chain_pems[0].bytes(), "tls.key": found.private_key_pem.bytes()}
        packed = {name: base64.b64encode(content).decode() for name, content in wheels.items()}
        web = {"web.py": _SERVER % USER, "wheels.json": json.dumps(packed)}
        self._apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}},
            _files("Secret", "tls", {n: c.decode() for n, c in tls.items()}),
            _files("ConfigMap", "web", web),
            *(each for name in _PORTS for each in _server(name)),
        )
        self.admin.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=120s", timeout=130)

    def host(self, name: str) -> str:
        return f"{name}.{self.admin.namespace}.svc"

    def url(self, name: str) -> str:
        scheme = "mysql" if name == DATABASE else "https"
        return f"{scheme}://{self.host(name)}:{_PORTS[name]}"

    def sql(self, statements: str) -> str:
        """As its administrator: what it answers, a line for each row."""
        command = 'exec mysql --user=root --password="$MYSQL_ROOT_PASSWORD" --skip-column-names'
        return self.admin.kubectl("exec", "--stdin", DATABASE, "--", "sh", "-c", command, stdin=statements)

    def objects(self) -> list[str]:
        """Keys in the bucket."""
        found = self.admin.kubectl("exec", STORE, "--", "find", f"/data/{BUCKET}", "-type", "f")
        return [line.removeprefix(f"/data/{BUCKET}/") for line in found.split()]

    def content(self, key: str) -> str:
        return self.admin.kubectl("exec", STORE, "--", "cat", f"/data/{BUCKET}/{key}")

    def space(self, name: str, **labels: str) -> None:
        """A namespace for a stack."""
        meta = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted", **labels}}
        self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})

    def user(self, name: str, *spaces: str) -> Path:
        """The kubeconfig of somebody new, who has the ready Role in these namespaces and no other right."""
        self.admin.kubectl("create", "serviceaccount", name)
        token = self.admin.kubectl("create", "token", name, "--duration=2h").strip()
        for space in spaces:
            bind(self.admin.kubeconfig, space, name, self.admin.namespace)
        config = json.loads(self.admin.kubectl("config", "view", "--raw", "--minify", "--output=json"))
        config["users"][0]["user"] = {"token": token}
        path = self.admin.home / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def assign_users(self) -> None:
        """In namespaces that bear the label."""
        service = {"namespace": self.admin.namespace, "name": WEB, "port": _PORTS[WEB]}
        bundle = base64.b64encode(self.authority.cert_pem.bytes()).decode()
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        self._apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": self.admin.namespace},
                "webhooks": [
                    {
                        "name": "users.example.org",
                        "clientConfig": {"service": service, "caBundle": bundle},
                        "rules": [rule],
                        "namespaceSelector": {"matchLabels": {ASSIGNS: "yes"}},
                        "sideEffects": "None",
                        "admissionReviewVersions": ["v1"],
                        "failurePolicy": "Fail",
                    }
                ],
            }
        )

    def remove(self) -> None:
        for kind in ("mutatingwebhookconfiguration", "namespace"):
            self.admin.kubectl(
                "delete", kind, self.admin.namespace, "--ignore-not-found", "--wait=false", code=None
            )

    def _apply(self, *objects: dict[str, Any]) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.admin.kubectl("apply", "--server-side", "--filename=-", stdin=listed)


def bind(kubeconfig: Path, space: str, user: str, home: str) -> None:
    """The ready Role to the service account `user` of the namespace `home`, as an administrator does."""
    admin = cluster(kubeconfig, space)
    admin.apply(permissions.role())
    admin.apply(
        RoleBinding(
            metadata=ObjectMeta(name=user),
            roleRef=RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name=permissions.NAME),
            subjects=[Subject(kind="ServiceAccount", name=user, namespace=home)],
        )
    )


def _files(kind: str, name: str, content: dict[str, str]) -> dict[str, Any]:
    key = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, key: content}


def _server(name: str) -> Sequence[dict[str, Any]]:
    """Its pod and Service. What it keeps goes with the pod."""
    pod = {
        "containers": [
            {
                "name": name,
                "image": _IMAGES[name],
                **_commands()[name],
                "env": [{"name": n, "value": v} for n, v in _ENV.get(name, {}).items()],
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
                "readinessProbe": {"tcpSocket": {"port": _PORTS[name]}, "periodSeconds": 1},
                "volumeMounts": [{"name": n, "mountPath": f"/{n}"} for n in ("tls", "web", "data")],
            }
        ],
        "securityContext": {"runAsUser": DATABASE_USER} if name == DATABASE else {},
        "terminationGracePeriodSeconds": 1,
        "volumes": [
            {"name": "tls", "secret": {"secretName": "tls"}},
            {"name": "web", "configMap": {"name": "web"}},
            {"name": "data", "emptyDir": {}},
        ],
    }
    service = {"selector": {"server": name}, "ports": [{"port": _PORTS[name]}]}
    return (
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"server": name}},
            "spec": pod,
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
    )


_ENV = {
    DATABASE: {"MYSQL_ROOT_PASSWORD": "theirs"},
    STORE: {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
}


def _commands() -> dict[str, dict[str, list[str]]]:
    """MySQL refuses whoever speaks no TLS."""
    tls = ["--ssl-cert=/tls/tls.crt", "--ssl-key=/tls/tls.key", "--require-secure-transport=ON"]
    gateway = f"versitygw --port :{_PORTS[STORE]} --cert /tls/tls.crt --key /tls/tls.key --region {REGION}"
    return {
        DATABASE: {"args": ["mysqld", *tls]},
        STORE: {"command": ["sh", "-c", f"mkdir /data/{BUCKET} && exec {gateway} posix /data"]},
        WEB: {"command": ["python", "-u", "/web/web.py"]},
    }
